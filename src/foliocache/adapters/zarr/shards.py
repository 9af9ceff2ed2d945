"""The encoded inner chunks of a shard, read together.

The index of a shard says where its inner chunks are. It is read after this process has been asked for the chunks: had a write
been completed before, the index would have been forgotten, too (``store``). So a chunk is never decoded from a place that
another shard's index says, and kept. If values expire, other programs may write: then the index is not taken from the pool,
and must be the same after the read.

Chunks that are asked for at about the same time are read together, neighbours by one request. A chunk that another process is
making is not waited for.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any

from zarr.abc.store import ByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core import chunk_grids
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.core.config import config

from ...errors import ChangedError
from ...objects.found import MISSING
from .store import FolioStore

QUIET_SECONDS = 0.005  # since the last chunk that was asked for: then those are read
GAP_MAX = 1 << 20  # bytes between two chunks that are read by one request; Zarr's defaults
READ_MAX = 16 << 20  # bytes of such a request
TRIES = 3

Coordinates = tuple[int, ...]


def grid(shape: tuple[int, ...], inner: tuple[int, ...]) -> Any:
    """Return the grid of the inner chunks of a shard."""
    kind: Any = chunk_grids
    if hasattr(kind.ChunkGrid, "from_sizes"):
        return kind.ChunkGrid.from_sizes(shape, inner)
    return kind.RegularChunkGrid(chunk_shape=inner)


class Shard:
    """A shard that one read wants ``expected`` inner chunks of."""

    def __init__(self, store: FolioStore, path: str, codec: Any, spec: Any) -> None:
        self._store, self._path, self._codec = store, path, codec
        self._spec = spec
        self._grid: tuple[int, ...] = codec._get_chunks_per_shard(spec)
        self._gap = getattr(spec.config, "sharding_coalesce_max_gap_bytes", GAP_MAX)
        self._most = getattr(spec.config, "sharding_coalesce_max_bytes", READ_MAX)
        self.expected: int = 0
        self._asked: dict[Coordinates, asyncio.Future[Buffer | BaseException | None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._reads: set[asyncio.Task[None]] = set()
        self._whole: Buffer | None = None

    @property
    def pipeline(self) -> Any:
        """What decodes an inner chunk."""
        codec = self._codec
        return codec._get_inner_pipeline(self._spec) if hasattr(codec, "_get_inner_pipeline") else codec.codec_pipeline

    async def load(self, coordinates: Coordinates) -> Buffer | None:
        """Return an encoded inner chunk; None if the shard does not have it. Raises FileNotFoundError if there is no shard."""
        loop = asyncio.get_running_loop()
        future = self._asked[coordinates] = loop.create_future()
        self.expected -= 1
        self._set(loop)
        found = await future
        if isinstance(found, BaseException):
            raise found
        return found

    def settle(self) -> None:
        """Expect one chunk less: another process has made it."""
        self.expected -= 1
        if self._asked:
            self._set(asyncio.get_running_loop())

    def _set(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_later(QUIET_SECONDS if self.expected > 0 else 0, self._begin)

    def _begin(self) -> None:
        asked, self._asked, self._timer = self._asked, {}, None
        task = asyncio.ensure_future(self._read(asked))
        self._reads.add(task)
        task.add_done_callback(self._reads.discard)

    async def _read(self, asked: dict[Coordinates, asyncio.Future[Buffer | BaseException | None]]) -> None:
        found: Sequence[Buffer | BaseException | None]
        try:
            found = await self._chunks(list(asked))
        except BaseException as error:  # raised by those who wait; a future that nobody asks must not report it
            found = [error] * len(asked)
        for future, each in zip(asked.values(), found, strict=True):
            if not future.done():
                future.set_result(each)

    async def _chunks(self, wanted: list[Coordinates]) -> list[Buffer | None]:
        whole = await self._all(wanted)
        if whole is not None:
            index = await self._codec._decode_shard_index(self._cut_index(whole), self._grid)
            return [None if place is None else whole[place[0] : place[1]] for place in map(index.get_chunk_slice, wanted)]
        for _ in range(TRIES):
            encoded = await self._index()
            index = await self._codec._decode_shard_index(encoded, self._grid)
            found = await self._ranges([index.get_chunk_slice(each) for each in wanted])
            if self._store.is_trusted or (await self._index()).to_bytes() == encoded.to_bytes():
                return found
        raise ChangedError(f"{self._store}/{self._path}")

    async def _all(self, wanted: list[Coordinates]) -> Buffer | None:
        """Return the whole shard if the pool has it, or if all of it is wanted; else None. Raises FileNotFoundError."""
        if self._whole is not None:
            return self._whole
        if len(wanted) == math.prod(self._grid):
            self._whole = await self._store.read_unkept(self._path)
        elif self._store.recall(self._path, "") is not MISSING:
            self._whole = await self._store.get(self._path)
        else:
            return None
        if self._whole is None:
            raise FileNotFoundError(self._path)
        return self._whole

    @property
    def _is_first(self) -> bool:
        location = self._codec.index_location
        return getattr(location, "value", location) == "start"

    def _cut_index(self, whole: Buffer) -> Buffer:
        size = self._codec._shard_index_size(self._grid)
        return whole[:size] if self._is_first else whole[-size:]

    async def _index(self) -> Buffer:
        """Return the encoded index. Raises FileNotFoundError if there is no shard."""
        size = self._codec._shard_index_size(self._grid)
        byte_range: ByteRequest = RangeByteRequest(0, size) if self._is_first else SuffixByteRequest(size)
        if self._store.is_trusted:
            found = await self._store.get(self._path, default_buffer_prototype(), byte_range)
        else:
            found = await self._store.read_unkept(self._path, byte_range)
        if found is None:
            raise FileNotFoundError(self._path)
        return found

    async def _ranges(self, places: Sequence[tuple[int, int] | None]) -> list[Buffer | None]:
        found: list[Buffer | None] = [None] * len(places)
        limit = asyncio.Semaphore(config.get("async.concurrency"))

        async def read(group: list[tuple[int, int, int]]) -> None:
            start, end = group[0][0], max(each[1] for each in group)
            async with limit:
                content = await self._store.read_unkept(self._path, RangeByteRequest(start, end))
            if content is None:
                raise FileNotFoundError(self._path)
            for first, last, number in group:
                found[number] = content[first - start : last - start]

        await asyncio.gather(*map(read, together(places, self._gap, self._most)))
        return found


def together(places: Sequence[tuple[int, int] | None], gap: int, most: int) -> list[list[tuple[int, int, int]]]:
    """Return groups of (start, end, number of the place), each to be read by one request."""
    groups: list[list[tuple[int, int, int]]] = []
    for start, end, number in sorted((*place, number) for number, place in enumerate(places) if place is not None):
        last = groups[-1] if groups else None
        if last is not None and start - last[-1][1] <= gap and end - last[0][0] <= most:
            last.append((start, end, number))
        else:
            groups.append([(start, end, number)])
    return groups
