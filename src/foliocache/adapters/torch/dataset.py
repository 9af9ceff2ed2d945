"""A map-style dataset whose samples are kept in a pool."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch.utils.data

from foliocache.sizes import quoted

from ...objects import keys
from ...objects.found import MISSING
from ...objects.many import get_or_create_many
from . import naming
from .leftovers import Leftovers
from .transform import check

if TYPE_CHECKING:
    from ...objects import Loads, Writable
    from ...pool.pool import Pool


class SharedDataset(torch.utils.data.Dataset[Any]):
    """A map-style dataset around another one: each sample is made once per machine, and then read from the pool.

    Give it to a ``DataLoader`` in place of the other dataset. Workers may be forked or spawned: it pickles with the pool and
    the dataset.

    Parameters
    ----------
    dataset : map-style dataset
        What makes the samples: ``dataset[index]``, or ``dataset.__getitems__(indices)`` if it has that. A sample is a tensor,
        an array, a dict, list or tuple of such, or anything that pickles. Random augmentations do not belong here, as they
        would be kept: give them as ``transform``.
    pool : Pool
        The pool that keeps the samples.
    key : str
        The dataset's name: all datasets with the same key and version share their samples, in all processes and at all times.
    version : str
        Another version has samples of its own. Change it when the same index means something else.
    expiry : float, optional
        Seconds after which a sample is made once more. By default never.
    loads : {"any", "arrays"}
        With "arrays", samples are single tensors, arrays or bytes, and nothing is unpickled.
    writable : {"copy"}, optional
        By default, tensors and arrays of a sample may be written to: the pages that are written become copies of the process.
        With None they are views of the pool's pages, a few microseconds faster; a process that writes to such a tensor ends
        with SIGSEGV.
    transform : callable, optional
        Called with each sample, each time. What it returns is not kept.

    Attributes
    ----------
    dataset : map-style dataset
        The dataset that makes the samples.
    pool : Pool
        The pool that keeps them.

    Raises
    ------
    TypeError
        The dataset is not map-style, ``pool`` is no pool, or ``transform`` is not callable.
    ValueError
        A parameter has an invalid value.
    """

    def __init__(
        self,
        dataset: Any,
        pool: Pool,
        key: str,
        *,
        version: str = "",
        expiry: float | None = None,
        loads: Loads = "any",
        writable: Writable = "copy",
        transform: Callable[[Any], Any] | None = None,
    ) -> None:
        if isinstance(dataset, torch.utils.data.IterableDataset) or not hasattr(dataset, "__getitem__"):
            raise TypeError(
                f"{type(dataset).__name__} is not a map-style dataset: it has no dataset[index]. "
                "For an iterable one, keep what it reads: pool.memoize(), or files opened by folio::"
            )
        self._name, self._key = key, naming.prefix(naming.DATASET, key)
        check(pool, version, expiry, loads, writable)
        if transform is not None and not callable(transform):
            raise TypeError(f"a transform must be callable, not {quoted(transform)}")
        self.dataset: Any = dataset
        self.pool: Pool = pool
        self._options = version, expiry, loads, writable
        self._transform = transform
        self._leftovers = Leftovers()

    def __len__(self) -> int:
        """The number of samples of the dataset."""
        return len(self.dataset)

    def __repr__(self) -> str:
        return f"SharedDataset({self.dataset!r}, {self.pool!r}, {self._name!r})"

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: Any) -> Any:
        """Return a sample.

        Parameters
        ----------
        index : int or object
            Whatever the dataset takes; numbers reach it as ints. Objects other than numbers and strings are told apart by
            their content.

        Returns
        -------
        object
            The sample, with the transform applied.

        Raises
        ------
        SourceError
            Another process was making the sample, and failed.
        FoliocacheError
            The pool has been closed.
        Exception
            Whatever the dataset raises.
        """
        sample = self._sample(*self._known_by(index))
        self._leftovers.look(1)
        return sample if self._transform is None else self._transform(sample)

    def _sample(self, index: Any, name: str) -> Any:
        return self.pool.objects.get_or_create(name, functools.partial(self._made, index), *self._options)

    def _made(self, index: Any) -> Any:
        self._leftovers.add()
        return self.dataset[index]

    def __getitems__(self, indices: Sequence[Any]) -> list[Any]:
        """Return the samples of a batch. Those that the pool does not have are made in one call, if the dataset has
        ``__getitems__``.

        Parameters
        ----------
        indices : sequence
            Of what `__getitem__` takes.

        Returns
        -------
        list
            The samples, in the order of the indices.

        Raises
        ------
        Exception
            As in `__getitem__`.
        """
        known = self._known_by_all(indices)
        names = [name for _, name in known]
        many = getattr(self.dataset, "__getitems__", None)
        if callable(many):
            found = get_or_create_many(self.pool.objects, names, functools.partial(self._made_at, many, known), *self._options)
        else:
            found = self.pool.objects.find_each(names, *self._options)
            for n, sample in enumerate(found):
                if sample is MISSING:
                    found[n] = self._sample(*known[n])
        self._leftovers.look(len(found))
        return found if self._transform is None else [self._transform(sample) for sample in found]

    def _made_at(self, many: Any, known: Sequence[tuple[Any, str]], positions: Sequence[int]) -> Sequence[Any]:
        """Make the samples at some positions of a batch in one call."""
        self._leftovers.add()
        samples: Sequence[Any] = many([known[n][0] for n in positions])
        if len(samples) != len(positions):
            raise ValueError(f"{quoted(self.dataset)} returned {len(samples)} samples for {len(positions)} indices")
        return samples

    def _known_by_all(self, indices: Sequence[Any]) -> list[tuple[Any, str]]:
        """Do what ``_known_by`` does, for the indices of a batch."""
        key = self._key
        return [(index, f"{key}{index}") if type(index) is int else self._known_by(index) for index in indices]

    def _known_by(self, index: Any) -> tuple[Any, str]:
        """Return an index as the dataset gets it, and the key of its sample."""
        try:
            number = operator.index(index)
        except TypeError:
            return index, self._key + (naming.of_text(index) if isinstance(index, str) else keys.digest(index))
        return number, f"{self._key}{number}"
