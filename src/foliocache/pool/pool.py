"""A pool as one process uses it: opening it, mappings of its objects, statistics and repair."""

import contextlib
import functools
import os
import weakref

from ..errors import FoliocacheError, PoolNotFoundError
from ..filler.engine import Engine
from ..mm import audit, layout
from . import client, repair
from . import segment as segments
from .attachment import Attachment
from .creation import create_or_attach
from .geometry import check_parameters, parameters, permissions
from .mapping import Mapping, key_digest

FILL_TIMEOUT = 60.0
FILL_TIMEOUT_MAX = 1e9  # seconds; the core counts nanoseconds in 64 bits

# The open pools of this process, by device and inode of their files. There is no lock: each step is a single call of a dict, so
# a signal handler or a finalizer may open a pool while its thread is opening it, and a forked child inherits no locked lock.
_pools: dict[tuple[int, int], "weakref.ref[Pool]"] = {}


def open(name="default", size=None, page_size=None, mode=0o600, *, clients=None, any_owner=False, fill_timeout=None):
    """Attach to the pool called name, creating it if there is none. Return a :class:`Pool`.

    :param name: 1 to 100 letters, digits, ``_``, ``-``, ``.``, not starting with ``.``. :param size: bytes of the pool's pages,
    or a string such as ``"4GiB"``. None: any; 4 GiB for a new pool. :param page_size: bytes of a page, a power of two from 4
    KiB to 2 MiB. None: any; 16 KiB for a new pool. :param mode: permissions of a new pool's file; its owner must be allowed to
    read and write. :param clients: how many processes can be attached at once. None: any; 256 for a new pool. :param any_owner:
    attach even if the pool belongs to another user, who can change its bytes at any time. :param fill_timeout: seconds to wait
    for another process that is reading a folio from the source. After that, this process reads
        the folio itself, without caching it. 60 by default; ``float("inf")`` to wait as long as it takes. Per process; the last
        ``open()`` wins. If the other process has died, a process that waits takes over the fill at once.
    :raises PoolMismatchError: the pool exists with other parameters. :raises PoolFullError: shared memory has no room for the
    pool. :raises PoolError: the pool is damaged, was made by another version, belongs to another user, or has no client slot
    left; or this
        process lacks descriptors, address space or rights.
    :raises ValueError: a parameter is out of range.
    """
    wanted = parameters(size, page_size, clients)
    mode = permissions(mode)
    timeout = None if fill_timeout is None else _seconds(fill_timeout)
    pool = _known(name, any_owner, wanted)
    if pool is None:
        pool = _new(create_or_attach(name, wanted, mode, any_owner), any_owner)
    if timeout is not None:
        pool.fill_timeout = timeout
    return pool


def attach(name="default", *, any_owner=False):
    """Attach to an existing pool, whatever its parameters. Raises PoolNotFoundError, PoolError."""
    return _known(name, any_owner, {}) or _new(segments.attach(name, any_owner), any_owner)


def _reopen(name, size, page_size, any_owner, fill_timeout):
    """Open a pool that was pickled."""
    return open(name, size, page_size, any_owner=any_owner, fill_timeout=fill_timeout)


def _seconds(value):
    try:
        if isinstance(value, (bool, str, bytes, bytearray)):
            raise TypeError
        seconds = float(value)
    except OverflowError:
        seconds = FILL_TIMEOUT_MAX if value > 0 else -1.0
    except (TypeError, ValueError):
        seconds = -1.0
    if not seconds >= 0:
        raise ValueError(f"fill_timeout must be a number of seconds from 0 on, not {value!r}")
    return min(seconds, FILL_TIMEOUT_MAX)


def _known(name, any_owner, wanted):
    """Return the pool called name if this process has it open, else None. Needs neither descriptors nor memory."""
    try:
        found = _pools.get(segments.locate(name, any_owner))
    except PoolNotFoundError:
        return None
    pool = found and found()
    if pool is None or pool.closed:
        return None
    check_parameters(name, pool._attachment.segment.geometry, wanted)
    try:
        return _joined(pool)
    except FoliocacheError:
        if pool.closed:  # just now, by another thread
            return None
        raise


def _new(segment, any_owner):
    """Return a Pool for a segment that has just been mapped, or the Pool that another thread or a signal handler has made
    meanwhile.

    It is published before it becomes a client, so that concurrent openers become one client.
    """
    return _joined(_published(Pool(segment, any_owner), segment.inode))


def _published(pool, key):
    mine = weakref.ref(pool, functools.partial(_forget, key))
    while True:
        ref = _pools.setdefault(key, mine)
        found = ref()
        if found is not None and not found.closed:
            return found
        _forget(key, ref)


def _forget(key, ref):
    if _pools.get(key) is ref:
        _pools.pop(key, None)


def _joined(pool):
    pool._attachment.join()
    return pool


class Pool:
    """A pool in shared memory. Made by :func:`open` and :func:`attach`; pickled by name; usable from threads and after fork."""

    def __init__(self, segment, any_owner=False):
        self._attachment = Attachment(segment)
        self._any_owner = any_owner
        self.name = segment.name
        self.path = segment.path
        self.page_size = segment.page_size
        self.pool_bytes = segment.pool_bytes
        self._fill_timeout = FILL_TIMEOUT
        self._engines = {}  # by pid; a forked child starts its own

    def __repr__(self):
        return f"<foliocache.Pool {self.name!r}, {self.pool_bytes} bytes in pages of {self.page_size}>"

    def __reduce__(self):
        return _reopen, (self.name, self.pool_bytes, self.page_size, self._any_owner, self.fill_timeout)

    def __enter__(self):
        self._check_open()
        return self

    def __exit__(self, *exc):
        self.close()

    @property
    def fill_timeout(self):
        """Seconds to wait for another process that is reading a folio from the source: see :func:`open`."""
        return self._fill_timeout

    @fill_timeout.setter
    def fill_timeout(self, seconds):
        self._fill_timeout = _seconds(seconds)

    @property
    def closed(self):
        """True if the pool has been closed in this process."""
        return self._attachment.closed

    def close(self):
        """Stop using the pool in this process: from now on its methods and those of its mappings raise FoliocacheError.

        Calls that have begun go on. Waits for readahead that is under way, at most ``fill_timeout`` seconds. Leases, windows
        and their views stay valid, and the client slot is freed with the last of them. Closing twice is harmless. After that,
        :func:`open` returns another Pool.
        """
        self._attachment.close()
        for engine in list(self._engines.values()):
            engine.close(self.fill_timeout)

    def mapping(self, key, size, version="", read=None, readinto=None, *, concurrent=False):
        """Return a :class:`Mapping` of an object at one version.

        :param key: the object's key; all processes that use the pool must use the same one. :param size: the object's length in
        bytes. :param version: a string that changes when the object's bytes do, such as an ETag. Another version is another
        object. :param read: ``read(offset, length)`` returns exactly those bytes of the source, as any bytes-like object.
        :param readinto: ``readinto(offset, buffer)`` fills the writable buffer, which is all zeros, from the source and returns
        the
            number of bytes. Saves a copy. One of the two is enough; with neither, only cached folios can be read.
        :param concurrent: the source may be called from several threads at once, also from a background thread of this library
            that reads ahead. Otherwise it is called once at a time for this mapping, by the threads that want the data.
        :raises ValueError: size is not an integer, is negative or is too large for the index.
        :raises FoliocacheError: the pool has been closed.
        """
        self._check_open()
        return Mapping(self, key, size, version, read, readinto, concurrent)

    def forget(self, key):
        """Remove every version of the object called key from the pool. Leases stay valid. Return how many versions there
        were."""
        self._check_open()
        if not isinstance(key, str):
            raise ValueError(f"key must be a string, not {key!r}")
        return self._attachment.forget(key_digest(key))

    def mappings(self):
        """Return the cached objects, each a dict of key, version, size, folio_size, folios, cached_folios, cached_bytes,
        pins."""
        self._check_open()
        return audit.mappings(self._memory)

    def audit(self):
        """Check every invariant of the pool. Return a list of findings, each a dict of check, where and message; empty if it is
        clean.

        Exact while no other process or thread uses the pool; otherwise an operation that is under way may appear as a finding.
        """
        self._check_open()
        return audit.audit(self._memory)

    def repair(self):
        """Settle what dead processes have left, and repair what is proven to be damaged. Return the findings that remain.

        Other processes may use the pool meanwhile; a pool without damage is not changed. Folios that are dropped are fetched
        again when they are needed. A page that is still held leaves the cache at once, but becomes free only after its holder
        has released it, by another repair or when this process has ended. Damage that could not be proven while other processes
        worked stays, and another repair finds it again.
        """
        self._check_open()
        return repair.repair(self._attachment)

    def stat(self):
        """Return sizes, pages by state, folios by type, mappings, pins, clients and counters, as a dict that JSON can
        represent.

        Settles first what dead processes have left, unless another process is doing so or this one may not. So a client whose
        state is "dead" could not be settled completely: a living one still uses a folio that it died upon. A client's pid is a
        number of its own pid namespace, whose inode number is ``pid_namespace``.
        """
        self._check_open()
        with contextlib.suppress(FoliocacheError):
            self._attachment.reap()
        segment = self._attachment.segment
        geometry = segment.geometry
        census = audit.census(self._memory)
        clients = [client.describe(segment, number) for number in client.used_slots(segment)]
        pids = {found["slot"]: found["pid"] for found in clients}
        return {
            "name": self.name,
            "path": self.path,
            "pool_bytes": self.pool_bytes,
            "page_size": self.page_size,
            "pages": geometry["npages"],
            "metadata_bytes": segment.metadata_bytes,
            "metadata_ratio": segment.metadata_bytes / self.pool_bytes,
            "free_bytes": census["pages_by_state"]["free"] * self.page_size,
            "cached_bytes": census["pages_by_state"]["file"] * self.page_size,
            **census,
            "mappings": segment.memory.peek32(layout.TABLE_COUNT),
            "max_clients": geometry["nclients"],
            "locks": [held | {"pid": pids.get(held["slot"])} for held in audit.held_locks(self._memory)],
            "clients": [{key: c[key] for key in c if key != "counters"} for c in clients if c["state"] != "clean"],
            "counters": {name: sum(c["counters"][name] for c in clients) for name in layout.COUNTERS},
        }

    @property
    def _memory(self):
        return self._attachment.segment.memory

    def _check_open(self):
        self._attachment.check_open()

    @property
    def engine(self):
        """The threads in which this process calls its sources, an :class:`Engine`."""
        pid = os.getpid()
        return self._engines.get(pid) or self._engines.setdefault(pid, Engine())
