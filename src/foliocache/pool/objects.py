"""The mappings of Python objects, which are kept in as few folios as possible and read as a whole."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import FoliocacheError
from ..filler.miss import Filler
from ..filler.readahead import Readahead
from ..mm import backing, layout, page_alloc, xarray
from ..sizes import quoted
from .found import FoundMap
from .mapping import Mapping, _order_for, _span_for, pool_digest

if TYPE_CHECKING:
    from ..filler.source import Source
    from .lease import Lease
    from .pool import Pool


EQUAL_MAX = 6  # folios of one size for one object
SMALL_PART = 32  # of a pool: what is evicted at once, and may prove not to be needed, is no more than 1 / SMALL_PART
SHAPES_MAX = 1024  # sizes of objects that are kept
_UNITS = 1 << layout.SPAN_MAX  # of an object, if a unit may be that large


class ObjectMapping(Mapping):
    """A mapping that is read as a whole. One whose size is a power of two, up to that of the largest folio, is in one folio, if
    the pool has one free."""

    _is_tiered = False  # a Python object is known by the pool's names, which end with the pool
    _is_whole = True  # what is left of one when a part was evicted is of no use
    _units_per_object = _UNITS
    _takes_several: bool

    def _span(self, units: int, most: int) -> int:
        """Prefer a few folios of one size to a large and a small one: the allocator then usually hands out neighbours, which
        are read as one buffer without mapping them once more."""
        span = _span(units, most)
        self._takes_several = units > 1 << span
        return span

    def make_room(self) -> None:
        """Evict as much as this object takes, if the pool is full and this is a small part of it; for one that is about to be
        filled.

        Evicted for one of its folios after the other, objects would leave places apart from each other. An object that is
        evicted whole leaves its own, side by side, and this one gets them.
        """
        attachment, pages = self.pool._attachment, -(-self.size // self.pool.page_size)
        mem, limit = attachment.segment.mem, backing.limit(attachment.segment.mem)
        is_full = page_alloc.backed_pages(mem) >= limit and page_alloc.free_pages(mem) < 2 * pages
        if is_full and self._takes_several and pages <= limit // SMALL_PART:
            attachment.evict(pages)

    def lease_all(self) -> Lease | None:
        """Return a lease on the whole object, which is filled if it is missing; None if it is in several folios, or empty.

        Raises FoliocacheError if the pool has no room for it, or this process has as many leases as it can.
        """
        if self.size == 0:
            return None
        lease = self.lease(0, self.size)
        if not lease.cached:
            raise FoliocacheError(
                f"{quoted(self.key)} cannot be pinned: the pool has no room for it, or this process no lease left"
            )
        return lease if len(lease) == self.size else None


class Finder:
    """Makes the mappings of objects that were found by their names: the same objects as those of `ObjectMapping`, without what
    filling them takes.

    A folio that was evicted raises what ``source`` raises, an object without any raises ``gone``.
    """

    def __init__(self, pool: Pool, source: Source, gone: Callable[[str], Exception]) -> None:
        self._attachment = pool._attachment
        self._filler = Filler("an object", weakref.proxy(pool), None, None, source, False, Readahead(1))
        self._gone = gone
        self._page_size, self._first_bytes = pool.page_size, pool._attachment.segment.first_bytes
        self._shapes: dict[int, tuple[int, int, int]] = {}

    def find(self, key: str, size: int, version: str) -> FoundMap:
        """Return the mapping of an object."""
        shape = self._shapes.get(size) or self._shape(size)
        return FoundMap(
            self._attachment, self._filler, size, *shape, pool_digest(key, size, version, is_whole=True), self._gone
        )

    def _shape(self, size: int) -> tuple[int, int, int]:
        """Return the order of a unit, the height of the index, and the span of a folio, of an object of so many bytes."""
        order = _order_for(size, self._page_size, self._first_bytes, _UNITS)
        unit = self._page_size << order
        units = -(-size // unit)
        if len(self._shapes) >= SHAPES_MAX:
            self._shapes.clear()
        shape = order, xarray.height_for(units), _span(units, _span_for(unit, self._page_size, self._first_bytes))
        return self._shapes.setdefault(size, shape)


def _span(units: int, most: int) -> int:
    common = (units & -units).bit_length() - 1
    return min(common, most) if 0 < units >> common <= EQUAL_MAX else most
