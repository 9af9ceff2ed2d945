"""A transform whose results are kept in a pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from foliocache.sizes import quoted

from ...objects import keys
from ...objects.store import check_options
from ...pool.pool import Pool
from . import naming

if TYPE_CHECKING:
    from ...objects import Loads, Writable


def check(pool: Pool, version: str, expiry: float | None, loads: Loads, writable: Writable) -> None:
    """Raise TypeError if ``pool`` is no pool, ValueError if an option has an invalid value."""
    if not isinstance(pool, Pool):
        raise TypeError(f"pool must be a pool, from foliocache.open(name), not {quoted(pool)}")
    check_options(version, expiry, loads, writable)


class CachedTransform:
    """A transform whose results are kept in a pool, from `cached`. It pickles with the pool and the transform.

    Attributes
    ----------
    transform : callable
        What makes the results.
    pool : Pool
        The pool that keeps them.
    """

    def __init__(
        self,
        transform: Callable[[Any], Any],
        pool: Pool,
        prefix: str,
        sample_key: Callable[[Any], str] | None,
        version: str,
        expiry: float | None,
        loads: Loads,
        writable: Writable,
    ) -> None:
        self.transform: Callable[[Any], Any] = transform
        self.pool: Pool = pool
        self._key = prefix
        self._sample_key = sample_key
        self._options = version, expiry, loads, writable

    def __call__(self, sample: Any) -> Any:
        """Return the transform of a sample, from the pool if that has it.

        Parameters
        ----------
        sample : object
            Whatever the transform takes.

        Returns
        -------
        object
            The result. Its tensors and arrays may be written to, unless ``writable`` was None.

        Raises
        ------
        TypeError
            The sample has no digest, because it does not pickle; or ``sample_key`` returned no string.
        SourceError
            Another process was making the result, and failed.
        FoliocacheError
            The pool has been closed.
        Exception
            Whatever the transform raises.
        """
        return self.pool.objects.get_or_create(self._key + self._of(sample), lambda: self.transform(sample), *self._options)

    def _of(self, sample: Any) -> str:
        if self._sample_key is None:
            return keys.digest(sample)
        name = self._sample_key(sample)
        if not isinstance(name, str):
            raise TypeError(f"sample_key must return a string, not {quoted(name)}")
        return naming.of_text(name)

    def __repr__(self) -> str:
        return f"cached({self.transform!r}, {self.pool!r})"


def cached(
    transform: Callable[[Any], Any],
    pool: Pool,
    *,
    key: str | None = None,
    sample_key: Callable[[Any], str] | None = None,
    version: str = "",
    expiry: float | None = None,
    loads: Loads = "any",
    writable: Writable = "copy",
) -> CachedTransform:
    """Return a transform whose results are made once per machine, and then read from the pool.

    Parameters
    ----------
    transform : callable
        ``transform(sample)`` returns a tensor, an array, or anything that pickles; the same for the same sample.
    pool : Pool
        The pool that keeps the results.
    key : str, optional
        The transform's name: all transforms with the same key and version share their results, and none with a dataset. By
        default a digest of its bytecode, what it has closed over and what is bound to it; of an object, of the bytecode of its
        ``__call__`` (``forward`` of a module) and of its pickle.
    sample_key : callable, optional
        ``sample_key(sample)`` returns a string that tells samples apart. By default a digest of their content.
    version : str
        Another version has results of its own.
    expiry : float, optional
        Seconds after which a result is made once more. By default never.
    loads, writable
        As in `SharedDataset`.

    Returns
    -------
    CachedTransform
        To be called with a sample.

    Raises
    ------
    TypeError
        The transform is not callable, or has no digest because it does not pickle: then give ``key``. Or ``pool`` is no pool.
    ValueError
        An option has an invalid value.
    """
    if not callable(transform):
        raise TypeError(f"a transform must be callable, not {quoted(transform)}")
    check(pool, version, expiry, loads, writable)
    if key is None:
        try:
            prefix = naming.prefix(naming.DATASET, keys.of_callable(transform))  # a digest is no dataset's key
        except (TypeError, RecursionError) as error:
            raise TypeError(f"{quoted(transform)} cannot be told from other transforms: {error}. Give key=") from error
    else:
        prefix = naming.prefix(naming.TRANSFORM, key)
    return CachedTransform(transform, pool, prefix, sample_key, version, expiry, loads, writable)
