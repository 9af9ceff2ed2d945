"""Everything that foliocache raises on its own account."""


class FoliocacheError(Exception):
    """Base of all of them; the message says what was wrong and what to do."""


class PoolNotFoundError(FoliocacheError, FileNotFoundError):
    """There is no pool of that name."""


class PoolError(FoliocacheError):
    """A pool cannot be used: somebody else's, full of clients, of another version, or damaged."""


class PoolDamagedError(PoolError):
    """A pool's file is damaged, or was never one."""


class PoolMismatchError(PoolError, ValueError):
    """A pool exists with other parameters than those asked for."""


class PoolFullError(PoolError, OSError):
    """The shared memory file system has no room for the pool."""


class SourceError(FoliocacheError, OSError):
    """The source of a mapping returned something other than the bytes it was asked for."""


class LeaseError(FoliocacheError, ValueError):
    """A lease was used after its release, or in a process that inherited it by fork."""
