"""An array whose reads of decoded chunks do not go through Zarr's event loop.

Zarr hands every read over to a thread with an event loop, makes objects for every chunk, and waits: some 100 us, while a chunk
is found in the pool in one. So a selection of integers and slices is taken apart here, and copied from the pool if that has all
of its chunks. Everything else is Zarr's: other selections, chunks that are missing, arrays that the pool keeps no chunks of.
"""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy
from zarr import Array, AsyncArray
from zarr.core.buffer import default_buffer_prototype

from foliocache.sizes import quoted

from ...objects import values
from ...objects.found import MISSING
from .gather import gather
from .pipeline import CachedCodecPipeline, part_of
from .store import FolioStore

if TYPE_CHECKING:
    from ...objects.found import Found
    from ...objects.host import Known

KNOWN_MAX = 8192  # chunks of one array that are remembered

Bound = int | tuple[int, int]  # what is selected in one dimension: a number, or from one to another
Cut = tuple[int, Any, Any]  # number of a chunk in one dimension, what is wanted of it, and the place in the result


class _Chunk(NamedTuple):
    """A decoded chunk that was read before: its shard and the word in the keys of the shard's parts, or "" without shards; its
    name and key in the pool."""

    shard: str
    word: str
    name: Known
    key: str


class FolioArray(Array[Any]):
    """A Zarr array in a `FolioStore`, with reads that find decoded chunks faster.

    ``array[selection]`` of integers and slices of step 1 is copied from the pool's pages, if the pool has all decoded chunks
    of it, without Zarr's event loop. In all else it is the array that it was made of, also for chunks that are not decoded yet.

    Parameters
    ----------
    array : zarr.Array
        An array in a `FolioStore` that was opened with `CachedCodecPipeline`.

    Raises
    ------
    TypeError
        The array is not in a `FolioStore`, or has another codec pipeline.
    """

    _plan: _Plan | None = None

    def __init__(self, array: Array[Any] | AsyncArray[Any]) -> None:
        if not isinstance(array, (Array, AsyncArray)):
            raise TypeError(f"a FolioArray is made of a zarr.Array, not of {type(array).__name__}")
        super().__init__(array.async_array if isinstance(array, Array) else array)
        inner = self.async_array
        if not isinstance(inner.store_path.store, FolioStore):
            raise TypeError(f"{quoted(array)} is not in a FolioStore; open it from foliocache.zarr.FolioStore(store, pool)")
        if not isinstance(inner.codec_pipeline, CachedCodecPipeline):
            raise TypeError(
                f"{quoted(array)} was opened with {type(inner.codec_pipeline).__name__}, which keeps no decoded chunks; "
                'before that, zarr.config.set({"codec_pipeline.path": "foliocache.zarr.CachedCodecPipeline"})'
            )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_plan"}

    def __getitem__(self, selection: Any) -> Any:
        found = self._read(selection)
        return super().__getitem__(selection) if found is MISSING else found

    def _read(self, selection: Any) -> Any:
        """Return what is selected; MISSING if that is for Zarr to read."""
        plan, inner = self._plan, self.async_array
        if plan is None or plan.metadata is not inner.metadata or plan.config is not inner.config or plan.has_moved:
            plan = self._plan = _planned(inner)
        if plan.store is None:
            return MISSING
        taken = _take_apart(selection, inner.metadata.shape)
        return MISSING if taken is None else plan.read(plan.store, *taken)


class _Plan:
    """What is the same for all reads of an array, while its metadata are. ``store`` is None if Zarr must read it."""

    def __init__(self, inner: AsyncArray[Any], store: FolioStore | None) -> None:
        self.metadata, self.config, self.store = inner.metadata, inner.config, store
        self.chunks: tuple[int, ...] = ()
        self._prefix = "" if store is None else store._prefix
        if store is None:
            return
        self.chunks = inner.metadata.chunks
        self._path = inner.store_path
        outer = inner.metadata.shards or self.chunks
        self._per_shard = tuple(a // b for a, b in zip(outer, self.chunks, strict=True)) if inner.metadata.shards else None
        metadata: Any = inner.metadata
        kind, fill = metadata.dtype, metadata.fill_value
        self._order = metadata.order if metadata.zarr_format == 2 else inner.config.order
        pipeline: Any = inner.codec_pipeline
        self._version = pipeline.version_of(SimpleNamespace(shape=outer, dtype=kind, fill_value=fill, order=self._order))
        self._type = kind.to_native_dtype()
        self._kind, self._given_fill = kind, fill
        self._head = values.head_of(self.chunks, self._type), self._type.itemsize * math.prod(self.chunks[1:])
        self._paths: dict[tuple[int, ...], str] = {}
        self._known: dict[tuple[int, ...], _Chunk] = {}
        self._words: dict[str, tuple[Known, Found, str]] = {}
        self._columns: _Columns | None = None

    @property
    def _fill(self) -> Any:
        """What a chunk without a value is made of. Not all types have it, if the array has no fill value."""
        return self._kind.default_scalar() if self._given_fill is None else self._given_fill

    @property
    def has_moved(self) -> bool:
        """Whether the store has another place in the pool than when this was planned."""
        return self.store is not None and self.store._prefix is not self._prefix

    def read(self, store: FolioStore, shape: tuple[int, ...], bounds: tuple[Bound, ...]) -> Any:
        """Return the elements; MISSING if the pool does not have all chunks."""
        columns = self._columns
        if columns is None or columns.bounds != bounds[1:]:
            columns = self._columns = _Columns(bounds[1:], self.chunks[1:])
        objects, expiry = store.pool.objects, store.expiry
        head, row_size = self._head if columns.are_whole else (None, 0)
        parts: list[tuple[tuple[slice, ...], Any, tuple[int, ...] | None]] = []
        words: dict[str, str | None] = {}
        for number, rows, place in _cuts(bounds[0], self.chunks[0]):
            first, end = (rows.start, rows.stop) if type(rows) is slice else (rows, rows + 1)
            begin, length, known_shape = first * row_size, (end - first) * row_size, (end - first, *self.chunks[1:])
            for coordinates, selection, places in columns.cuts:
                known = self._known_at(store, (number, *coordinates), words)
                if known is None:
                    return MISSING
                where = places if place is None else (place, *places)
                if head is not None and place is not None:
                    found = objects.bytes_of(known.name, known.key, expiry, head, begin, length)
                    if found is not None:
                        parts.append((where, found, known_shape))
                        continue
                base, chunk = objects.rows_of(known.name, known.key, expiry, first, end)
                if chunk is MISSING:
                    return MISSING
                if isinstance(chunk, bytes):
                    chunk = self._fill
                elif type(rows) is not slice:
                    chunk = chunk[(rows - base, *selection)]
                elif not columns.are_whole or len(chunk) != end - first:
                    chunk = chunk[(slice(first - base, end - base), *selection)]
                parts.append((where, chunk, None))
        out = numpy.empty(shape, self._type, self._order)
        gather(out, parts, columns.side)
        return out

    def _known_at(self, store: FolioStore, coordinates: tuple[int, ...], words: dict[str, str | None]) -> _Chunk | None:
        """Return a decoded chunk's name and key; None if the pool has no parts of its shard. ``words`` are those that this read
        has found."""
        found = self._known.get(coordinates)
        if self._per_shard is None:
            return self._remember(coordinates, store, "", "", self._path_of(coordinates)) if found is None else found
        if found is not None:
            path = found.shard
        else:
            path = self._path_of(tuple([a // b for a, b in zip(coordinates, self._per_shard, strict=True)]))
        if path not in words:
            words[path] = self._word(store, path)
        word = words[path]
        if word is None or (found is not None and found.word == word):
            return None if word is None else found
        within = [a % b for a, b in zip(coordinates, self._per_shard, strict=True)]
        return self._remember(coordinates, store, path, word, part_of(path, word, within))

    def _word(self, store: FolioStore, path: str) -> str | None:
        """Return the word in the keys of a shard's parts; None if it has none yet."""
        name, found, word = self._words.get(path) or (None, None, "")
        if name is not None and found is not None and name.look(found.record) is found.record:
            return word
        if not store.is_trusted:
            return store.known_word(path)
        made = store.found_word(path)
        if made is None:
            return None
        if len(self._words) >= KNOWN_MAX:
            self._words.clear()
        self._words[path] = made
        return made[2]

    def _remember(self, coordinates: tuple[int, ...], store: FolioStore, shard: str, word: str, path: str) -> _Chunk:
        if len(self._known) >= KNOWN_MAX:
            self._known.clear()
        found = self._known[coordinates] = _Chunk(shard, word, *store.know(path, self._version))
        return found

    def _path_of(self, coordinates: tuple[int, ...]) -> str:
        found = self._paths.get(coordinates)
        if found is None:
            found = (self._path / self.metadata.encode_chunk_key(coordinates)).path
            if len(self._paths) < KNOWN_MAX:
                self._paths[coordinates] = found
        return found


def _planned(inner: AsyncArray[Any]) -> _Plan:
    metadata, pipeline = inner.metadata, inner.codec_pipeline
    store = inner.store_path.store
    assert isinstance(pipeline, CachedCodecPipeline)
    prototype = default_buffer_prototype()
    is_ours = (
        isinstance(store, FolioStore)
        and metadata.shape != ()
        and (metadata.zarr_format == 2 or type(metadata.chunk_grid).__name__.startswith("RegularChunkGrid"))
        and getattr(inner.config, "read_missing_chunks", True)
        and (metadata.shards is None or pipeline.is_sharding)
        and pipeline.keeps(inner.store_path, SimpleNamespace(dtype=metadata.dtype, prototype=prototype))
    )
    return _Plan(inner, store if is_ours and isinstance(store, FolioStore) else None)


class _Columns:
    """What a selection means in all dimensions but the first. Reads of one slab after the other select the same."""

    def __init__(self, bounds: tuple[Bound, ...], chunks: tuple[int, ...]) -> None:
        self.bounds = bounds
        cuts = [_cuts(bound, chunk) for bound, chunk in zip(bounds, chunks, strict=True)]
        self.side = len(cuts[-1]) if cuts else 1  # chunks that lie side by side
        self.are_whole = all(
            type(part) is slice and part.start == 0 and part.stop == chunk
            for each, chunk in zip(cuts, chunks, strict=True)
            for _, part, _ in each
        )
        self.cuts = [
            (tuple(n for n, _, _ in each), tuple(part for _, part, _ in each), tuple(at for *_, at in each if at is not None))
            for each in itertools.product(*cuts)
        ]


def _take_apart(selection: Any, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[Bound, ...]] | None:
    """Return the shape of a selection and its bounds in each dimension; None if it is one for Zarr."""
    given = selection if type(selection) is tuple else (selection,)
    dots = [n for n, each in enumerate(given) if each is ...]
    at = dots[0] if dots else len(given)
    whole = len(shape) - len(given) + len(dots)
    if len(dots) > 1 or whole < 0:
        return None
    given = (*given[:at], *[slice(None)] * whole, *given[at + 1 :])
    sizes: list[int] = []
    bounds: list[Bound] = []
    for each, size in zip(given, shape, strict=True):
        if type(each) is slice:
            try:
                start, stop, step = each.indices(size)
            except TypeError:
                return None
            if step != 1:
                return None
            sizes.append(max(stop - start, 0))
            bounds.append((start, max(start, stop)))
        elif type(each) is int or isinstance(each, numpy.integer):
            if not -size <= each < size:
                return None
            bounds.append(int(each) % size)
        else:
            return None
    if not sizes and (dots or any(type(each) is not int for each in given)):
        return None  # one element, which Zarr returns as a scalar then
    return tuple(sizes), tuple(bounds)


def _cuts(bound: Bound, chunk: int) -> list[Cut]:
    if not isinstance(bound, tuple):
        number, within = divmod(bound, chunk)
        return [(number, within, None)]
    found: list[Cut] = []
    start, stop = bound
    at = start
    while at < stop:
        number, within = divmod(at, chunk)
        end = min(stop, (number + 1) * chunk)
        found.append((number, slice(within, within + end - at), slice(at - start, end - start)))
        at = end
    return found
