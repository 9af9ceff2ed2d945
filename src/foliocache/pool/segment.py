"""The segment: a pool's file, mapped; and how a process attaches to it.

**Attaching** trusts nothing: type and owner of the file, checked before it is opened and afterwards, and everything in its
header, including a geometry that is computed again from page size, pages and clients. The geometry that passed is kept in
private memory (``mm.atomics.Memory``), and the core's bounds checks use that copy. Attaching takes no lock and waits for no
other process.

**Two mappings** of the file: one read-write, for the tables and for filling pages; one read-only, to which users' buffers
point, made from a descriptor that is open for reading only.

``multiprocessing.shared_memory`` is not used because its resource tracker unlinks segments that other processes still use.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
from typing import Literal, NoReturn, TypeAlias

from ..errors import FoliocacheError, PoolDamagedError, PoolError, PoolNotFoundError
from ..mm import atomics, backing, layout, page_alloc
from ..observe.records import Finding
from ..sizes import format_size
from . import header, headroom, machine
from .descriptor import Descriptor, open_file, reopen_to_read
from .files import OPEN_FLAGS, directory, inode, path_of
from .geometry import Geometry, Wanted, check_parameters, table_bytes
from .mapped import Mapped

Bound: TypeAlias = Literal["size", "filesystem", "cgroup", "memory"]


class Segment:
    """A mapped segment: ``memory`` for the core, ``geometry``, and the open ``file``."""

    def __init__(self, name: str, path: str, file: Descriptor, shape: Geometry) -> None:
        self.name = name
        self.path = path
        self.geometry = shape
        self.file = file
        self.inode: tuple[int, int] = inode(os.fstat(file.fd))
        self.file_to_read: Descriptor = _opened_to_read(file, path)
        mapped = map_file(name, file, self.file_to_read, shape["size"])
        populate = _how(path, mapped[0], shape["data"]) if shape["chunk_shift"] == layout.HUGE_SHIFT else 0
        self.memory: atomics.Memory = atomics.Memory(*mapped, shape | {"fd": file.fd, "populate": populate})
        self._groups: tuple[str, ...] = machine.groups()
        self.group: int = _number_of(self._groups)
        headroom.watch(self.memory, self._groups)
        self.mem: int = self.memory.handle

    def __reduce__(self) -> NoReturn:
        raise TypeError("a mapped segment belongs to one process and cannot be copied or pickled; attach to it by its name")

    @property
    def fd(self) -> int:
        return self.file.fd

    @property
    def fd_to_read(self) -> int:
        return self.file_to_read.fd

    def share(self) -> None:
        """Keep the files open in children that are forked from now on. Called when the segment has its name."""
        self.file.share()
        self.file_to_read.share()

    def look_at_own_groups(self) -> None:
        """In a process that becomes a client: look at the cgroups that it is in now, before the segment gets memory."""
        groups = machine.groups()
        if groups and groups != self._groups:
            self._groups = groups
            self.group = _number_of(groups)
            headroom.watch(self.memory, groups)

    @property
    def page_size(self) -> int:
        return 1 << self.geometry["page_shift"]

    @property
    def chunk(self) -> int:
        """The bytes that get memory together."""
        return 1 << max(self.geometry["chunk_shift"], self.geometry["page_shift"])

    @property
    def pages(self) -> int:
        """How many pages may have memory at once, for now."""
        return backing.limit(self.mem)

    @property
    def pool_bytes(self) -> int:
        return self.pages * self.page_size

    @property
    def max_bytes(self) -> int:
        """The most that ``pool_bytes`` can be."""
        return self.geometry["npages"] * self.page_size

    @property
    def first_bytes(self) -> int:
        """What ``pool_bytes`` was when the pool was made. It is the same in every process at all times, so the units of objects
        are chosen by it."""
        return self.geometry["pool"]

    def bound_by(self) -> Bound:
        """Return which limit leaves the least room for more memory."""
        found = os.fstatvfs(self.fd)
        cgroup, memory = headroom.spare(self.memory)
        room: dict[Bound, int | None] = {
            "size": max(0, backing.limit(self.mem) - page_alloc.backed_pages(self.mem)) * self.page_size,
            "filesystem": found.f_bavail * found.f_frsize if found.f_blocks else None,
            "cgroup": cgroup,
            "memory": memory,
        }
        known = {bound: left for bound, left in room.items() if left is not None}
        return min(known, key=known.__getitem__)

    def unbacked(self) -> list[Finding]:
        """Return a finding if the file has less memory than the tables, the descriptors and the marked chunks need.

        The caller keeps others from giving memory back, and the marks are read first: what they say now, the file has then. How
        much each chunk has, the kernel does not tell: to it, memory that was never written to is a hole.
        """
        words = (self.geometry["memmap"] - self.geometry["backed"]) // 4
        marked = sum(self.memory.peek32(self.geometry["backed"] + 4 * n).bit_count() for n in range(words))
        pages = min(marked * self.chunk, self.max_bytes)
        described = min(self.memory.peek32(layout.PAGES_DESCRIBED), self.geometry["npages"])
        need = table_bytes(self.geometry, self.slots) + described * layout.FOLIO_SIZE + pages
        found = os.fstat(self.fd).st_blocks * 512
        if found >= need:
            return []
        return [Finding("backing", "file", f"has {found} bytes of memory, but its tables and marks say at least {need}")]

    @property
    def slots(self) -> int:
        """How many client slots have memory. The others have never been held."""
        return min(self.memory.peek32(layout.SLOTS_BACKED), self.geometry["nclients"])

    @property
    def metadata_bytes(self) -> int:
        """The bytes of the tables when as many pages have descriptors as may have memory."""
        return table_bytes(self.geometry, self.slots) + self.pages * layout.FOLIO_SIZE


def _number_of(groups: tuple[str, ...]) -> int:
    """Return a number for the processes whose memory the same limits bind: those of one cgroup."""
    try:
        found = os.stat(groups[0]).st_ino
    except (IndexError, OSError):
        found = 0
    return found % layout.WATCH_GROUPS + 1


def _opened_to_read(file: Descriptor, path: str) -> Descriptor:
    """Return a Descriptor of the file that is open for reading only; ``file`` itself if that is impossible (no /proc, no name
    yet)."""
    try:
        return reopen_to_read(file, path)
    except OSError:
        return file


def _how(path: str, mapped: Mapped, data: int) -> int:
    """Return how a mapping gets huge pages behind the data: FC_MAP_HUGE, for which it is asked here, or FC_COLLAPSE; 0 if the
    file system gives them by itself, or there are none."""
    found = machine.huge_pages(os.path.dirname(path))
    if found == "advised":
        try:
            mapped.madvise(mmap.MADV_HUGEPAGE, data)
        except (OSError, AttributeError):  # not in this kernel
            return 0
        return 1
    return 2 if found == "collapsed" else 0


def map_file(name: str, file: Descriptor, to_read: Descriptor, size: int) -> tuple[Mapped, Mapped]:
    """Map the whole file twice: return (read-write, read-only). Raises PoolError."""
    try:
        return Mapped(file.fd, size, True), Mapped(to_read.fd, size, False)
    except OSError as error:
        raise PoolError(
            f"pool {name!r} cannot be mapped: {error.strerror}. A process needs address space for it twice, "
            f"{format_size(2 * size)}; raise the limit (ulimit -v), or make a smaller pool"
        ) from None
    except ValueError:
        raise PoolDamagedError(
            f"pool {name!r} is being truncated by another process; remove it (foliocache rm {name})"
        ) from None


def attach(name: str, any_owner: bool = False, wanted: Wanted | None = None, exact: bool = False) -> Segment:
    """Attach to the segment of a pool, which must have the parameters in ``wanted`` (see ``check_parameters``).

    Raises PoolNotFoundError, PoolError.
    """
    path = path_of(name)
    locate(name, any_owner)
    try:
        file = open_file(path, OPEN_FLAGS)
    except OSError as error:
        raise _refusal(error, name, path) from None
    _check_file(os.fstat(file.fd), name, path, any_owner)
    shape = header.read(file.fd, name, path)
    if not shape["fenced"] and needs_fences():
        raise PoolError(
            f"pool {name!r} was made by a process that may use membarrier(2), and its users rely on it, but membarrier(2) is "
            f"forbidden here (by seccomp, say); remove it (foliocache rm {name}) and create it from a process like this one"
        )
    segment = Segment(name, path, file, shape)
    check_parameters(name, shape, segment.pool_bytes, wanted or {}, exact)
    segment.share()
    return segment


def locate(name: str, any_owner: bool = False) -> tuple[int, int]:
    """Return the (device, inode) of a pool's file, without opening it. Raises PoolNotFoundError, PoolError."""
    path = path_of(name)
    try:
        found = os.lstat(path)
    except OSError as error:
        raise _refusal(error, name, path) from None
    _check_file(found, name, path, any_owner)
    return inode(found)


def needs_fences() -> int:
    """Return 1 if membarrier(2) cannot be used, or is not wanted (FOLIOCACHE_FENCES): every operation then begins with a fence.

    Registers this process for membarrier(2) otherwise.
    """
    return int(bool(os.environ.get("FOLIOCACHE_FENCES")) or atomics.membarrier_errno() != 0)


def _refusal(error: OSError, name: str, path: str) -> FoliocacheError:
    """Return the PoolError that says why a pool's file cannot be opened."""
    if isinstance(error, FileNotFoundError) and os.path.isdir(directory()):
        return PoolNotFoundError(f"there is no pool {name!r} in {directory()}; foliocache.open() creates one")
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return PoolError(f"there is no folder {directory()} for pool {name!r}; make it, or set FOLIOCACHE_DIR to another one")
    if isinstance(error, PermissionError):
        return PoolError(f"pool {name!r} ({path}) may not be opened: it belongs to another user, or lacks write permission")
    advice = "; close some, or raise the limit (ulimit -n)" if error.errno in (errno.EMFILE, errno.ENFILE) else ""
    return PoolError(f"pool {name!r} ({path}) cannot be opened: {error.strerror}{advice}")


def _check_file(found: os.stat_result, name: str, path: str, any_owner: bool) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise PoolError(f"{path} is not a regular file; remove it, or use another name than {name!r}")
    if found.st_uid != os.geteuid() and not any_owner:
        raise PoolError(
            f"pool {name!r} belongs to uid {found.st_uid}, you are uid {os.geteuid()}; pass any_owner=True if you trust them"
        )
