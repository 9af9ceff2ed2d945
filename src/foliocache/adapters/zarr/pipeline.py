"""A codec pipeline that keeps decoded chunks in the pool of the array's `FolioStore`: each is decoded once per machine.

A decoded chunk has the same key as the encoded value, and a version of its own: a digest of the codecs and of the chunk's
shape, type and fill value. So a write to the value forgets the decoded chunk, too, and other codecs have other decoded chunks.
The inner chunks of a shard (``shards``) are parts of the value (``store``).
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy
from zarr.codecs.sharding import ShardingCodec
from zarr.core.codec_pipeline import BatchedCodecPipeline
from zarr.core.config import config
from zarr.core.indexing import get_indexer
from zarr.registry import register_pipeline
from zarr.storage import StorePath

from ...objects import keys
from ...objects.found import MISSING
from .shards import Coordinates, Shard, grid
from .store import FolioStore, part

ABSENT = b""  # there is no such value
ABSENT_IN_SHARD = b"-"  # there is a shard, which does not have the chunk
MISSES = 512  # chunks that one read makes at once


class _Chunk(NamedTuple):
    """A chunk that a read wants, of the value with number ``item``, and where its elements go."""

    item: int
    store: FolioStore
    path: str
    version: str
    spec: Any
    selection: Any
    out: Any
    out_selection: Any
    drop_axes: tuple[int, ...]
    shard: Shard | None = None
    coordinates: Coordinates = ()


class _Made(NamedTuple):
    """What was read of a shard, if its chunks could not be written to their places directly."""

    part: Any
    shape: tuple[int, ...] | None
    out: Any
    out_selection: Any
    drop_axes: tuple[int, ...]

    def move(self) -> None:
        part = self.part if self.shape is None else self.part.reshape(self.shape)
        self.out[self.out_selection] = part.squeeze(axis=self.drop_axes) if self.drop_axes else part


@dataclasses.dataclass(frozen=True)
class CachedCodecPipeline(BatchedCodecPipeline):
    """Zarr's codec pipeline, with decoded chunks kept in a pool.

    Used for arrays in a `FolioStore` after ``zarr.config.set({"codec_pipeline.path":
    "foliocache.zarr.CachedCodecPipeline"})``. Reads of a part of a chunk do not decode it again; of a shard, only the inner
    chunks that are read are decoded. Arrays of Python objects are decoded as by Zarr's own pipeline.
    """

    async def read(self, batch_info: Iterable[Any], out: Any, drop_axes: tuple[int, ...] = ()) -> Any:
        items = list(batch_info)
        is_sharded = self.is_sharding
        if not items or not self.keeps(*items[0][:2]):
            return await super().read(items, out, drop_axes)
        made: list[_Made] = []
        if is_sharded:
            words = {getter.path: await getter.store.word(getter.path) for getter, *_ in items}
            wanted = list(self._inner(items, words, out, drop_axes, made))
        else:
            wanted = list(self._whole(items, out, drop_axes))
        chunks = [_recall(each) for each in wanted]
        missing = [n for n, (_, chunk) in enumerate(chunks) if chunk is MISSING]
        if missing:
            await self._make_all(wanted, chunks, missing)
        present = [False] * len(items)
        for want, (first, chunk) in zip(wanted, chunks, strict=True):
            present[want.item] |= _put(want, first, chunk)
        for each in made:
            each.move()
        return tuple({"status": "present" if each else "missing"} for each in present)  # newer versions of Zarr expect it

    def _whole(self, items: Sequence[Any], out: Any, drop_axes: tuple[int, ...]) -> Iterator[_Chunk]:
        """Yield the chunks of values that are one chunk each."""
        version, spec = "", None
        for number, (getter, each, selection, out_selection, *_) in enumerate(items):
            if each is not spec:
                spec, version = each, self.version_of(each)
            yield _Chunk(number, getter.store, getter.path, version, each, selection, out, out_selection, drop_axes)

    def _inner(
        self, items: Sequence[Any], words: dict[str, str], out: Any, drop_axes: tuple[int, ...], made: list[_Made]
    ) -> Iterator[_Chunk]:
        """Yield the inner chunks of values that are shards, with these words; append to ``made`` what is to be moved when they
        have been read."""
        codec: Any = self.array_bytes_codec
        for number, (getter, spec, selection, out_selection, *_) in enumerate(items):
            version, inner = self.version_of(spec), codec._get_chunk_spec(spec)
            indexer = get_indexer(selection, shape=spec.shape, chunk_grid=grid(spec.shape, codec.chunk_shape))
            into = _view(out, out_selection, drop_axes, indexer.shape)
            if into is None:
                into = spec.prototype.nd_buffer.empty(shape=indexer.shape, dtype=spec.dtype.to_native_dtype(), order=spec.order)
                made.append(_Made(into, getattr(indexer, "sel_shape", None), out, out_selection, drop_axes))
            shard, word = Shard(getter.store, getter.path, codec, spec), words[getter.path]
            for coordinates, chunk_selection, place, *_ in indexer:
                at = part_of(getter.path, word, coordinates)
                yield _Chunk(number, getter.store, at, version, inner, chunk_selection, into, place, (), shard, coordinates)

    async def _make_all(self, wanted: Sequence[_Chunk], chunks: list[tuple[int, Any]], missing: Sequence[int]) -> None:
        limit = asyncio.Semaphore(config.get("async.concurrency"))
        for start in range(0, len(missing), MISSES):
            group = missing[start : start + MISSES]
            for n in group:
                if (shard := wanted[n].shard) is not None:
                    shard.expected += 1
            made = await asyncio.gather(*[self._make(wanted[n], limit) for n in group])
            for n, chunk in zip(group, made, strict=True):
                chunks[n] = 0, chunk

    async def _make(self, chunk: _Chunk, limit: asyncio.Semaphore) -> Any:
        shard = chunk.shard
        if shard is None:
            async with limit:
                return await chunk.store.make(chunk.path, chunk.version, lambda: self._decoded(chunk))
        is_asked = False

        async def make() -> Any:
            nonlocal is_asked
            is_asked = True
            return await self._decoded_inner(chunk, shard)

        try:
            return await chunk.store.make(chunk.path, chunk.version, make)
        finally:
            if not is_asked:
                shard.settle()

    async def _decoded(self, chunk: _Chunk) -> Any:
        content = await chunk.store.read_unkept(chunk.path)
        if content is None:
            return ABSENT
        (decoded,) = await self.decode([(content, chunk.spec)])
        return ABSENT if decoded is None else numpy.asarray(decoded.as_numpy_array())

    async def _decoded_inner(self, chunk: _Chunk, shard: Shard) -> Any:
        try:
            content = await shard.load(chunk.coordinates)
        except FileNotFoundError:
            return ABSENT
        if content is None:
            return ABSENT_IN_SHARD
        (decoded,) = await shard.pipeline.decode([(content, chunk.spec)])
        return ABSENT_IN_SHARD if decoded is None else numpy.asarray(decoded.as_numpy_array())

    @property
    def is_sharding(self) -> bool:
        """Whether values are shards, whose inner chunks can be read one by one."""
        return type(self.array_bytes_codec) is ShardingCodec and self.supports_partial_decode

    def keeps(self, getter: Any, spec: Any) -> bool:
        """Return True if an array's decoded chunks are kept: it is in a FolioStore, in CPU memory, and has no Python objects.
        Of ``spec``, a chunk's, only the type and the prototype count."""
        return (
            isinstance(getter, StorePath)
            and isinstance(getter.store, FolioStore)
            and not spec.dtype.to_native_dtype().hasobject
            and spec.prototype.nd_buffer.__module__ == "zarr.core.buffer.cpu"
            and (not self.supports_partial_decode or self.is_sharding or _is_bytes(self))
        )

    def version_of(self, spec: Any) -> str:
        """Return the digest of the codecs and of what a chunk is. One array asks for the same again and again."""
        known: dict[Any, tuple[Any, Any, str]] = self.__dict__.setdefault("_versions", {})
        found = known.get((spec.shape, spec.order))
        if found is None or found[0] is not spec.dtype or found[1] is not spec.fill_value:
            digest = _digest(self, spec.shape, spec.dtype, repr(spec.fill_value), spec.order)
            known[spec.shape, spec.order] = found = (spec.dtype, spec.fill_value, digest)
        return found[2]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_versions"}


CachedCodecPipeline.__module__ = "foliocache.zarr"  # the name in Zarr's registry
register_pipeline(CachedCodecPipeline)


def part_of(path: str, word: str, coordinates: Iterable[int]) -> str:
    """Return the key of an inner chunk of the shard at path."""
    return part(path, word, ".".join(map(str, coordinates)))


def _digest(pipeline: CachedCodecPipeline, *spec: Any) -> str:
    text = "\n".join([*(each for codec in pipeline for each in _told(codec)), *(repr(each) for each in spec)])
    if " at 0x" in text:  # a codec's repr is an address: valid in this process only
        text += f"\n{os.getpid()} {id(pipeline)} {time.monotonic_ns()}"
    return f"decoded {hashlib.blake2b(text.encode('utf-8', 'surrogatepass'), digest_size=16).hexdigest()}"


def _told(codec: Any) -> Iterator[str]:
    """Yield what tells a codec from others: it and, of the codecs of numcodecs in it, all parameters. Some of those show a part
    of them only."""
    yield f"{type(codec).__qualname__} {codec!r}"
    for each in (*(getattr(codec, "filters", None) or ()), getattr(codec, "compressor", None)):
        if hasattr(each, "get_config"):
            try:
                yield keys.digest(each.get_config())
            except TypeError:
                yield f"{each!r} at 0x{id(each):x}"


def _is_bytes(pipeline: CachedCodecPipeline) -> bool:
    return type(pipeline.array_bytes_codec).__name__ == "BytesCodec"


def _view(out: Any, selection: Any, drop_axes: tuple[int, ...], shape: tuple[int, ...]) -> Any:
    """Return a part of ``out`` as a buffer that is written to directly; None if the selection has none of that shape."""
    if drop_axes or not isinstance(selection, tuple) or not all(type(each) is slice for each in selection):
        return None
    part = out.as_ndarray_like()[(*selection, ...)]
    return type(out).from_ndarray_like(part) if part.shape == shape else None


def _recall(chunk: _Chunk) -> tuple[int, Any]:
    """Return a chunk that is cached, or its rows from a first one on that has all that are wanted; else (0, MISSING)."""
    selection = chunk.selection
    rows = selection[0] if type(selection) is tuple and selection else None
    if type(rows) is slice and rows.step in (None, 1) and rows.start is not None and 0 <= rows.start < (rows.stop or 0):
        return chunk.store.recall_rows(chunk.path, chunk.version, rows.start, min(rows.stop, chunk.spec.shape[0]))
    return 0, chunk.store.recall(chunk.path, chunk.version)


def _put(chunk: _Chunk, first: int, found: Any) -> bool:
    """Copy what is wanted of a chunk to its place; ``found`` has the chunk's rows from ``first`` on. Return False if there is
    no such value."""
    spec = chunk.spec
    if isinstance(found, bytes):
        fill = spec.fill_value
        chunk.out[chunk.out_selection] = spec.dtype.default_scalar() if fill is None else fill
        return found != ABSENT
    chunk.store.held.keep((chunk.store._prefix + chunk.path, chunk.version), found)
    selection = chunk.selection
    if first:
        selection = (slice(selection[0].start - first, selection[0].stop - first), *selection[1:])
    part = spec.prototype.nd_buffer.from_ndarray_like(found)[selection]
    chunk.out[chunk.out_selection] = part.squeeze(axis=chunk.drop_axes) if chunk.drop_axes else part
    return True
