"""The mapping of one Python object: in as few folios as can be, and read whole."""

from __future__ import annotations

from ..errors import FoliocacheError
from ..mm import layout
from .lease import Lease
from .mapping import Mapping


class ObjectMapping(Mapping):
    """A mapping that is read whole. One of up to a folio's size lies in one folio, if there is one of that size."""

    _units_per_object = 1 << layout.SPAN_MAX

    def lease_all(self) -> Lease | None:
        """A lease on all of it, filled if need be; None if it lies in several folios.

        Raises FoliocacheError if there is no room for it, or this process has as many leases as it can.
        """
        if self.size == 0:
            return None
        lease = self.lease(0, self.size)
        if not lease.cached:
            raise FoliocacheError(f"{self.key!r} cannot be pinned: the pool has no room for it, or this process no lease left")
        return lease if len(lease) == self.size else None
