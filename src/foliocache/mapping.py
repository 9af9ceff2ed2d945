"""One object of a cache: reading it, and what happens on a miss.

The hit path is in ``lease``. Whoever adds a missing folio fills it, together with the missing ones right behind it that the read
or its readahead wants: one call of the source for the whole run, one pin on each until it is done. A filler never waits for another
folio while it holds locked ones, so fillers cannot wait for each other in a circle.
"""

import contextlib
import hashlib
import threading

from .errors import SourceError
from .lease import FolioMap
from .mm import layout, xarray
from .readahead import Readahead
from .window import Window

FOLIO_MAX = 1 << 20
FOLIOS_PER_OBJECT = 32
FOLIOS_PER_POOL = 64
READAHEAD_MAX = 4 << 20
GATHER_SHARE = 4


class Mapping(FolioMap):
    """One object at one version, in folios of ``folio_size`` bytes: ``folios`` of them, the last one shorter.

    The folio size follows from the object's size, the same in every process: a page for small objects, up to 1 MiB for big ones.
    """

    def __init__(self, cache, key, size, version="", read=None, readinto=None, concurrent=False):
        if not isinstance(key, str) or not isinstance(version, str):
            raise ValueError(f"key and version must be strings, not {key!r} and {version!r}")
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise ValueError(f"the size of {key!r} must be a number of bytes, not {size!r}")
        order = _order_for(size, cache.page_size, cache.pool_bytes)
        folios = -(-size // (cache.page_size << order))
        if folios > 1 << layout.XA_INDEX_BITS:
            raise ValueError(f"{key!r} is too large: {size} bytes are more than 2^{layout.XA_INDEX_BITS} folios")
        digest = hashlib.blake2b(repr((key, size, version)).encode(), digest_size=16).digest()
        super().__init__(
            cache._attachment, size, order, xarray.height_for(folios), digest, key_digest(key), *_texts(key, version)
        )
        self.cache = cache
        self.key = key
        self.version = version
        self._source_read = read
        self._source_readinto = readinto
        self._concurrent = concurrent
        self._turns = {}
        self._readahead = Readahead(max(1, min(READAHEAD_MAX, cache.pool_bytes // 16) // self.folio_size))

    def __repr__(self):
        return f"<foliocache.Mapping {self.key!r} version {self.version!r}, {self.size} bytes in {self.folios} folios>"

    def __reduce__(self):
        arguments = self.cache, self.key, self.size, self.version, self._source_read, self._source_readinto, self._concurrent
        return Mapping, arguments

    def readinto(self, offset, buffer):
        """Fill a writable buffer from offset on; the number of bytes, less than its length only at the end of the object."""
        with memoryview(buffer) as whole, whole.cast("B") as target:
            start, end = self._range(offset, len(target))
            if start < end:
                self._gather(start, end, target[: end - start])
            return end - start

    def window(self, offset=0, length=None):
        """Bytes offset .. offset + length - 1 (to the end, without a length) as one contiguous, read-only :class:`Window`.

        Zero-copy however many folios they lie in: these are mapped side by side, and all of them stay pinned until it is closed.
        Raises FoliocacheError when the pool has no room for all of them at once.
        """
        start, end = self._range(offset, self.size if length is None else length)
        return Window(self, start, end - start)

    def _range(self, offset, length):
        if offset < 0 or length < 0:
            raise ValueError(f"offset and length must not be negative: {offset}, {length}")
        start = min(offset, self.size)
        return start, min(start + length, self.size)

    def _gather(self, start, end, target):
        piece = max(self.cache.pool_bytes // GATHER_SHARE, self.folio_size)
        for begin in range(start, end, piece):
            self._gather_pinned(begin, min(begin + piece, end), target[begin - start : begin - start + piece])

    def _gather_pinned(self, start, end, target):
        """Copy one range whose folios are all pinned at once."""
        size = self.folio_size
        last = (end - 1) // size
        leases = []
        try:
            for index in range(start // size, last + 1):
                leases.append(self._get(index, last - index + 1))
            for index, lease in enumerate(leases, start // size):
                begin, stop = max(start, index * size), min(end, (index + 1) * size)
                with memoryview(lease) as view:
                    target[begin - start : stop - start] = view[begin - index * size : stop - index * size]
        finally:
            for lease in leases:
                lease.release()

    # What the compiled part calls when a lookup is not a plain hit.

    def _miss(self, index, wanted):
        """Folio index, of which ``wanted`` folios from it on are about to be asked for."""
        previous = self.previous if self.previous < self.folios else None
        for _ in range(layout.GRAB_TRIES):
            lease = self._grab(index) or self._grab_from_the_dead(index)
            if lease is None:
                break
            if lease.filling:
                self.attachment.count(layout.COUNT_MISSES, 1)
                count, mark = self._readahead.on_miss(index, wanted, previous)
                self._fill(lease, index, count, mark)
                self.previous = index  # no use yet in reclaim's sense: a scan must not look like one
                return lease
            lease = self._wait(lease, index)
            if lease is not None:
                return lease
        return self._read_privately(index)

    def _wait(self, lease, index):
        """A lease on what another is filling, once that is done; None if he failed. Privately read if he takes too long; filled by
        us if he died."""
        self.attachment.count(layout.COUNT_WAITS, 1)
        outcome = self._sleep(lease, int(self.cache.fill_timeout * 1e9))
        if outcome == "taken":
            self._fill(lease, index, 1, None)
            self.attachment.reap()
            outcome = "uptodate"
        if outcome == "uptodate":
            self._use(lease, index)
            return lease
        lease.release()
        return self._read_privately(index) if outcome == "timeout" else None

    def _grab_from_the_dead(self, index):
        """There is no room: perhaps dead processes still have some."""
        settled, _ = self.attachment.reap()
        return self._grab(index) if settled else None

    def _marked(self, lease, index):
        """A hit on the folio that the last window marked: read the next window in the background."""
        if not self._concurrent or not self._take_mark(lease):
            return
        missing = index + 1
        while missing < min(self.folios, index + self._readahead.most) and self.is_cached(missing):
            missing += 1
        start, count, mark = self._readahead.on_mark(index, missing)
        self.cache._background(self._read_ahead, start, count, mark)

    def _read_ahead(self, index, count, mark):
        """In a background thread: errors are the business of who asks for the data."""
        end = min(index + count, self.folios)
        with contextlib.suppress(Exception):
            while index < end:
                lease = self._grab(index)
                if lease is None:
                    return
                filled = self._fill(lease, index, end - index, mark) if lease.filling else 1
                self.attachment.count(layout.COUNT_READAHEAD, filled)
                lease.release()
                index += filled

    # Filling.

    def _fill(self, lease, index, count, mark):
        """Fill folio index, whose lease is ``filling``, and those behind it that we can add, up to ``count`` in all: how many."""
        run = [lease]
        try:
            for behind in range(index + 1, min(index + count, self.folios)):
                lease = self._grab(behind)
                if lease is None or not lease.filling:
                    break
                run.append(lease)
            self._read_source(run, index)
        except BaseException:
            self.attachment.count(layout.COUNT_ERRORS, 1)
            for lease in run:
                lease.release()
            raise
        for at, lease in enumerate(run, index):
            self._complete(lease, at == mark)
        self.attachment.count(layout.COUNT_FILLS, len(run))
        self.attachment.count(layout.COUNT_FILL_BYTES, sum(map(len, run)))
        for lease in run[1:]:
            lease.release()
        return len(run)

    def _read_source(self, run, index):
        """One call of the source for a whole run of folios, if it is one that returns bytes."""
        targets = [self._target(lease) for lease in run]
        views = [memoryview(target) for target in targets]
        try:
            with self._turn():
                self._call_source(index * self.folio_size, views)
        finally:
            for view in views:
                view.release()
        if any(target.views for target in targets):
            raise SourceError(f"the source of {self.key!r} kept the buffer that it was given to fill")

    def _turn(self):
        """What a call of the source holds, unless it may be made by several threads at once. A forked child has its own: a thread of
        its parent may have been in the source."""
        if self._concurrent:
            return contextlib.nullcontext()
        return self._turns.setdefault(self.attachment.epoch, threading.RLock())

    def _call_source(self, offset, views):
        if self._source_readinto is None or (self._source_read is not None and len(views) > 1):
            self._scatter(self._call_read(offset, sum(map(len, views))), views)
            return
        for view in views:
            self._call_readinto(offset, view)
            offset += len(view)

    def _scatter(self, content, targets):
        with memoryview(content) as whole, whole.cast("B") as flat:
            at = 0
            for target in targets:
                target[:] = flat[at : at + len(target)]
                at += len(target)

    def _call_read(self, offset, length):
        """The source's answer, once it is known to have the right length."""
        if self._source_read is None:
            raise SourceError(f"{self.key!r} is not cached at offset {offset}, and its mapping was opened without a source")
        content = self._source_read(offset, length)
        try:
            with memoryview(content) as view:
                got = view.nbytes
        except TypeError:
            raise SourceError(
                f"the source of {self.key!r} returned {type(content).__name__}, not a bytes-like object"
            ) from None
        self._check_length(got, offset, length)
        return content

    def _call_readinto(self, offset, target):
        got = self._source_readinto(offset, target)
        self._check_length(len(target) if got is None else got, offset, len(target))

    def _check_length(self, got, offset, length):
        if got != length:
            raise SourceError(
                f"the source of {self.key!r} gave {got} bytes at offset {offset} instead of {length}; "
                f"has it changed since its size was {self.size}?"
            )

    def _read_privately(self, index):
        """Every page is in use: bytes of our own, uncached."""
        self.attachment.count(layout.COUNT_BYPASSES, 1)
        offset, length = index * self.folio_size, self.length_of(index)
        with self._turn():
            if self._source_read is not None or self._source_readinto is None:
                return self._private(bytes(self._call_read(offset, length)))
            content = bytearray(length)
            with memoryview(content) as target:
                self._call_readinto(offset, target)
            return self._private(bytes(content))


def _order_for(size, page_size, pool_bytes):
    """An object is cut into about FOLIOS_PER_OBJECT folios, within a page and FOLIO_MAX, and within a small part of the pool."""
    most = min(FOLIO_MAX, pool_bytes // FOLIOS_PER_POOL, page_size << layout.MAX_ORDER)
    order = 0
    while page_size << (order + 1) <= most and (page_size << order) * FOLIOS_PER_OBJECT < size:
        order += 1
    return order


def key_digest(key):
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _texts(key, version):
    """Key and version as the segment keeps them for people: cut to what fits. Identity is the digest alone."""
    version_bytes = version.encode("utf-8", "replace")[: layout.MAPPING_TEXT_MAX // 4]
    return key.encode("utf-8", "replace")[: layout.MAPPING_TEXT_MAX - len(version_bytes)], version_bytes
