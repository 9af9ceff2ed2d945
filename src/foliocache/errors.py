"""The exceptions that foliocache defines."""


class FoliocacheError(Exception):
    """Base class of the exceptions that foliocache raises. The message says what was wrong and what to do."""


class PoolNotFoundError(FoliocacheError, FileNotFoundError):
    """There is no pool with that name."""


class PoolError(FoliocacheError):
    """A pool cannot be used: it belongs to another user, has no free client slot, was made by another version, or is
    damaged."""


class PoolDamagedError(PoolError):
    """A file with a pool's name is damaged, or is not a pool."""


class PoolMismatchError(PoolError, ValueError):
    """A pool exists with other parameters than those asked for."""


class PoolFullError(PoolError, OSError):
    """The shared memory file system has no room for the pool."""


class SourceError(FoliocacheError, OSError):
    """The source of a mapping returned something other than the bytes it was asked for."""


class LeaseError(FoliocacheError, ValueError):
    """A lease was used after its release, or in a process that inherited it by fork."""
