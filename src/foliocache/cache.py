"""A cache in this process: open it, map objects into it, look at it."""

import contextlib
import os
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

from . import client, repair
from . import segment as segments_module
from .attachment import Attachment
from .errors import FoliocacheError
from .mapping import Mapping, key_digest
from .mm import audit, layout

FILL_TIMEOUT = 60.0

_caches: weakref.WeakValueDictionary[tuple[int, int], "Cache"] = weakref.WeakValueDictionary()
_caches_lock = threading.Lock()


def open(name="default", size=None, page_size=None, mode=0o600, *, clients=None, any_owner=False, fill_timeout=None):
    """Attach to the cache called name, creating it if there is none.

    :param name: letters, digits, ``_``, ``-``, ``.``; one segment of shared memory per name.
    :param size: bytes of the pool, or a string such as ``"4GiB"``. None: what the segment has; 4 GiB for a new one.
    :param page_size: a power of two from 4 KiB to 2 MiB. None: what the segment has; 16 KiB for a new one.
    :param mode: permissions of a new segment's file.
    :param clients: how many processes may attach at once. None: what the segment has; 256 for a new one.
    :param any_owner: attach to a segment that belongs to another user, too. He can change its bytes at any time.
    :param fill_timeout: seconds to wait for another process that is reading a page from the source. Then this one reads it too, for
        itself alone, uncached. 60 by default. It is this process's, and what the last ``open`` here said is valid. A process that
        has died is not waited for: its page is read by one who waits.
    :raises SegmentMismatch: the segment has other parameters than those given.
    :raises SegmentFull: shared memory has no room for the pool.
    :raises SegmentError: the segment is damaged, foreign, somebody else's, or has no client slot left.
    :raises ValueError: a parameter makes no sense.
    """
    if fill_timeout is not None and not (isinstance(fill_timeout, (int, float)) and fill_timeout >= 0):
        raise ValueError(f"fill_timeout must be a number of seconds, not {fill_timeout!r}")
    cache = _cache_of(segments_module.create_or_attach(name, size, page_size, mode, clients, any_owner), any_owner)
    if fill_timeout is not None:
        cache.fill_timeout = fill_timeout
    return cache


def attach(name="default", *, any_owner=False):
    """Attach to an existing cache with the parameters it has. Raises SegmentNotFound, SegmentError."""
    return _cache_of(segments_module.attach(name, any_owner), any_owner)


def _reopen(name, size, page_size, any_owner, fill_timeout):
    """What a pickled Cache becomes in another process."""
    return open(name, size, page_size, any_owner=any_owner, fill_timeout=fill_timeout)


def _cache_of(segment, any_owner):
    """One Cache per segment and process, however often it is opened."""
    with _caches_lock:
        cache = _caches.get(segment.inode)
        if cache is None or cache.closed:
            cache = _caches[segment.inode] = Cache(segment, any_owner)
        return cache


class Cache:
    """A pool of shared pages. Made by :func:`open` and :func:`attach`; pickles by name; may be used after fork and by threads."""

    def __init__(self, segment, any_owner=False):
        self._attachment = Attachment(segment)
        self._any_owner = any_owner
        self.name = segment.name
        self.path = segment.path
        self.page_size = segment.page_size
        self.pool_bytes = segment.pool_bytes
        self.fill_timeout = FILL_TIMEOUT
        self.closed = False
        self._executor = None
        self._executor_pid = 0

    def __repr__(self):
        return f"<foliocache.Cache {self.name!r}, {self.pool_bytes} bytes in pages of {self.page_size}>"

    def __reduce__(self):
        return _reopen, (self.name, self.pool_bytes, self.page_size, self._any_owner, self.fill_timeout)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def close(self):
        """Make no more use of the cache here. Leases that are out stay valid; the client slot goes with the last of them."""
        self.closed = True
        if self._executor is not None and self._executor_pid == os.getpid():
            self._executor.shutdown()
        self._executor = None

    def mapping(self, key, size, version="", read=None, readinto=None, *, concurrent=False):
        """The object called key, of size bytes, at one version: a :class:`Mapping`.

        :param key: what names the object to everybody who uses this cache.
        :param size: its length in bytes.
        :param version: whatever changes when its bytes do, such as an etag. Another version is another object to the cache.
        :param read: ``read(offset, length)`` returns exactly those bytes of the source, as any bytes-like object.
        :param readinto: ``readinto(offset, buffer)`` fills the writable buffer, which is all zeros, from the source and returns the
            number of bytes. Saves a copy. One of the two is enough; with neither only cached folios can be read.
        :param concurrent: the source may be called from several threads at once, also from a background thread of this library
            that reads ahead. Otherwise calls for this mapping are made one at a time, by those who want the data.
        :raises ValueError: size is negative or no integer, or too large for the index.
        """
        self._check_open()
        return Mapping(self, key, size, version, read, readinto, concurrent)

    def forget(self, key):
        """Withdraw every version of the object called key. Leases that are out stay valid. How many versions there were."""
        return self._attachment.forget(key_digest(key))

    def mappings(self):
        """The cached objects: dicts of key, version, size, folio_size, folios, cached_folios, cached_bytes, pins."""
        return audit.mappings(self._memory)

    def audit(self):
        """Check every invariant of the segment: a list of findings, each a dict of check, where and message; empty when it is clean.

        Exact while nobody else works on the cache; otherwise an operation in flight may show.
        """
        return audit.audit(self._memory)

    def repair(self):
        """Settle what dead processes have left, and repair what is proven to be damaged: the findings that are left.

        Others may go on working meanwhile; in a sound pool nothing is changed. What is dropped is fetched again when it is wanted. A page
        that somebody still holds is out of the cache at once, but comes free only after its holder has let go, by another repair or
        when this process has ended. What could not be proven while others worked is left, and found again by another repair.
        """
        return repair.repair(self._attachment)

    def stat(self):
        """Sizes, pages by state, folios by type, mappings, pins, clients and counters, as a dict ready for JSON."""
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
        if self.closed:
            raise FoliocacheError(f"cache {self.name!r} has been closed in this process; open it again")

    def _background(self, function, *args):
        """Run function in a thread of this process, unless the interpreter is going down, or the cache has been closed here."""
        if self._executor_pid != os.getpid():
            self._executor = ThreadPoolExecutor(2, "foliocache-readahead")
            self._executor_pid = os.getpid()
        executor = self._executor  # close() takes it away
        if executor is not None:
            with contextlib.suppress(RuntimeError):
                executor.submit(function, *args)
