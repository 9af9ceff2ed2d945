"""The errors that foliocache raises. Their messages say what was wrong, and what to do."""

from __future__ import annotations

import errno


class FoliocacheError(Exception):
    """Base of all errors. Raised itself if a pool was closed in this process, or a stopped process holds up the work."""


class PoolNotFoundError(FoliocacheError, FileNotFoundError):
    """There is no pool of that name."""


class PoolError(FoliocacheError):
    """A pool cannot be used: it is another user's, has no room for one more process, or is of another version."""


class PoolDamagedError(PoolError):
    """The file of a pool is damaged, or is no pool's file."""


class PoolMismatchError(PoolError, ValueError):
    """A pool exists with other parameters than those that were asked for."""


class PoolFullError(PoolError, OSError):
    """The shared memory file system has no room for the pool."""


class SourceError(FoliocacheError, OSError):
    """A source failed or returned other bytes than it was asked for, in this process or another; or there is no source.

    Its ``errno`` is that of the source's own error, if that had one.
    """


class ChangedError(FoliocacheError, OSError):
    """The object at the origin has changed since it was opened; open it again. Its ``errno`` is ``ESTALE``.

    Parameters
    ----------
    path : str
        The object, as its file system names it; ``filename`` of the error.
    """

    def __init__(self, path: str) -> None:
        super().__init__(errno.ESTALE, "The object changed at its origin since it was opened; open it again", path)

    def __reduce__(self) -> tuple[type[ChangedError], tuple[str]]:
        return type(self), (self.filename,)


class LeaseError(FoliocacheError, ValueError):
    """A lease or a window was used after its end, or in a process that inherited it by fork."""
