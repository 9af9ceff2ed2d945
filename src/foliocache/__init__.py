"""The Linux page cache for anything Python can read, shared by all the Python processes of a machine.

In short::

    import foliocache

    cache = foliocache.open("default", size="4GiB")
    mapping = cache.mapping("key", size, version, read=lambda offset, length: ...)
    with mapping.lease(0) as lease:
        memoryview(lease)        # zero-copy, read-only, pinned
"""

from .errors import (
    FoliocacheError,
    LeaseError,
    SegmentDamaged,
    SegmentError,
    SegmentFull,
    SegmentMismatch,
    SegmentNotFound,
    SourceError,
)
from .pool.lease import Lease
from .pool.mapping import Mapping
from .pool.pool import Cache, attach, open
from .pool.segment import remove, segments
from .pool.window import Window

__version__ = "0.1.0"
__all__ = [
    "Cache",
    "FoliocacheError",
    "Lease",
    "LeaseError",
    "Mapping",
    "SegmentDamaged",
    "SegmentError",
    "SegmentFull",
    "SegmentMismatch",
    "SegmentNotFound",
    "SourceError",
    "Window",
    "attach",
    "open",
    "remove",
    "segments",
]
