"""The segment: one file on shared memory; created once, checked by everyone who attaches.

**Creation** is under a ``flock`` on the file. Whoever gets it first reserves the whole file with ``fallocate``, so that a file
system without room is an error here and never a SIGBUS at some later write; then sets up the tables and marks the header ready.
Those who come later find it ready. One who dies in between leaves it unready, and the next to get the lock starts over.

**Attaching** trusts nothing: type and owner of the file, its length, magic, ABI version, and a checksum over the geometry, which is
also computed again from page size and number of pages. What passed is then kept in private memory (``mm.atomics.Memory``), and
the core's bounds checks use that copy.

**Two mappings** of the file: one read-write, for the tables and for who fills a page; one read-only, where users' buffers point.

``multiprocessing.shared_memory`` would not do: its resource tracker unlinks segments that other processes still use.
"""

import contextlib
import fcntl
import mmap
import os
import re
import stat
import struct
import time
import zlib

from .errors import SegmentDamaged, SegmentError, SegmentFull, SegmentMismatch, SegmentNotFound
from .mm import atomics, layout, lru, mapping, page_alloc, slab
from .sizes import format_size, parse_size

PREFIX = "foliocache."
DEFAULT_SIZE = 4 << 30
DEFAULT_PAGE_SIZE = 16 << 10
DEFAULT_CLIENTS = 256
PAGE_SIZE_MIN = 4 << 10
PAGE_SIZE_MAX = 2 << 20
PAGES_MIN = 64
# An object's number has OBJECT_BITS bits, OBJECT_SHIFT of them count units within 256 bytes.
SIZE_MAX = 1 << (layout.OBJECT_BITS + layout.OBJECT_SHIFT)

_IDENTITY = struct.Struct("<QII QIIIII4x QQQQQ QQ I")
_SETUP_CLIENT = 0


def directory():
    """Where segments live: /dev/shm, or what FOLIOCACHE_DIR says (another tmpfs, for a container or a test)."""
    return os.environ.get("FOLIOCACHE_DIR", "/dev/shm")


def path_of(name):
    """The file of the segment called name. ValueError for a name that could leave the folder."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}", name):
        raise ValueError(f"segment name {name!r}: use 1 to 100 letters, digits, '_', '-' and '.', not starting with '.'")
    return os.path.join(directory(), PREFIX + name)


def segments():
    """Names of the segments of this folder that belong to this user."""
    with os.scandir(directory()) as entries:
        mine = [e.name for e in entries if e.name.startswith(PREFIX) and e.stat(follow_symlinks=False).st_uid == os.geteuid()]
    return sorted(name.removeprefix(PREFIX) for name in mine)


def remove(name):
    """Unlink a segment. Processes that are attached keep it until they go. Raises SegmentNotFound."""
    try:
        os.unlink(path_of(name))
    except FileNotFoundError:
        raise SegmentNotFound(f"there is no segment {name!r} in {directory()}") from None
    except PermissionError:
        raise SegmentError(f"segment {name!r} in {directory()} belongs to somebody else; its owner has to remove it") from None


def geometry(pages, page_size, clients):
    """Where each table begins and how large it is, in the terms of ``layout``; "size" is that of the file."""
    shape = {
        "npages": pages,
        "page_shift": page_size.bit_length() - 1,
        "nclients": clients,
        "nbuckets": max(64, _power_of_two(pages) // 4),
        "nghosts": _align(pages, layout.GHOST_WAYS),
    }
    at = layout.HEADER_SIZE
    for table, count, width in (
        ("clients", clients, layout.CLIENT_SIZE),
        ("buckets", shape["nbuckets"], 4),
        ("ghosts", shape["nghosts"], 4),
        ("memmap", pages, layout.FOLIO_SIZE),
    ):
        shape[table] = at
        at = _align(at + count * width, layout.LINE)
    shape["data"] = _align(at, page_size)
    shape["size"] = shape["data"] + pages * page_size
    return shape


class Segment:
    """A mapped segment: ``memory`` for the core, ``geometry``, and the file it came from."""

    def __init__(self, name, path, fd, shape):
        self.name = name
        self.path = path
        self.geometry = shape
        self.inode = _inode(fd)
        self.fd = os.dup(fd)
        rw = mmap.mmap(fd, shape["size"])
        ro = mmap.mmap(fd, shape["size"], prot=mmap.PROT_READ)
        self.memory = atomics.Memory(rw, ro, shape | {"fd": self.fd})
        self.mem = self.memory.handle

    def reopen(self):
        """Another open file description of the same file, also when it has been unlinked since."""
        return os.open(f"/proc/self/fd/{self.fd}", os.O_RDWR | os.O_CLOEXEC)

    def __del__(self, close=os.close):  # bound here, because the last lease may go when the interpreter has emptied its modules
        if hasattr(self, "fd"):
            close(self.fd)

    @property
    def page_size(self):
        return 1 << self.geometry["page_shift"]

    @property
    def pool_bytes(self):
        return self.geometry["npages"] * self.page_size

    @property
    def metadata_bytes(self):
        return self.geometry["data"]


def create_or_attach(name, size=None, page_size=None, mode=0o600, clients=None, any_owner=False):
    """The segment called name, made if there is none. See ``foliocache.open`` for parameters and errors."""
    path = path_of(name)
    wanted = _wanted(size, page_size, clients)
    while True:
        with _locked(_open(path, os.O_RDWR | os.O_CREAT, mode, name), fcntl.LOCK_EX) as fd:
            if _inode(fd) != _inode_of(path):
                continue  # somebody removed it between our open and our lock
            _check_file(fd, name, path, any_owner)
            if os.fstat(fd).st_size == 0 or _is_unready(fd):
                _create(fd, path, mode, **{key: value or _DEFAULTS[key] for key, value in wanted.items()})
            return _attach(fd, name, path, wanted)


def attach(name, any_owner=False):
    """The segment called name, with the parameters it has. Raises SegmentNotFound, SegmentError."""
    path = path_of(name)
    with _locked(_open(path, os.O_RDWR, 0, name), fcntl.LOCK_SH) as fd:  # waits for a creator
        _check_file(fd, name, path, any_owner)
        return _attach(fd, name, path, {})


_DEFAULTS = {"size": DEFAULT_SIZE, "page_size": DEFAULT_PAGE_SIZE, "clients": DEFAULT_CLIENTS}


def _wanted(size, page_size, clients):
    wanted = {
        "size": None if size is None else parse_size(size),
        "page_size": None if page_size is None else parse_size(page_size, "page_size"),
        "clients": clients,
    }
    page = wanted["page_size"] or DEFAULT_PAGE_SIZE
    if page & (page - 1) or not PAGE_SIZE_MIN <= page <= PAGE_SIZE_MAX:
        raise ValueError(f"page_size must be a power of two from 4KiB to 2MiB, not {format_size(page)}")
    pool = wanted["size"] or DEFAULT_SIZE
    if not PAGES_MIN * page <= pool <= SIZE_MAX:
        raise ValueError(
            f"size must be from {PAGES_MIN} pages ({format_size(PAGES_MIN * page)}) to {format_size(SIZE_MAX)}, not {format_size(pool)}"
        )
    if clients is not None and not (isinstance(clients, int) and 1 <= clients <= 65536):
        raise ValueError(f"clients must be a number from 1 to 65536, not {clients!r}")
    return wanted


def _open(path, flags, mode, name):
    try:
        return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    except FileNotFoundError:
        raise SegmentNotFound(f"there is no segment {name!r} in {directory()}; foliocache.open() creates one") from None
    except PermissionError:
        raise SegmentError(
            f"segment {name!r} ({path}) may not be opened: it belongs to another user, or lacks write permission"
        ) from None
    except OSError as error:
        raise SegmentError(f"segment {name!r} ({path}) cannot be opened: {error.strerror}") from error


@contextlib.contextmanager
def _locked(fd, how):
    """Hold the file's creation lock. Let go explicitly: a mapping and a duplicate keep the open file, and so its flock, alive."""
    try:
        fcntl.flock(fd, how)
        yield fd
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)


def _check_file(fd, name, path, any_owner):
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise SegmentError(f"{path} is not a regular file; remove it, or use another name than {name!r}")
    if found.st_uid != os.geteuid() and not any_owner:
        raise SegmentError(
            f"segment {name!r} belongs to uid {found.st_uid}, you are uid {os.geteuid()}; pass any_owner=True if you trust them"
        )


def _is_unready(fd):
    """Ours, but its creator died. A file that is not ours at all is left for _attach to refuse."""
    head = os.pread(fd, 16, 0)
    return not head.strip(b"\0") or struct.unpack("<QII", head)[::2] == (layout.MAGIC, layout.STATE_BUILDING)


def _create(fd, path, mode, size, page_size, clients):
    shape = geometry(size // page_size, page_size, clients) | {"fenced": _needs_fences()}
    os.ftruncate(fd, 0)
    try:
        os.posix_fallocate(fd, 0, shape["size"])
    except OSError as error:
        free = os.statvfs(path).f_bavail * os.statvfs(path).f_frsize
        os.unlink(path)
        raise SegmentFull(
            f"{directory()} has no room for a pool of {format_size(size)} with its tables ({format_size(shape['size'])}; "
            f"{format_size(free)} free): {error.strerror}. Ask for a smaller size, or enlarge it (docker run --shm-size=...)"
        ) from None
    os.fchmod(fd, mode)
    os.pwrite(fd, _identity(shape, layout.STATE_BUILDING), 0)
    segment = Segment("", path, fd, shape)
    _setup_tables(segment.memory.handle)
    os.pwrite(fd, _identity(shape, layout.STATE_READY), 0)


def _setup_tables(mem):
    page_alloc.setup(mem, _SETUP_CLIENT)
    lru.setup(mem)
    slab.setup(mem)
    mapping.setup(mem)


def _identity(shape, state):
    fields = [shape[key] for key in ("size", "page_shift", "npages", "nclients", "nbuckets", "nghosts")]
    places = [shape[key] for key in ("memmap", "data", "clients", "buckets", "ghosts")]
    packed = _IDENTITY.pack(
        layout.MAGIC,
        layout.ABI,
        state,
        *fields,
        *places,
        time.time_ns(),
        shape["npages"] << shape["page_shift"],
        shape["fenced"],
    )
    checksum = zlib.crc32(packed[layout.HDR_SIZE : layout.HDR_CHECKSUM] + packed[layout.HDR_MEMMAP :])
    return packed[: layout.HDR_CHECKSUM] + struct.pack("<I", checksum) + packed[layout.HDR_MEMMAP :]


def _attach(fd, name, path, wanted):
    shape = _read_identity(fd, name, path)
    found = {
        "size": shape["npages"] << shape["page_shift"],
        "page_size": 1 << shape["page_shift"],
        "clients": shape["nclients"],
    }
    if wanted.get("size"):
        wanted = wanted | {"size": wanted["size"] // found["page_size"] * found["page_size"]}
    differing = [key for key, value in wanted.items() if value not in (None, found[key])]
    if differing:
        asked = ", ".join(f"{key}={_shown(key, wanted[key])}" for key in differing)
        has = ", ".join(f"{key}={_shown(key, found[key])}" for key in differing)
        raise SegmentMismatch(
            f"segment {name!r} exists with {has}, but {asked} was asked for; leave it out, use another name, "
            f"or remove the segment first (foliocache rm {name})"
        )
    if not shape["fenced"] and _needs_fences():
        raise SegmentError(
            f"segment {name!r} was made by a process that may use membarrier(2), which is forbidden here (by seccomp, say), and its "
            f"users rely on it; make it anew from a process like this one (foliocache rm {name})"
        )
    return Segment(name, path, fd, shape)


def _needs_fences():
    """1 where membarrier(2) is not to be had, or not wanted (FOLIOCACHE_FENCES): every operation begins with a fence then.

    Registers this process for it otherwise.
    """
    return int(bool(os.environ.get("FOLIOCACHE_FENCES")) or atomics.membarrier_errno() != 0)


def _shown(key, value):
    return str(value) if key == "clients" else format_size(value)


def _read_identity(fd, name, path):
    """The geometry in the header, once everything about it has been checked."""
    advice = f"remove it (foliocache rm {name}) or use another name"
    head = os.pread(fd, _IDENTITY.size, 0)
    if len(head) < _IDENTITY.size or struct.unpack_from("<Q", head)[0] != layout.MAGIC:
        raise SegmentDamaged(f"{path} is not a foliocache segment; {advice}")
    (
        _, abi, state, size, page_shift, pages, clients, buckets, ghosts,
        memmap, data, clients_at, buckets_at, ghosts_at, _, _, fenced,
    ) = _IDENTITY.unpack(head)  # fmt: skip
    if abi != layout.ABI:
        raise SegmentError(f"segment {name!r} has layout version {abi}, this foliocache needs {layout.ABI}; {advice}")
    checksum = zlib.crc32(head[layout.HDR_SIZE : layout.HDR_CHECKSUM] + head[layout.HDR_MEMMAP :])
    if checksum != struct.unpack_from("<I", head, layout.HDR_CHECKSUM)[0] or state != layout.STATE_READY:
        raise SegmentDamaged(f"segment {name!r} is damaged: its header does not match its checksum; {advice}")
    if not 12 <= page_shift <= 21 or not pages or not clients:
        raise SegmentDamaged(f"segment {name!r} is damaged: its header makes no sense; {advice}")
    shape = geometry(pages, 1 << page_shift, clients)
    said = (size, buckets, ghosts, memmap, data, clients_at, buckets_at, ghosts_at)
    if said != tuple(shape[key] for key in ("size", "nbuckets", "nghosts", "memmap", "data", "clients", "buckets", "ghosts")):
        raise SegmentDamaged(f"segment {name!r} is damaged: its header contradicts itself; {advice}")
    if os.fstat(fd).st_size != size:
        raise SegmentDamaged(f"segment {name!r} is truncated: {os.fstat(fd).st_size} bytes instead of {size}; {advice}")
    return shape | {"fenced": fenced}


def _inode(fd):
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def _inode_of(path):
    with contextlib.suppress(FileNotFoundError):
        found = os.stat(path, follow_symlinks=False)
        return found.st_dev, found.st_ino


def _power_of_two(n):
    return 1 << (n - 1).bit_length()


def _align(n, to):
    return (n + to - 1) // to * to
