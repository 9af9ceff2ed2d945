"""The mapping of one Python object, which is kept in as few folios as possible and read as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import FoliocacheError
from ..mm import layout
from .mapping import Mapping

if TYPE_CHECKING:
    from .lease import Lease


EQUAL_MAX = 6  # folios of one size for one object


class ObjectMapping(Mapping):
    """A mapping that is read as a whole. One whose size is a power of two, up to that of the largest folio, is in one folio, if
    the pool has one free."""

    _is_tiered = False  # a Python object is known by the pool's names, which end with the pool
    _units_per_object = 1 << layout.SPAN_MAX

    def _span(self, units: int, most: int) -> int:
        """Prefer a few folios of one size to a large and a small one: the allocator then usually hands out neighbours, which
        are read as one buffer without mapping them once more."""
        common = (units & -units).bit_length() - 1
        return min(common, most) if 0 < units >> common <= EQUAL_MAX else most

    def lease_all(self) -> Lease | None:
        """Return a lease on the whole object, which is filled if it is missing; None if it is in several folios, or empty.

        Raises FoliocacheError if the pool has no room for it, or this process has as many leases as it can.
        """
        if self.size == 0:
            return None
        lease = self.lease(0, self.size)
        if not lease.cached:
            raise FoliocacheError(f"{self.key!r} cannot be pinned: the pool has no room for it, or this process no lease left")
        return lease if len(lease) == self.size else None
