"""A codec pipeline that keeps decoded chunks in the pool of the array's `FolioStore`: each is decoded once per machine.

A decoded chunk is kept beside the value that it was decoded from, under the same key: its version is a digest of the codecs and
of the chunk's shape, type and fill value. So it is forgotten with the value, whatever is written, and other codecs have
another.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import hashlib
import os
import time
from collections.abc import Iterable
from typing import Any

import numpy
from zarr.core.codec_pipeline import BatchedCodecPipeline
from zarr.core.config import config
from zarr.registry import register_pipeline
from zarr.storage import StorePath

from .store import MISSING, FolioStore

_ABSENT = b""


@dataclasses.dataclass(frozen=True)
class CachedCodecPipeline(BatchedCodecPipeline):
    """Zarr's codec pipeline, with decoded chunks kept in a pool.

    Used for arrays in a `FolioStore` after ``zarr.config.set({"codec_pipeline.path":
    "foliocache.zarr.CachedCodecPipeline"})``. Reads of a part of a chunk do not decode it again. Arrays of Python objects, and
    sharded ones, of which the store keeps the ranges that are read, are decoded as by Zarr's own.
    """

    async def read(self, batch_info: Iterable[Any], out: Any, drop_axes: tuple[int, ...] = ()) -> Any:
        items = list(batch_info)
        if self.supports_partial_decode and not all(_is_bytes(codec) for codec in self):
            return await super().read(items, out, drop_axes)
        if not all(_is_kept(getter, spec) for getter, spec, *_ in items):
            return await super().read(items, out, drop_axes)
        chunks = [self._recall(getter, spec) for getter, spec, *_ in items]
        missing = [n for n, chunk in enumerate(chunks) if chunk is MISSING]
        if missing:
            limit = asyncio.Semaphore(config.get("async.concurrency"))
            made = await asyncio.gather(*[self._make(items[n][0], items[n][1], limit) for n in missing])
            for n, chunk in zip(missing, made, strict=True):
                chunks[n] = chunk
        for item, chunk in zip(items, chunks, strict=True):
            _put(out, item, chunk, drop_axes)
        return _results(chunks)

    def _recall(self, getter: StorePath, spec: Any) -> Any:
        return _store(getter)._recall(getter.path, self._version(spec))

    async def _make(self, getter: StorePath, spec: Any, limit: asyncio.Semaphore) -> Any:
        async with limit:
            return await _store(getter).make(getter.path, self._version(spec), lambda: self._decoded(getter, spec))

    async def _decoded(self, getter: StorePath, spec: Any) -> Any:
        content = await _store(getter).read_unkept(getter.path)
        if content is None:
            return _ABSENT
        (chunk,) = await self.decode([(content, spec)])
        return _ABSENT if chunk is None else numpy.asarray(chunk.as_numpy_array())

    def _version(self, spec: Any) -> str:
        try:
            return _digest(self, spec.shape, spec.dtype, repr(spec.fill_value), spec.order)
        except TypeError:  # a codec that has no hash
            return _digest.__wrapped__(self, spec.shape, spec.dtype, repr(spec.fill_value), spec.order)


CachedCodecPipeline.__module__ = "foliocache.zarr"  # Zarr's registry goes by that
register_pipeline(CachedCodecPipeline)


@functools.lru_cache(maxsize=1024)
def _digest(pipeline: CachedCodecPipeline, *spec: Any) -> str:
    text = "\n".join([*(f"{type(codec).__qualname__} {codec!r}" for codec in pipeline), *(repr(each) for each in spec)])
    if " at 0x" in text:  # a codec that says where it is and not what it does: this process's alone
        text += f"\n{os.getpid()} {id(pipeline)} {time.monotonic_ns()}"
    return f"decoded {hashlib.blake2b(text.encode('utf-8', 'surrogatepass'), digest_size=16).hexdigest()}"


def _is_bytes(codec: Any) -> bool:
    return type(codec).__name__ == "BytesCodec"


def _is_kept(getter: object, spec: Any) -> bool:
    """True for a chunk of a store with a pool, in the machine's memory, of elements that are bytes."""
    return (
        isinstance(getter, StorePath)
        and isinstance(getter.store, FolioStore)
        and not spec.dtype.to_native_dtype().hasobject
        and spec.prototype.nd_buffer.__module__ == "zarr.core.buffer.cpu"
    )


def _store(getter: StorePath) -> FolioStore:
    assert isinstance(getter.store, FolioStore)
    return getter.store


def _put(out: Any, item: Any, chunk: Any, drop_axes: tuple[int, ...]) -> None:
    _, spec, chunk_selection, out_selection, *_ = item
    if isinstance(chunk, bytes):
        fill = spec.fill_value
        out[out_selection] = spec.dtype.default_scalar() if fill is None else fill
        return
    part = spec.prototype.nd_buffer.from_ndarray_like(chunk)[chunk_selection]
    out[out_selection] = part.squeeze(axis=drop_axes) if drop_axes else part


def _results(chunks: list[Any]) -> Any:
    """What newer versions of Zarr want to know of each chunk."""
    return tuple({"status": "missing" if isinstance(chunk, bytes) else "present"} for chunk in chunks)
