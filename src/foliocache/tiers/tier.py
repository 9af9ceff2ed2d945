"""What a tier is: a place for ranges of objects, which is asked before the source, and may have nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

DIGEST_BYTES = 16
Part: TypeAlias = tuple[int, memoryview]  # an offset in the object, in bytes, and the bytes from there on


@runtime_checkable
class Tier(Protocol):
    """A store of ranges of objects. The digest of an object includes its version: what a digest and a range mean never changes.

    A tier is called by several threads at once, and in forked children. It may raise any Exception: that is a miss, or a range
    that is not stored. It is then left alone for a while.
    """

    def load(self, digest: bytes, parts: Sequence[Part]) -> Sequence[bool]:
        """Fill the buffers whose bytes the tier has.

        Parameters
        ----------
        digest
            The object at one version, 16 bytes.
        parts
            Offsets, and writable contiguous buffers to fill with the bytes from there on. They may be the pool's pages: they
            must not be written to after the return, and no reference may be kept. What is in a buffer that was not filled does
            not matter.

        Returns
        -------
        Sequence of bool
            For each part, True if its buffer is full, and its bytes have been checked.

        Raises
        ------
        Exception
            The tier does not work.
        """
        ...

    def store(self, digest: bytes, parts: Sequence[Part]) -> None:
        """Keep ranges of an object, if there is room.

        Parameters
        ----------
        digest
            The object at one version, 16 bytes.
        parts
            Offsets, and the bytes from there on. No reference may be kept.

        Raises
        ------
        Exception
            The tier does not work.
        """
        ...


class Looking(Protocol):
    """What a tier may have besides: answers that cost much less than a load."""

    def holds(self, digest: bytes, spans: Sequence[tuple[int, int]]) -> Sequence[bool]:
        """For each span (offset, length), return True if the tier seems to have it."""
        ...

    def wants(self, digest: bytes, offset: int, length: int) -> bool:
        """Return True if the tier would keep this range, which was not in it, if it were stored."""
        ...


class Claiming(Protocol):
    """What a tier that machines share may have besides: one of those that miss together asks the origin."""

    lease: float
    """Seconds that a claim lasts, if what was claimed is not stored. Others wait no longer. 0: nobody waits."""
    piece: int
    """Bytes, a power of two: a range is claimed in pieces, cut at the multiples of this."""

    def claim(self, digest: bytes, spans: Sequence[tuple[int, int]]) -> Sequence[bool]:
        """For each span (offset, length), return True if the caller is to fetch and store it, False if another does that."""
        ...

    def release(self, digest: bytes, spans: Sequence[tuple[int, int]]) -> None:
        """End the caller's claims to ranges (offset, length): they will not be stored. Others' claims stay."""
        ...


class TierStat(NamedTuple):
    """What one process has had from a tier, since it opened it.

    Attributes
    ----------
    url : str
        The tier, as `foliocache.open` was given it, without a password.
    state : str
        "ready", or why it is left alone.
    hits, misses, hit_bytes : int
        Folios that it had and had not, and bytes of those that it had.
    skipped : int
        Folios that it was not asked for, because it was left alone.
    stores, store_bytes : int
        Folios that were given to it, and their bytes.
    dropped : int
        Folios that were not given to it, because the queue was full or it was left alone.
    declined : int
        Folios that it did not want: those of a scan, when it is full.
    errors : int
        Calls that failed, or took longer than the timeout.
    load_seconds, store_seconds : float
        The time that all calls took together.
    slowest_load : float
        Seconds of the slowest load.
    wait_seconds : float
        Seconds that fetched folios have waited for a place in the queue of what is to be stored.
    """

    url: str
    state: str
    hits: int
    misses: int
    hit_bytes: int
    skipped: int
    stores: int
    store_bytes: int
    dropped: int
    declined: int
    errors: int
    load_seconds: float
    store_seconds: float
    slowest_load: float
    wait_seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a new dict for JSON."""
        return self._asdict()
