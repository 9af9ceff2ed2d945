"""The Linux page cache for anything Python can read, shared by all the Python processes of a machine.

In short::

    import foliocache

    pool = foliocache.open("default", size="4GiB")
    mapping = pool.mapping("key", size, version, read=lambda offset, length: ...)
    with mapping.lease(0) as lease:
        memoryview(lease)        # zero-copy, read-only, pinned
"""

from .errors import (
    ChangedError,
    FoliocacheError,
    LeaseError,
    PoolDamagedError,
    PoolError,
    PoolFullError,
    PoolMismatchError,
    PoolNotFoundError,
    SourceError,
)

try:
    from .observe.records import ClientInfo, Finding, ObjectInfo, Stat
    from .pool.files import pools, remove
    from .pool.lease import Lease
    from .pool.mapping import Mapping
    from .pool.opening import attach, open
    from .pool.pool import Pool
    from .pool.window import Window
except ImportError as _error:
    # foliocache.check can be imported without the compiled core. What needs the core raises the error that says why.
    _why = f"foliocache's core cannot be imported: {_error}"
    if _error.name == "cython":  # where it is installed, the sources say so themselves
        _why += ". It is not compiled: build it with 'pip install .', which needs a C compiler and the Python headers"

    def _missing(name: str) -> object:
        if name in __all__:
            raise ImportError(_why)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    globals()["__getattr__"] = _missing

__version__ = "0.1.0"
__all__ = [
    "ChangedError",
    "ClientInfo",
    "Finding",
    "FoliocacheError",
    "Lease",
    "LeaseError",
    "Mapping",
    "ObjectInfo",
    "Pool",
    "PoolDamagedError",
    "PoolError",
    "PoolFullError",
    "PoolMismatchError",
    "PoolNotFoundError",
    "SourceError",
    "Stat",
    "Window",
    "attach",
    "open",
    "pools",
    "remove",
]
