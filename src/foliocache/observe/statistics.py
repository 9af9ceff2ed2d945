"""The results of ``Pool.statistics`` and ``Pool.picture``: named tuples, as those of ``records``, and for the same reason."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..mm import layout
from .records import ClientInfo, Counters, _dict


class Histogram(NamedTuple):
    """How long things took: how many took less than each of `bounds`.

    Attributes
    ----------
    counts : tuple of int
        For each of ``bounds`` how many took less than that, and at least the bound before it; and, as the last, how many took
        longer than the last bound.
    seconds : float
        The sum of all durations.
    """

    counts: tuple[int, ...]
    seconds: float

    @property
    def total(self) -> int:
        """How many durations there are."""
        return sum(self.counts)

    @property
    def bounds(self) -> tuple[float, ...]:
        """The upper bounds of all buckets but the last, in seconds: powers of two of 1,024 ns."""
        return tuple((1 << (layout.BUCKET_SHIFT + n)) / 1e9 for n in range(layout.BUCKETS - 1))

    def quantile(self, share: float) -> float | None:
        """Return an upper bound of the duration that this share of all is below.

        Parameters
        ----------
        share : float
            Such as 0.5, for the median.

        Returns
        -------
        float or None
            In seconds; ``inf`` if it is longer than the last bound, None if there are no durations.
        """
        passed, wanted = 0, share * self.total
        for bound, number in zip((*self.bounds, float("inf")), self.counts, strict=True):
            passed += number
            if passed and passed >= wanted:
                return bound
        return None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a new dict for JSON, in their order. A record within is a dict, and a tuple a list."""
        return _dict(self)


class SourceStatistics(NamedTuple):
    """What one kind of source has brought.

    Attributes
    ----------
    source : str
        ``"function"`` (the user's own), ``"http"``, ``"obstore"``, ``"fsspec"``, ``"objects"`` (Python objects that were made),
        ``"disk"``, ``"valkey"`` or ``"other"``.
    requests : int
        Calls of such sources. A request may fill several folios.
    bytes : int
        Bytes that they have brought, into the pool or for private copies.
    errors : int
        Requests that failed.
    latency : Histogram
        How long the requests took.
    """

    source: str
    requests: int
    bytes: int
    errors: int
    latency: Histogram

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a new dict for JSON, in their order. A record within is a dict, and a tuple a list."""
        return _dict(self)


class TierStatistics(NamedTuple):
    """What the pool's processes have had from tiers of one kind, together.

    `Pool.tiers` has what this process has had from each tier. How long their requests took, their bytes and failures are in the
    `SourceStatistics` of the same name.

    Attributes
    ----------
    tier : str
        ``"disk"`` or ``"valkey"``.
    hits, misses : int
        Folios that they had and had not.
    skipped : int
        Folios that they were not asked for, because they were left alone after failures: if it grows, a tier is off.
    stores, store_bytes : int
        Folios that were stored, and their bytes.
    dropped : int
        Folios that were not stored, because the queue was full or the tier was left alone.
    declined : int
        Folios that they did not want: those of a scan, when they are full.
    """

    tier: str
    hits: int
    misses: int
    skipped: int
    stores: int
    store_bytes: int
    dropped: int
    declined: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a new dict for JSON, in their order. A record within is a dict, and a tuple a list."""
        return _dict(self)


class Evictions(NamedTuple):
    """Why folios were evicted.

    Attributes
    ----------
    unused : int
        They were not used again before they were the oldest new ones.
    lost : int
        They were used, but the older folios that they were compared with were used more.
    beaten : int
        They were old, and newer ones were used more.
    cleared : int
        They were in the way: of a larger folio, or of memory that was given back.
    """

    unused: int
    lost: int
    beaten: int
    cleared: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a new dict for JSON, in their order. A record within is a dict, and a tuple a list."""
        return _dict(self)


class HitRatios(NamedTuple):
    """Hits in all lookups of the last minutes.

    Each is None if there were no lookups, or if no process looked at the statistics when that time began.

    Attributes
    ----------
    minute, five_minutes, fifteen_minutes : float or None
        From 0 to 1.
    """

    minute: float | None
    five_minutes: float | None
    fifteen_minutes: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a new dict for JSON, in their order. A record within is a dict, and a tuple a list."""
        return _dict(self)


class WorkingSet(NamedTuple):
    """What a larger pool would bring, by what is remembered of evicted folios.

    Attributes
    ----------
    filled : int
        Units that were filled since the pool was created.
    with_25, with_50, with_100, with_200 : int
        How many of them would still have been there in a pool that is larger by so many percent. An estimate: those that were
        filled again before so many pages had been evicted.
    """

    filled: int
    with_25: int
    with_50: int
    with_100: int
    with_200: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a new dict for JSON, in their order. A record within is a dict, and a tuple a list."""
        return _dict(self)


class Statistics(NamedTuple):
    """What a pool does and has done, from counters alone, so that it can be asked for often: nothing is walked or locked.

    Attributes
    ----------
    name : str
        The pool's name.
    age : float
        Seconds since it was created.
    pool_bytes, max_bytes, page_size : int
        As in `Stat`.
    backed_bytes : int
        Bytes of the pages that have memory, free or in use.
    free_bytes : int
        Bytes of the pages that have memory and are free.
    cached_bytes : int
        Bytes of the pages with the content of objects that reclaim may evict.
    index_bytes : int
        Bytes of the pages with indexes, records and names.
    objects : int
        Cached objects.
    clients : int
        Processes that are attached.
    dead_clients : int
        Processes that died, and whose remains are not settled yet.
    locks_held : int
        Locks that were held at this moment. A lock is held for microseconds.
    counters : Counters
        Their fields, too, are sums since the pool was created.
    hit_ratios : HitRatios
    sources : tuple of SourceStatistics
        One for each kind of source, used or not.
    tiers : tuple of TierStatistics
        One for each kind of tier, used or not.
    waits, lock_waits : Histogram
        How long processes and threads waited for others that were filling a folio, and for locks that were not free.
    evictions : Evictions
    working_set : WorkingSet
    """

    name: str
    age: float
    pool_bytes: int
    max_bytes: int
    page_size: int
    backed_bytes: int
    free_bytes: int
    cached_bytes: int
    index_bytes: int
    objects: int
    clients: int
    dead_clients: int
    locks_held: int
    counters: Counters
    hit_ratios: HitRatios
    sources: tuple[SourceStatistics, ...]
    tiers: tuple[TierStatistics, ...]
    waits: Histogram
    lock_waits: Histogram
    evictions: Evictions
    working_set: WorkingSet

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a new dict for JSON, in their order. A record within is a dict, and a tuple a list."""
        return _dict(self)


class Residency(NamedTuple):
    """How much of an object is in the pool.

    Attributes
    ----------
    key, version : str
        As in `ObjectInfo`.
    size : int
        Its length in bytes.
    cached_bytes : int
        How many bytes of it are in the pool.
    used_bytes : int
        How many of those were used since reclaim last looked at them.
    folios : int
        How many folios hold them.
    pins : int
        References beyond the cache's own: leases, windows, fills.
    filling_bytes : int
        How many bytes are being filled now, beyond those that are cached.
    filler : int or None
        The client slot that fills them, of one folio if there are several.
    """

    key: str
    version: str
    size: int
    cached_bytes: int
    used_bytes: int
    folios: int
    pins: int
    filling_bytes: int
    filler: int | None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a new dict for JSON, in their order. A record within is a dict, and a tuple a list."""
        return _dict(self)


class Picture(NamedTuple):
    """The pages of a pool at one moment, and what is in them.

    Attributes
    ----------
    dots : bytes
        Two bytes for each dot: the state of its pages (0 no memory, 1 free, 2 cached, 3 being filled, 4 index, 5 being made or
        destroyed; with 8 pinned, 16 used lately, and lru's queue << 5), and a hash of the object that is there.
    pages_per_dot : int
        How many pages a dot stands for. It shows its first page, or that one of its pages is being filled.
    page_size : int
        Bytes of a page.
    objects : tuple of Residency
        The largest objects, and all that are being filled; those that are being filled come first, then the largest.
    object_count : int
        How many objects there are.
    clients : tuple of ClientInfo
        The processes that are attached, this one among them, and dead ones that have not been settled.
    """

    dots: bytes
    pages_per_dot: int
    page_size: int
    objects: tuple[Residency, ...]
    object_count: int
    clients: tuple[ClientInfo, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields but the dots as a new dict for JSON, in their order."""
        return _dict(self._replace(dots=b"")) | {"dots": len(self.dots) // 2}
