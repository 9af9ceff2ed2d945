"""All of an object as one buffer, where one folio has it."""
from .lease cimport FolioMap, Lease

from ..errors import FoliocacheError


def lease_all(FolioMap mapping not None):
    """A lease on all of an object, filled if need be; None if it lies in several folios.

    Raises
    ------
    FoliocacheError
        It cannot be pinned: the pool has no room for it, or this process holds as many leases as it can.
    Exception
        Whatever the source raises.
    """
    cdef Lease lease
    if mapping.size == 0:
        mapping._check()
        return None
    lease = mapping._lease(0, mapping.size, mapping.most)
    if lease.private is not None:
        raise FoliocacheError(f"{mapping.key!r} cannot be pinned: the pool has no room for it, or this process no lease left")
    return lease if <unsigned long long>lease.length == <unsigned long long>mapping.size else None
