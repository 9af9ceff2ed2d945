"""The mapping of one Python object: in as few folios as can be, and read whole."""

from __future__ import annotations

from ..mm import layout
from .lease import Lease
from .mapping import Mapping
from .whole import lease_all


class ObjectMapping(Mapping):
    """A mapping that is read whole. One of up to a folio's size lies in one folio, if there is one of that size."""

    _units_per_object = 1 << layout.SPAN_MAX

    def lease_all(self) -> Lease | None:
        """A lease on all of it, or None if it lies in several folios."""
        return lease_all(self)
