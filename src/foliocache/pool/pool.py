"""A pool in this process: open it, map objects into it, look at it."""

import contextlib
import functools
import weakref

from ..errors import FoliocacheError, PoolNotFoundError
from ..filler.engine import Engine
from ..mm import audit, layout
from . import client, repair
from . import segment as segments_module
from .attachment import Attachment
from .mapping import Mapping, key_digest
from .names import Names

FILL_TIMEOUT = 60.0
FILL_TIMEOUT_MAX = 1e9  # seconds; the core counts nanoseconds in 64 bits

# The open caches of this process, by what tells their files from others. There is no lock: each step is a single call of a dict, so
# a signal's handler or a finalizer may open a pool while its thread is at it, and a forked child finds no lock that nobody releases.
_pools: dict[tuple[int, int], "weakref.ref[Pool]"] = {}


def open(name="default", size=None, page_size=None, mode=0o600, *, clients=None, any_owner=False, fill_timeout=None):
    """Attach to the pool called name, creating it if there is none.

    :param name: letters, digits, ``_``, ``-``, ``.``; one pool per name.
    :param size: bytes of the pool, or a string such as ``"4GiB"``. None: what the pool has; 4 GiB for a new one.
    :param page_size: a power of two from 4 KiB to 2 MiB. None: what the pool has; 16 KiB for a new one.
    :param mode: permissions of a new pool's file; its owner must be allowed to read and write.
    :param clients: how many processes may attach at once. None: what the pool has; 256 for a new one.
    :param any_owner: attach to a pool that belongs to another user, too. It can change its bytes at any time.
    :param fill_timeout: seconds to wait for another process that is reading a page from the source. Then this one reads it too, for
        itself alone, uncached. 60 by default; ``float("inf")`` for as long as it takes. It is this process's, and what the last
        ``open`` here said is valid. A process that has died is not waited for: its page is read by one who waits.
    :raises PoolMismatchError: the pool has other parameters than those given.
    :raises PoolFullError: shared memory has no room for the pool.
    :raises PoolError: the pool is damaged, foreign, somebody else's, or has no client slot left; or this process lacks
        descriptors, address space or rights for it.
    :raises ValueError: a parameter makes no sense.
    """
    wanted = segments_module.parameters(size, page_size, clients)
    mode = segments_module.permissions(mode)
    timeout = None if fill_timeout is None else _seconds(fill_timeout)
    pool = _known(name, any_owner, wanted)
    if pool is None:
        pool = _new(segments_module.create_or_attach(name, wanted, mode, any_owner), any_owner)
    if timeout is not None:
        pool.fill_timeout = timeout
    return pool


def attach(name="default", *, any_owner=False):
    """Attach to an existing pool with the parameters it has. Raises PoolNotFoundError, PoolError."""
    return _known(name, any_owner, {}) or _new(segments_module.attach(name, any_owner), any_owner)


def _reopen(name, size, page_size, any_owner, fill_timeout):
    """What a pickled Pool becomes in another process."""
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
    """The pool called name, if this process has it open: needs neither descriptors nor memory. None if not."""
    try:
        found = _pools.get(segments_module.locate(name, any_owner))
    except PoolNotFoundError:
        return None
    pool = found and found()
    if pool is None or pool.closed:
        return None
    segments_module.check_parameters(name, pool._attachment.segment.geometry, wanted)
    try:
        return _joined(pool)
    except FoliocacheError:
        if pool.closed:  # just now, by another thread
            return None
        raise


def _new(segment, any_owner):
    """A pool for a segment that has just been mapped; another one, if a thread or a signal's handler here was faster.

    It is made known before it becomes a client, so that all of them become one.
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
    """A pool of shared pages. Made by :func:`open` and :func:`attach`; pickles by name; may be used after fork and by threads."""

    def __init__(self, segment, any_owner=False):
        self._attachment = Attachment(segment)
        self._any_owner = any_owner
        self.name = segment.name
        self.path = segment.path
        self.page_size = segment.page_size
        self.pool_bytes = segment.pool_bytes
        self._fill_timeout = FILL_TIMEOUT
        self._engine = None
        self._asking = set()

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
        """Seconds to wait for another process that is reading a page from the source: see :func:`open`."""
        return self._fill_timeout

    @fill_timeout.setter
    def fill_timeout(self, seconds):
        self._fill_timeout = _seconds(seconds)

    @property
    def closed(self):
        """Whether it has been closed in this process."""
        return self._attachment.closed

    def close(self):
        """Make no more use of the pool here: from now on its methods and those of its mappings raise FoliocacheError.

        What has begun goes on, and what is being read ahead is waited for, at most ``fill_timeout`` seconds. Leases, windows and
        views that are out stay valid, and the client slot goes with the last of them.
        Closing twice is harmless, and :func:`open` gives another Pool.
        """
        try:
            if self._engine is not None:
                self._engine.close(self.fill_timeout)
        finally:
            self._attachment.close()

    def mapping(self, key, size, version="", read=None, readinto=None, *, concurrent=False):
        """The object called key, of size bytes, at one version: a :class:`Mapping`.

        :param key: what names the object to everybody that uses this pool.
        :param size: its length in bytes.
        :param version: whatever changes when its bytes do, such as an etag. Another version is another object to the cache.
        :param read: ``read(offset, length)`` returns exactly those bytes of the source, as any bytes-like object.
        :param readinto: ``readinto(offset, buffer)`` fills the writable buffer, which is all zeros, from the source and returns the
            number of bytes. Saves a copy. One of the two is enough; with neither only cached folios can be read.
        :param concurrent: the source may be called from several threads at once, also from a background thread of this library
            that reads ahead. Otherwise calls for this mapping are made one at a time, by those who want the data.
        :raises ValueError: size is negative or no integer, or too large for the index.
        :raises FoliocacheError: the pool has been closed.
        """
        self._check_open()
        return Mapping(self, key, size, version, read, readinto, concurrent)

    def forget(self, key):
        """Withdraw every version of the object called key. Leases that are out stay valid. How many versions there were."""
        self._check_open()
        if not isinstance(key, str):
            raise ValueError(f"key must be a string, not {key!r}")
        return self._attachment.forget(key_digest(key))

    @property
    def names(self):
        """Which objects keys mean, asked for once by all processes: see :class:`foliocache.pool.names.Names`. Internal, for adapters."""
        self._check_open()
        return Names(self)

    def mappings(self):
        """The cached objects: dicts of key, version, size, folio_size, folios, cached_folios, cached_bytes, pins."""
        self._check_open()
        return audit.mappings(self._memory)

    def audit(self):
        """Check every invariant of the pool: a list of findings, each a dict of check, where and message; empty when it is clean.

        Exact while nobody else works on the pool; otherwise an operation in flight may show.
        """
        self._check_open()
        return audit.audit(self._memory)

    def repair(self):
        """Settle what dead processes have left, and repair what is proven to be damaged: the findings that are left.

        Others may go on working meanwhile; in a sound pool nothing is changed. What is dropped is fetched again when it is wanted. A page
        that somebody still holds is out of the cache at once, but comes free only after its holder has let go, by another repair or
        when this process has ended. What could not be proven while others worked is left, and found again by another repair.
        """
        self._check_open()
        return repair.repair(self._attachment)

    def stat(self):
        """Sizes, pages by state, folios by type, mappings, pins, clients and counters, as a dict ready for JSON.

        Settles what dead processes have left first, unless somebody else is at it or this process may not. So a client whose state
        is "dead" is one of which something has to wait: a living one still uses a folio that it died upon. A client's pid is one of
        its own pid namespace, whose number is beside it if that is another one than ours.
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
        if self._engine is None or not self._engine.is_ours:
            self._engine = Engine()
        return self._engine
