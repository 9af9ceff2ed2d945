"""How a pool's file is created: whole, or not at all.

The file is made without a name (O_TMPFILE). The tables are reserved with ``fallocate``, so that a file system without room is
an error here and not a SIGBUS at a later write; the rest is sparse, and gets its memory when it is needed (``mm.backing``).
Then the tables are set up, and only then the file gets its name, by a ``link`` that fails if another process was faster. So a
file with a pool's name is always complete; a creator that is interrupted or killed leaves nothing; and a file that already has
the name is never written to. Where the file system has no files without a name, or they cannot be linked, the file is made
under a hidden name, and the next creator removes a file that a killed one has left.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import threading

from ..errors import PoolError, PoolFullError, PoolNotFoundError
from ..mm import backing, layout, lru, mapping, names, page_alloc, slab
from ..sizes import format_size
from . import files, geometry, header, headroom, machine
from .descriptor import Descriptor, open_file
from .files import directory
from .geometry import Geometry, Wanted
from .segment import Segment, attach, map_file, needs_fences

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM)
_RESERVED_AT_ONCE = 4 << 20  # bytes; after a signal the kernel starts from the beginning of the piece
# How long a creator waits for another one of the same pool: seconds, and bytes per second that the other may need in addition.
_CREATION_WAIT = 60.0
_CREATION_RATE = 128 << 20

_creation = threading.RLock()  # a record lock belongs to the process, so its threads take turns by this lock


def _after_fork_in_child() -> None:
    global _creation
    _creation = threading.RLock()


os.register_at_fork(after_in_child=_after_fork_in_child)


def create_or_attach(name: str, wanted: Wanted, mode: int = 0o600, any_owner: bool = False, exact: bool = False) -> Segment:
    """Return the segment of a pool, created if there is none. ``wanted``: see ``geometry.parameters``. Raises PoolError."""
    path = files.path_of(name)
    while True:
        with contextlib.suppress(PoolNotFoundError):
            return attach(name, any_owner, wanted, exact)
        made = _create(name, path, mode, **geometry.for_new_pool(wanted))
        if made is not None:
            return made


def _create(
    name: str, path: str, mode: int, size: int, page_size: int, clients: int, max_size: int, chunk_shift: int
) -> Segment | None:
    """Return a new segment under its name; None if another process has made one meanwhile. Raises PoolFullError, PoolError."""
    shape = geometry.compute(max_size // page_size, page_size, clients, size // page_size, chunk_shift)
    shape |= {"fenced": needs_fences()}
    try:
        with _creation, files.turn(name, path, _CREATION_WAIT + shape["memmap"] / _CREATION_RATE) as alone:
            if os.path.lexists(path):
                return None
            if alone:
                files.remove_leftovers(path)
            return _make_nameless(name, path, mode, shape) or _make_hidden(name, path, mode, shape)
    except FileExistsError:
        return None
    except OSError as error:
        if isinstance(error, PoolError):
            raise
        raise _failure(error, name, shape) from None


def _failure(error: OSError, name: str, shape: Geometry) -> PoolError:
    """Return the PoolError that says why a pool could not be created."""
    tables = format_size(geometry.table_bytes(shape, geometry.first_slots(shape)))
    if error.errno not in _FULL:
        return PoolError(f"pool {name!r} cannot be made in {directory()}: {error.strerror}")
    free = os.statvfs(directory())
    advice = (
        "enlarge it (docker run --shm-size=...). A pool that was removed has its memory until the processes that use it end"
    )
    if error.errno == errno.EFBIG:
        advice = "allow larger files (ulimit -f)"
    if error.errno == errno.ENOMEM:
        return PoolFullError(
            f"there is no memory for the tables of a pool of {format_size(shape['pool'])} ({tables}), on "
            "this machine or in this cgroup. Ask for a smaller size, or raise the cgroup's limit"
        )
    return PoolFullError(
        f"{directory()} has no room for the tables of a pool of {format_size(shape['pool'])} "
        f"({tables}; {format_size(free.f_bavail * free.f_frsize)} free): {error.strerror}. "
        f"Ask for a smaller {'max_size' if error.errno == errno.EFBIG else 'size'}, or {advice}"
    )


def _make_nameless(name: str, path: str, mode: int, shape: Geometry) -> Segment | None:
    """Make the segment in a file that gets its name when it is complete. None where that is impossible."""
    segment: Segment | None
    file: Descriptor | None
    try:
        file = open_file(directory(), os.O_RDWR | os.O_TMPFILE, private=True)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            return None
        raise
    try:
        segment = _build(name, path, file, mode, shape)
        if _link_nameless(file, path):
            segment.share()
        else:
            segment = file = None
    except BaseException as error:
        _forget_frames(error)
        segment = file = None
        raise
    return segment


def _link_nameless(file: Descriptor, path: str) -> bool:
    """Give a file without a name this one. False if that is impossible; FileExistsError if there is a file."""
    try:
        file.link(path)
    except FileExistsError:
        raise
    except OSError:  # no /proc, for example
        return False
    return True


def _make_hidden(name: str, path: str, mode: int, shape: Geometry) -> Segment:
    """Make the segment in a file that has a hidden name until it is complete."""
    hidden = files.hidden(path, os.urandom(8).hex())
    segment: Segment | None
    file: Descriptor | None
    try:
        file = open_file(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL, private=True)
        segment = _build(name, path, file, mode, shape)
        _link(hidden, path)
        files.unlink(hidden)
    except BaseException as error:
        files.unlink(hidden)
        _forget_frames(error)
        segment = file = None
        raise
    segment.share()
    return segment


def _link(hidden: str, path: str) -> None:
    try:
        os.link(hidden, path)
    except FileNotFoundError:  # a signal handler has made the pool meanwhile, and cleaned up
        raise FileExistsError(path) from None


def _forget_frames(error: BaseException) -> None:
    """Release the reserved memory even if the exception, with its traceback, is kept."""
    import traceback  # here: creation seldom fails, and this takes 1/20 of the time of importing foliocache

    traceback.clear_frames(error.__traceback__)


def _build(name: str, path: str, file: Descriptor, mode: int, shape: Geometry) -> Segment:
    size, slots = shape["size"], geometry.first_slots(shape)
    most, _ = resource.getrlimit(resource.RLIMIT_FSIZE)  # beyond it there is also a signal, which may kill
    if most != resource.RLIM_INFINITY and size > most:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    _check_room(geometry.table_bytes(shape, slots))
    os.ftruncate(file.fd, size)
    map_file(name, file, file, size)  # before the memory is reserved; a child forked meanwhile does not keep it
    for begin, end in ((0, shape["clients"] + slots * layout.CLIENT_SIZE), (shape["buckets"], shape["memmap"])):
        for offset in range(begin, end, _RESERVED_AT_ONCE):
            os.posix_fallocate(file.fd, offset, min(_RESERVED_AT_ONCE, end - offset))
    os.fchmod(file.fd, mode)
    os.pwrite(file.fd, header.pack(shape, layout.STATE_BUILDING), 0)
    segment = Segment(name, path, file, shape)
    page_alloc.setup(segment.mem, shape["pool"] >> shape["page_shift"])
    for _ in range(slots):
        backing.back_slot(segment.mem)
    _setup_tables(segment.mem)
    os.pwrite(file.fd, header.pack(shape, layout.STATE_READY), 0)
    return segment


def _check_room(size: int) -> None:
    """Raise OSError before other processes find the file system full, or the kernel kills one of this cgroup. A file system
    without a limit reports 0 of 0 free."""
    found = os.statvfs(directory())
    if found.f_blocks and size > found.f_bavail * found.f_frsize:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    left = headroom.spare_now(machine.groups())
    if left is not None and size > left:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


def _setup_tables(mem: int) -> None:
    lru.setup(mem)
    slab.setup(mem)
    mapping.setup(mem)
    names.setup(mem)
