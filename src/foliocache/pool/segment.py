"""The segment: one file on shared memory; created once, checked by everyone who attaches.

**Creation** makes a file without a name (O_TMPFILE), reserves all of it with ``fallocate``, so that a file system without room is an
error here and never a SIGBUS at some later write, sets up the tables, and gives it its name only then, by a ``link`` that fails if
somebody was faster. So under its name a segment is always whole; whoever is interrupted or killed before leaves nothing; and what
is found under the name is never written to. Where the file system knows no such files, or they cannot be linked, the file is made
under another, hidden name first; the next creator removes what a killed one has left there.

Creators of one segment take turns, by a record lock on a hidden file of their own, so that two at once do not need the room for
two. Nothing but that depends on it: it dies with its holder, is not inherited by fork, another user's is not heeded.

**Attaching** trusts nothing: type and owner of the file, asked before it is opened and afterwards, its length, magic, ABI version, and
a checksum over the geometry, which is also computed again from page size and number of pages. What passed is then kept in private
memory (``mm.atomics.Memory``), and the core's bounds checks use that copy. It takes no lock and waits for nobody.

**Two mappings** of the file: one read-write, for the tables and for who fills a page; one read-only, where users' buffers point.

``multiprocessing.shared_memory`` would not do: its resource tracker unlinks segments that other processes still use.
"""

import contextlib
import errno
import fcntl
import mmap
import os
import re
import resource
import secrets
import stat
import struct
import threading
import time
import traceback
import zlib

from ..errors import PoolDamagedError, PoolError, PoolFullError, PoolMismatchError, PoolNotFoundError
from ..mm import atomics, layout, lru, mapping, names, page_alloc, slab
from ..sizes import format_size, parse_count, parse_size
from .descriptor import open_file

PREFIX = "foliocache."
DEFAULT_SIZE = 4 << 30
DEFAULT_PAGE_SIZE = 16 << 10
DEFAULT_CLIENTS = 256
PAGE_SIZE_MIN = 4 << 10
PAGE_SIZE_MAX = 2 << 20
PAGES_MIN = 64
# An object's number has OBJECT_BITS bits, OBJECT_SHIFT of them count units within 256 bytes.
SIZE_MAX = 1 << (layout.OBJECT_BITS + layout.OBJECT_SHIFT)

_IDENTITY = struct.Struct("<QII QIIIII4x QQQQQ QQ II Q")
_SETUP_CLIENT = 0
CLIENTS_MAX = 65536
_HIDDEN = ".foliocache."
_ATTACH = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM)
_RESERVED_AT_ONCE = 4 << 20  # a signal makes the kernel begin such a piece again
# How long a creator waits for another one of the same segment: seconds, and bytes per second that the other may need on top.
_CREATION_WAIT = 60.0
_CREATION_RATE = 128 << 20
_LOOK_AGAIN = 0.01
_RECORD_LOCK = struct.Struct("@hhqqi0q")


def directory():
    """where pools live: /dev/shm, or what FOLIOCACHE_DIR says (another tmpfs, for a container or a test)."""
    return os.path.abspath(os.environ.get("FOLIOCACHE_DIR") or "/dev/shm")


def path_of(name):
    """The file of the segment called name. ValueError for a name that could leave the folder."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}", name):
        raise ValueError(f"pool name {name!r}: use 1 to 100 letters, digits, '_', '-' and '.', not starting with '.'")
    return os.path.join(directory(), PREFIX + name)


def pools():
    """Names of the pools of this folder that belong to this user. Raises PoolError if the folder cannot be listed."""
    try:
        with os.scandir(directory()) as entries:
            mine = [entry.name for entry in entries if entry.name.startswith(PREFIX) and _is_my_file(entry)]
    except OSError as error:
        raise PoolError(f"{directory()} cannot be listed: {error.strerror}; FOLIOCACHE_DIR says where pools live") from None
    return sorted(name.removeprefix(PREFIX) for name in mine)


def _is_my_file(entry):
    with contextlib.suppress(FileNotFoundError):
        found = entry.stat(follow_symlinks=False)
        return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()
    return False


def remove(name):
    """Unlink a pool. Processes that are attached keep it until they go. Raises PoolNotFoundError, PoolError."""
    path = path_of(name)
    _sweep(path)
    try:
        os.unlink(path)
    except FileNotFoundError:
        raise PoolNotFoundError(f"there is no pool {name!r} in {directory()}") from None
    except PermissionError:
        raise PoolError(f"pool {name!r} in {directory()} belongs to somebody else; its owner has to remove it") from None
    except OSError as error:
        raise PoolError(f"{path} cannot be removed: {error.strerror}") from None


def geometry(pages, page_size, clients):
    """Where each table begins and how large it is, in the terms of ``layout``; "size" is that of the file."""
    shape = {
        "npages": pages,
        "page_shift": page_size.bit_length() - 1,
        "nclients": clients,
        "nbuckets": max(64, _power_of_two(pages) // 4),
        "nghosts": _align(pages, layout.GHOST_WAYS),
        "nnames": _align(pages * page_size // (layout.NAME_SHARE * layout.NAME_SIZE), layout.NAME_WAYS),
    }
    at = layout.HEADER_SIZE
    for table, count, width in (
        ("clients", clients, layout.CLIENT_SIZE),
        ("buckets", shape["nbuckets"], 4),
        ("ghosts", shape["nghosts"], 4),
        ("names", shape["nnames"], 4),
        ("memmap", pages, layout.FOLIO_SIZE),
    ):
        shape[table] = at
        at = _align(at + count * width, layout.LINE)
    shape["data"] = _align(at, page_size)
    shape["size"] = shape["data"] + pages * page_size
    return shape


class Segment:
    """A mapped segment: ``memory`` for the core, ``geometry``, and the open ``file`` it came from."""

    def __init__(self, name, path, file, shape):
        self.name = name
        self.path = path
        self.geometry = shape
        self.file = file
        self.inode = _inode(os.fstat(file.fd))
        self.memory = atomics.Memory(*_map(name, file, shape["size"]), shape | {"fd": file.fd})
        self.mem = self.memory.handle

    def __reduce__(self):
        raise TypeError("a mapped segment belongs to one process and cannot be copied or pickled; attach to it by its name")

    @property
    def fd(self):
        return self.file.fd

    @property
    def page_size(self):
        return 1 << self.geometry["page_shift"]

    @property
    def pool_bytes(self):
        return self.geometry["npages"] * self.page_size

    @property
    def metadata_bytes(self):
        return self.geometry["data"]


def _map(name, file, size):
    """The whole file twice: read-write, read-only. Raises PoolError."""
    try:
        return mmap.mmap(file.fd, size), mmap.mmap(file.fd, size, prot=mmap.PROT_READ)
    except OSError as error:
        raise PoolError(
            f"pool {name!r} cannot be mapped: {error.strerror}. A process needs address space for it twice, {format_size(2 * size)}; "
            "raise the limit (ulimit -v), or make a smaller pool"
        ) from None
    except ValueError:
        raise PoolDamagedError(f"pool {name!r} is being truncated by somebody; remove it (foliocache rm {name})") from None


# Attaching.


def create_or_attach(name, wanted, mode=0o600, any_owner=False):
    """The segment called name, made if there is none: ``wanted`` is what ``parameters`` returns. Raises PoolError."""
    path = path_of(name)
    while True:
        with contextlib.suppress(PoolNotFoundError):
            return attach(name, any_owner, wanted)
        made = _create(name, path, mode, **{key: value or _DEFAULTS[key] for key, value in wanted.items()})
        if made is not None:
            return made


def attach(name, any_owner=False, wanted=None):
    """The segment called name, with the parameters it has, or as ``wanted``. Raises PoolNotFoundError, PoolError."""
    path = path_of(name)
    locate(name, any_owner)
    try:
        file = open_file(path, _ATTACH)
    except OSError as error:
        raise _refusal(error, name, path) from None
    _check_file(os.fstat(file.fd), name, path, any_owner)
    shape = _read_identity(file.fd, name, path)
    check_parameters(name, shape, wanted or {})
    if not shape["fenced"] and _needs_fences():
        raise PoolError(
            f"pool {name!r} was made by a process that may use membarrier(2), which is forbidden here (by seccomp, say), and its "
            f"users rely on it; make it anew from a process like this one (foliocache rm {name})"
        )
    return Segment(name, path, file, shape)


def locate(name, any_owner=False):
    """What tells the file of the segment called name from others, without opening it. Raises PoolNotFoundError, PoolError."""
    path = path_of(name)
    try:
        found = os.lstat(path)
    except OSError as error:
        raise _refusal(error, name, path) from None
    _check_file(found, name, path, any_owner)
    return _inode(found)


def _refusal(error, name, path):
    if isinstance(error, FileNotFoundError) and os.path.isdir(directory()):
        return PoolNotFoundError(f"there is no pool {name!r} in {directory()}; foliocache.open() creates one")
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return PoolError(f"there is no folder {directory()} for pool {name!r}; make it, or set FOLIOCACHE_DIR to another one")
    if isinstance(error, PermissionError):
        return PoolError(f"pool {name!r} ({path}) may not be opened: it belongs to another user, or lacks write permission")
    advice = "; close some, or raise the limit (ulimit -n)" if error.errno in (errno.EMFILE, errno.ENFILE) else ""
    return PoolError(f"pool {name!r} ({path}) cannot be opened: {error.strerror}{advice}")


def _check_file(found, name, path, any_owner):
    if not stat.S_ISREG(found.st_mode):
        raise PoolError(f"{path} is not a regular file; remove it, or use another name than {name!r}")
    if found.st_uid != os.geteuid() and not any_owner:
        raise PoolError(
            f"pool {name!r} belongs to uid {found.st_uid}, you are uid {os.geteuid()}; pass any_owner=True if you trust them"
        )


_DEFAULTS = {"size": DEFAULT_SIZE, "page_size": DEFAULT_PAGE_SIZE, "clients": DEFAULT_CLIENTS}


def parameters(size=None, page_size=None, clients=None):
    """What somebody asks of a segment, as ``create_or_attach`` takes it. Raises ValueError."""
    wanted = {
        "size": None if size is None else parse_size(size),
        "page_size": None if page_size is None else parse_size(page_size, "page_size"),
        "clients": None if clients is None else parse_count(clients, "clients"),
    }
    page = wanted["page_size"] or DEFAULT_PAGE_SIZE
    if page & (page - 1) or not PAGE_SIZE_MIN <= page <= PAGE_SIZE_MAX:
        raise ValueError(f"page_size must be a power of two from 4KiB to 2MiB, not {page_size!r}")
    pool = wanted["size"] or DEFAULT_SIZE
    if not PAGES_MIN * page <= pool <= SIZE_MAX:
        raise ValueError(
            f"size must be from {PAGES_MIN} pages ({format_size(PAGES_MIN * page)}) to {format_size(SIZE_MAX)}, not {format_size(pool)}"
        )
    if clients is not None and not 1 <= wanted["clients"] <= CLIENTS_MAX:
        raise ValueError(f"clients must be a number from 1 to {CLIENTS_MAX}, not {clients!r}")
    return wanted


def permissions(mode):
    """mode as a number that a segment can have. Raises ValueError."""
    number = parse_count(mode, "mode", "permissions, such as 0o600")
    if not 0 <= number <= 0o777 or number & 0o600 != 0o600:
        shown = oct(number) if number >= 0 else repr(mode)
        raise ValueError(f"mode must be permissions with which the owner may read and write, such as 0o600, not {shown}")
    return number


def check_parameters(name, shape, wanted):
    """PoolMismatchError, if a segment of this geometry is not as wanted."""
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
        raise PoolMismatchError(
            f"pool {name!r} exists with {has}, but {asked} was asked for; leave it out, use another name, "
            f"or remove the pool first (foliocache rm {name})"
        )


# Creation.


_creation = threading.RLock()  # a record lock is the process's, so its threads take turns by this one


def _after_fork_in_child():
    global _creation
    _creation = threading.RLock()


os.register_at_fork(after_in_child=_after_fork_in_child)


def _create(name, path, mode, size, page_size, clients):
    """A new segment under its name; None if somebody else has made one meanwhile. Raises PoolFullError, PoolError."""
    shape = geometry(size // page_size, page_size, clients) | {"fenced": _needs_fences()}
    try:
        with _creation, _turn(name, path, shape["size"]) as alone:
            if os.path.lexists(path):
                return None
            if alone:
                _unlink_all(_leftovers(path))
            return _make_nameless(name, path, mode, shape) or _make_hidden(name, path, mode, shape)
    except FileExistsError:
        return None
    except OSError as error:
        if isinstance(error, PoolError):
            raise
        raise _failure(error, name, shape) from None


def _failure(error, name, shape):
    if error.errno not in _FULL:
        return PoolError(f"pool {name!r} cannot be made in {directory()}: {error.strerror}")
    free = os.statvfs(directory())
    pool = shape["npages"] << shape["page_shift"]
    advice = "allow larger files (ulimit -f)" if error.errno == errno.EFBIG else "enlarge it (docker run --shm-size=...)"
    return PoolFullError(
        f"{directory()} has no room for a pool of {format_size(pool)} with its tables ({format_size(shape['size'])}; "
        f"{format_size(free.f_bavail * free.f_frsize)} free): {error.strerror}. Ask for a smaller size, or {advice}"
    )


def _make_nameless(name, path, mode, shape):
    """The segment, made in a file that has no name before it is whole; None where that cannot be done."""
    try:
        file = open_file(directory(), os.O_RDWR | os.O_TMPFILE, private=True)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            return None
        raise
    try:
        segment = _build(name, path, file, mode, shape)
        if _link_nameless(file, path):
            file.share()
        else:
            segment = file = None
    except BaseException as error:
        _forget_frames(error)
        segment = file = None
        raise
    return segment


def _link_nameless(file, path):
    """Whether a nameless file could be given this name. Raises FileExistsError."""
    try:
        file.link(path)
    except FileExistsError:
        raise
    except OSError:  # no /proc, for example
        return False
    return True


def _make_hidden(name, path, mode, shape):
    """The same by way of a hidden name."""
    hidden = _hidden(path, secrets.token_hex(8))
    try:
        file = open_file(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL, private=True)
        segment = _build(name, path, file, mode, shape)
        _link(hidden, path)
        _unlink(hidden)
    except BaseException as error:
        _unlink(hidden)
        _forget_frames(error)
        segment = file = None
        raise
    file.share()
    return segment


def _link(hidden, path):
    try:
        os.link(hidden, path)
    except FileNotFoundError:  # a signal's handler has made the segment meanwhile, and cleaned up
        raise FileExistsError(path) from None


def _forget_frames(error):
    """Whoever catches the exception may keep it for long; the memory that was reserved is not to be kept with it."""
    traceback.clear_frames(error.__traceback__)


def _build(name, path, file, mode, shape):
    size = shape["size"]
    most, _ = resource.getrlimit(resource.RLIMIT_FSIZE)  # beyond it there is also a signal, which may kill
    if most != resource.RLIM_INFINITY and size > most:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    _check_room(size)
    os.ftruncate(file.fd, size)
    for mapped in _map(name, file, size):  # before the memory is taken; and a child forked meanwhile does not keep it
        mapped.close()
    for offset in range(0, size, _RESERVED_AT_ONCE):
        os.posix_fallocate(file.fd, offset, min(_RESERVED_AT_ONCE, size - offset))
    os.fchmod(file.fd, mode)
    os.pwrite(file.fd, _identity(shape, layout.STATE_BUILDING), 0)
    segment = Segment(name, path, file, shape)
    _setup_tables(segment.mem)
    os.pwrite(file.fd, _identity(shape, layout.STATE_READY), 0)
    return segment


def _check_room(size):
    """Before others find the file system full, too. Where it has no bound it says 0 of 0 free."""
    found = os.statvfs(directory())
    if found.f_blocks and size > found.f_bavail * found.f_frsize:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _hidden(path, what):
    """A name beside path that no segment can have, and that belongs to this segment alone."""
    folder, name = os.path.split(path)
    return os.path.join(folder, f"{_HIDDEN}{name.removeprefix(PREFIX)}~{what}")


@contextlib.contextmanager
def _turn(name, path, size):
    """One creator of a segment at a time: whether this is the one. False if the segment is there, or there is no lock to be had."""
    lock, file = _hidden(path, "lock"), None
    try:
        file = _lock(name, path, lock, _CREATION_WAIT + size / _CREATION_RATE)
        yield file is not None
    finally:
        if file is not None and _is_at(file, lock):
            _unlink(lock)
        else:
            _remove_lock(lock)
        del file


def _lock(name, path, lock, patience):
    """The lock file, locked; None if that cannot be, or there is no need to wait for it any more."""
    deadline = time.monotonic() + patience
    while not os.path.lexists(path):
        with contextlib.suppress(OSError):
            file = open_file(lock, _ATTACH | os.O_CREAT)
            if not _is_mine(file):
                return None
            if not _try_lock(file):
                if time.monotonic() > deadline:
                    raise PoolError(
                        f"pool {name!r} has been made for {patience:.0f} s by process {_holder(file)}; is it stopped?"
                    )
                time.sleep(_LOOK_AGAIN)
            elif _is_at(file, lock):
                return file
            continue
        return None
    return None


def _try_lock(file):
    """Take the record lock on a file: whether nobody else has it. OSError where there are no such locks."""
    try:
        fcntl.lockf(file.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        return False
    return True


def _remove_lock(lock):
    """Whoever waits for the lock file looks whether it is still there once it has the lock."""
    with contextlib.suppress(OSError):
        file = open_file(lock, _ATTACH)
        if _is_mine(file) and _try_lock(file) and _is_at(file, lock):
            os.unlink(lock)


def _is_mine(file):
    found = os.fstat(file.fd)
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()


def _is_at(file, path):
    with contextlib.suppress(FileNotFoundError):
        return _inode(os.fstat(file.fd)) == _inode(os.lstat(path))
    return False


def _holder(file):
    asked = _RECORD_LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    return _RECORD_LOCK.unpack(fcntl.fcntl(file.fd, fcntl.F_GETLK, asked))[4]


def _sweep(path):
    """Remove what killed creators of a segment have left under hidden names, unless one is at work."""
    with contextlib.suppress(OSError):
        leftovers = list(_leftovers(path))
        lock = _hidden(path, "lock")
        file = open_file(lock, _ATTACH | (os.O_CREAT if leftovers else 0))
        if _is_mine(file) and _try_lock(file) and _is_at(file, lock):
            _unlink_all(leftovers)
            os.unlink(lock)


def _unlink_all(paths):
    for path in list(paths):
        _unlink(path)


def _leftovers(path):
    folder, prefix = os.path.split(_hidden(path, ""))
    with os.scandir(folder) as entries:
        for entry in entries:
            if re.fullmatch(re.escape(prefix) + "[0-9a-f]{16}", entry.name) and _is_my_file(entry):
                yield entry.path


def _unlink(path):
    with contextlib.suppress(OSError):
        os.unlink(path)


def _setup_tables(mem):
    page_alloc.setup(mem, _SETUP_CLIENT)
    lru.setup(mem)
    slab.setup(mem)
    mapping.setup(mem)
    names.setup(mem)


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
        shape["nnames"],
        shape["names"],
    )
    checksum = zlib.crc32(packed[layout.HDR_SIZE : layout.HDR_CHECKSUM] + packed[layout.HDR_MEMMAP :])
    return packed[: layout.HDR_CHECKSUM] + struct.pack("<I", checksum) + packed[layout.HDR_MEMMAP :]


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
        raise PoolDamagedError(f"{path} is not a foliocache pool; {advice}")
    (
        _, abi, state, size, page_shift, pages, clients, buckets, ghosts,
        memmap, data, clients_at, buckets_at, ghosts_at, _, _, fenced, names, names_at,
    ) = _IDENTITY.unpack(head)  # fmt: skip
    if abi != layout.ABI:
        raise PoolError(f"pool {name!r} has layout version {abi}, this foliocache needs {layout.ABI}; {advice}")
    checksum = zlib.crc32(head[layout.HDR_SIZE : layout.HDR_CHECKSUM] + head[layout.HDR_MEMMAP :])
    if checksum != struct.unpack_from("<I", head, layout.HDR_CHECKSUM)[0]:
        raise PoolDamagedError(f"pool {name!r} is damaged: its header does not match its checksum; {advice}")
    if state != layout.STATE_READY:
        raise PoolDamagedError(f"pool {name!r} is damaged: its header says that it was never finished; {advice}")
    if not _makes_sense(page_shift, pages, clients):
        raise PoolDamagedError(f"pool {name!r} is damaged: its header makes no sense; {advice}")
    shape = geometry(pages, 1 << page_shift, clients)
    said = (size, buckets, ghosts, names, memmap, data, clients_at, buckets_at, ghosts_at, names_at)
    keys = ("size", "nbuckets", "nghosts", "nnames", "memmap", "data", "clients", "buckets", "ghosts", "names")
    if said != tuple(shape[key] for key in keys):
        raise PoolDamagedError(f"pool {name!r} is damaged: its header contradicts itself; {advice}")
    if os.fstat(fd).st_size != size:
        raise PoolDamagedError(f"pool {name!r} is truncated: {os.fstat(fd).st_size} bytes instead of {size}; {advice}")
    return shape | {"fenced": fenced}


def _makes_sense(page_shift, pages, clients):
    return (
        PAGE_SIZE_MIN <= 1 << min(page_shift, 64) <= PAGE_SIZE_MAX
        and PAGES_MIN <= pages <= SIZE_MAX >> page_shift
        and 1 <= clients <= CLIENTS_MAX
    )


def _inode(found):
    return found.st_dev, found.st_ino


def _power_of_two(n):
    return 1 << (n - 1).bit_length()


def _align(n, to):
    return (n + to - 1) // to * to
