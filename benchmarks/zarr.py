"""A chunked array that is read in slabs thinner than its chunks: plain Zarr decodes each chunk many times.

200 MB of 16-bit integers in chunks of 256 rows, read six rows at a time (the shape of zarr-python's issue 4306). Beside plain
Zarr; beside a pipeline that finds decoded chunks in a dict, which is what Zarr itself costs; and beside a copy of the rows of
one array in memory. All of them return new arrays with the same bytes; the files are on tmpfs. Of several chunks, a slab is put
together from many short pieces, which NumPy copies slower than one long one.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from benchmarks.common.measure import Case, Unavailable, interleave, per_op, record
from benchmarks.common.plan import MIB, Plan
from benchmarks.common.pools import new_pool
from benchmarks.common.report import Section, Table
from benchmarks.common.worker_pool import WorkerPool

ROWS = 6
OURS = "foliocache.zarr.CachedCodecPipeline"
ZARRS = "zarr.core.codec_pipeline.BatchedCodecPipeline"
CACHED, DIRECT, DICT, NUMPY = "cached chunks", "FolioArray", "a dict of chunks", "NumPy"
ENCODED, PLAIN = "FolioStore alone", "plain Zarr"
PROCESSES = 4
DECODING_ROUNDS = 3  # of what decodes each chunk: a slab takes a second, a thousand times as long as the others


def run(plan: Plan) -> Section:
    try:
        import zarr  # noqa: F401
    except ImportError as missing:
        raise Unavailable(str(missing)) from None
    section = Section("zarr")
    shape = plan.of((256, 640, 640), (12, 16, 12))
    rows = shape[0]
    layouts: dict[str, dict[str, Any]] = {
        "1 chunk": {"chunks": (rows, *shape[1:])},
        "4 chunks": {"chunks": (rows, shape[1] // 2, shape[2] // 2)},
        "16 chunks": {"chunks": (rows, shape[1] // 4, shape[2] // 4)},
        "16 chunks in shards of 4": {
            "chunks": (rows, shape[1] // 4, shape[2] // 4),
            "shards": (rows, shape[1] // 2, shape[2] // 2),
        },
    }
    took = {name: _layout(plan, shape, layout) for name, layout in layouts.items()}
    table = Table(f"us per slab of {ROWS} rows, by how many chunks it touches", ("slab", *took["1 chunk"]))
    for name, row in took.items():
        table.add(name, *[row.get(column, "") for column in table.columns[1:]])
    section.tables.append(table)
    for name, row in took.items():
        section.found += [
            _record(name, row, way, against, budget)
            for way, against, budget in ((CACHED, PLAIN, ">= 10"), (CACHED, DICT, "<= 1.3"), (DIRECT, NUMPY, "<= 1.3"))
            if against in row
        ]
    section.found.append(_once(shape, layouts["4 chunks"]))
    return section


def _record(name: str, row: dict[str, float], way: str, against: str, budget: str) -> Any:
    return record(f"slab of {name}, {way}", row[way], "us", against=against, baseline=row[against], budget=budget)


def _layout(plan: Plan, shape: tuple[int, ...], layout: dict[str, Any]) -> dict[str, float]:
    """us per slab, by who: in turns, first those that find decoded chunks, then those that decode, one slab a turn."""
    from foliocache.zarr import FolioArray

    with _array(shape, layout) as (store, folio_store, values):
        slabs = [slice(start, start + ROWS) for start in range(0, shape[0] - ROWS + 1, ROWS)]
        few = slabs[:: len(slabs)]
        with _pipeline(OURS):
            ours = _opened(folio_store)
            ours[:]
        with _pipeline(ZARRS):
            plain, encoded = _opened(store), _opened(folio_store)
        cases: dict[str, Case] = {
            NUMPY: per_op(_reading(lambda slab: values[slab].copy(), slabs), len(slabs)),
            DIRECT: per_op(_reading(FolioArray(ours).__getitem__, slabs), len(slabs)),
            CACHED: per_op(_reading(ours.__getitem__, slabs), len(slabs)),
        }
        decoding: dict[str, Case] = {
            ENCODED: per_op(_reading(encoded.__getitem__, few), len(few)),
            PLAIN: per_op(_reading(plain.__getitem__, few), len(few)),
        }
        if "shards" not in layout:
            with _pipeline(_dict_pipeline({})):
                simple = _opened(store)
                simple[:]
            cases[DICT] = per_op(_reading(simple.__getitem__, slabs), len(slabs))
        took = interleave(cases, plan.rounds) | interleave(decoding, min(plan.rounds, DECODING_ROUNDS), warmup=0)
        return {name: each / 1e3 for name, each in took.items()}


@contextlib.contextmanager
def _array(shape: tuple[int, ...], layout: dict[str, Any]) -> Iterator[tuple[Any, Any, Any]]:
    """A store with an array, a FolioStore around it, and the array's elements."""
    import numpy
    import zarr

    from foliocache.zarr import FolioStore

    values = numpy.random.default_rng(1).integers(0, 64, shape, "u2") + numpy.arange(shape[0], dtype="u2").reshape(-1, 1, 1)
    with (
        tempfile.TemporaryDirectory(prefix="foliocache-bench-", dir="/dev/shm") as folder,
        new_pool(2 * values.nbytes + 64 * MIB) as pool,
    ):
        store = zarr.storage.LocalStore(folder)
        zarr.create_array(store, shape=shape, dtype=values.dtype, **layout)[:] = values
        yield store, FolioStore(store, pool), values


@contextlib.contextmanager
def _pipeline(path: str) -> Iterator[None]:
    import zarr

    with zarr.config.set({"codec_pipeline.path": path}):
        yield


def _opened(store: Any) -> Any:
    import zarr

    return zarr.open_array(store, mode="r")


def _dict_pipeline(chunks: dict[str, Any]) -> str:
    """Register a pipeline that has all chunks after the first read; return its name."""
    from zarr.core.codec_pipeline import BatchedCodecPipeline

    class DictPipeline(BatchedCodecPipeline):
        async def read(self, batch_info: Iterable[Any], out: Any, drop_axes: tuple[int, ...] = ()) -> Any:
            items = list(batch_info)
            for getter, spec, selection, out_selection, *_ in items:
                chunk = chunks.get(getter.path)
                if chunk is None:
                    (decoded,) = await self.decode([(await getter.get(spec.prototype), spec)])
                    assert decoded is not None
                    chunk = chunks[getter.path] = decoded
                out[out_selection] = chunk[selection]
            return tuple({"status": "present"} for _ in items)

    return _registered(DictPipeline)


def _registered(kind: Any) -> str:
    """Make a pipeline known to Zarr, and return its name."""
    from zarr.registry import register_pipeline

    register_pipeline(kind)
    return f"{kind.__module__}.{kind.__qualname__}"


def _reading(read: Callable[[slice], Any], slabs: list[slice]) -> Callable[[], None]:
    def loop() -> None:
        for slab in slabs:
            read(slab)[0, 0, 0]

    return loop


def _once(shape: tuple[int, ...], layout: dict[str, Any]) -> Any:
    """How many chunks four processes decode that read all of an array at the same time."""
    with _array(shape, layout) as (_, store, _), tempfile.NamedTemporaryFile() as decoded:
        with WorkerPool(_workers_case, [(store, decoded.name)] * PROCESSES) as workers:
            workers.rate("read")
        count = len(decoded.read())
    return record(f"chunks decoded by {PROCESSES} processes", count, "chunks", against="chunks", baseline=4, budget="<= 1")


def _workers_case(store: Any, decoded: str) -> dict[str, Callable[[], int]]:
    from foliocache.zarr import CachedCodecPipeline

    class Counting(CachedCodecPipeline):
        async def decode(self, items: Iterable[Any]) -> Any:
            items = list(items)
            with open(decoded, "ab", buffering=0) as file:
                file.write(b"." * len(items))
            return await super().decode(items)

    with _pipeline(_registered(Counting)):
        array = _opened(store)

    def read() -> int:
        for start in range(0, array.shape[0], ROWS):
            array[start : start + ROWS]
        return 1

    return {"read": read}
