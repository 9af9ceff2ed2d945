"""The figures that the project has budgets for, each against its baseline in the same interleaved run.

A group is a function from a :class:`Plan` to its records. What needs something that is not here (a compiler, LMDB, numpy, memory)
is skipped with a word.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import foliocache
from foliocache.cli.bench import loops, native, policy
from foliocache.cli.bench.crew import Crew
from foliocache.cli.bench.harness import Case, Record, Skipped, cpus, interleave, per_op, pinned, record
from foliocache.cli.bench.native import Unavailable
from foliocache.cli.bench.pools import GIB, KIB, MIB, Pattern, one_per_folio, pool, values

VALUE = 64 * KIB
SLICE = "shared-memory slice"
Found = Record | Skipped


@dataclass(frozen=True)
class Plan:
    """How much of everything. ``tiny`` is for tests: it yields every figure, and none that means anything."""

    rounds: int = 11
    values: int = 1024
    hits: int = 16384
    pairs: int = 1_000_000
    grown: int = 100_000
    attach_bytes: int = 1 * GIB
    fill_bytes: int = 64 * MIB
    policy_pages: int = 2048
    epochs: int = 9

    @classmethod
    def tiny(cls) -> Plan:
        return cls(
            rounds=1,
            values=32,
            hits=64,
            pairs=1000,
            grown=1200,
            attach_bytes=4 * MIB,
            fill_bytes=4 * MIB,
            policy_pages=128,
            epochs=2,
        )


def run(plan: Plan, only: str | None = None) -> Iterator[tuple[str, list[Found]]]:
    """Each group's name and records, as they come."""
    for group in GROUPS:
        if only is None or only == group.__name__:
            try:
                yield group.__name__, group(plan)
            except Unavailable as missing:
                yield group.__name__, [Skipped(group.__name__, str(missing))]


# The reference count.


@contextlib.contextmanager
def counted_page(cache: Any) -> Iterator[tuple[int, int]]:
    """A page with one reference, for measuring: (mem, the offset of its descriptor)."""
    from foliocache.mm import page_alloc, page_ref

    segment, me = cache._attachment.segment, cache._attachment.number
    mem = segment.memory.handle
    pfn = page_alloc.alloc(mem, me, 0)
    folio = segment.geometry["memmap"] + pfn * 64
    page_ref.init(mem, folio, 1)
    try:
        yield mem, folio
    finally:
        page_ref.freeze(mem, folio, 1)
        page_alloc.free(mem, me, pfn, 0)


def pair_job(kind: str, word: int, count: int, mem: int = 0, folio: int = 0, cpu: int = -1, begin_ns: int = 0) -> native.Job:
    """``count`` pairs of one kind on the word at an address, or for ``core`` on a folio."""
    core = kind == "core"
    get = native.core_function("page_ref", "try_get") if core else None
    put = native.core_function("page_ref", "put") if core else None
    return native.Job(native.KINDS[kind], cpu, word, get, put, mem, folio, count, begin_ns)


class Line:
    """A word on a cache line of its own, holding one reference."""

    def __init__(self) -> None:
        self._memory = (ctypes.c_uint32 * 64)()
        self.address = (ctypes.addressof(self._memory) + 127) // 128 * 128
        ctypes.c_uint32.from_address(self.address).value = 1


def refcount(plan: Plan) -> list[Found]:
    """get+put without the GIL: the compiled core against the same pair in plain C."""
    library, line = native.library(), Line()
    with pool(16 * MIB) as cache, counted_page(cache) as (mem, folio):

        def alone(kind: str) -> float:
            job = pair_job(kind, line.address, plan.pairs, mem, folio)
            library.run(job)
            return job.took_ns / job.count

        def together(kind: str) -> float:
            chosen = cpus()[:2]
            begin = time.perf_counter_ns() + 1_000_000
            jobs = (native.Job * 2)(*[pair_job(kind, line.address, plan.pairs, mem, folio, cpu, begin) for cpu in chosen])
            if library.run_threads(jobs, 2) != 2:
                raise Unavailable("no threads")
            return max(job.took_ns for job in jobs) / (2 * plan.pairs)

        one = interleave({kind: partial(alone, kind) for kind in ("core", "fetch_add")}, plan.rounds)
        found: list[Found] = [
            record("refcount pair", one["core"], "ns", against="plain C", baseline=one["fetch_add"], budget="<= 1.2")
        ]
        if len(cpus()) > 1:
            two = interleave({kind: partial(together, kind) for kind in ("core", "xadd")}, plan.rounds)
            found.append(
                record(
                    "refcount pair, two threads on one line",
                    two["core"],
                    "ns",
                    against="lock xadd in plain C",
                    baseline=two["xadd"],
                    budget="<= 1.3",
                )
            )
    return found


# Hits.


@contextlib.contextmanager
def shared_slices(count: int, size: int) -> Iterator[memoryview]:
    """``count`` values of ``size`` bytes in plain shared memory."""
    from multiprocessing import shared_memory

    memory = shared_memory.SharedMemory(create=True, size=count * size)
    pattern = Pattern(size)
    whole: Any = memory.buf
    try:
        for n in range(count):
            with whole[n * size : (n + 1) * size] as value:
                pattern(n * size, value)
        view = whole[:]
        yield view
        with contextlib.suppress(BufferError):
            view.release()
    finally:
        with contextlib.suppress(BufferError):
            memory.close()
        memory.unlink()


def hit(plan: Plan) -> list[Found]:
    """One hit of a 64 KiB value from a Python loop, first byte touched."""
    numbers = loops.order(plan.values, plan.hits)
    with (
        pool(2 * plan.values * VALUE, VALUE) as cache,
        shared_slices(plan.values, VALUE) as buffer,
        lmdb_cases(numbers) as lmdb,
    ):
        mapping = values(cache, plan.values, VALUE)
        held = {n: bytes(buffer[n * VALUE : (n + 1) * VALUE]) for n in range(plan.values)}
        cases = {
            "dict": loops.dictionary(held, numbers),
            SLICE: loops.slices(buffer, VALUE, numbers),
            "lease": loops.leases(mapping, numbers),
            "memoryview(lease)": loops.views(mapping, numbers),
            "with lease": loops.with_leases(mapping, numbers),
            "mapping.read": loops.reads(mapping, VALUE, numbers),
            **lmdb,
        }
        with pinned(cpus()[:1]):
            took = interleave({name: per_op(loop, plan.hits) for name, loop in cases.items()}, plan.rounds)
    return _hit_records(took)


def _hit_records(took: dict[str, float]) -> list[Found]:
    slice_ = took[SLICE]
    found: list[Found] = [
        record("hit: lease", took["lease"], "ns", against=SLICE, baseline=slice_, budget="<= 1.5"),
        record("hit: memoryview(lease)", took["memoryview(lease)"], "ns", against=SLICE, baseline=slice_, budget="<= 2"),
        record("hit: with lease, memoryview", took["with lease"], "ns", against=SLICE, baseline=slice_),
        record("hit: mapping.read", took["mapping.read"], "ns", against=SLICE, baseline=slice_),
        record("hit: lease against a dict", took["lease"], "ns", against="dict", baseline=took["dict"]),
    ]
    for name, budget in (("LMDB, open transaction", ">= 4"), ("LMDB, transaction per get", ">= 8")):
        if name in took:
            found.append(
                record(f"hit: lease against {name}", took["lease"], "ns", against=name, baseline=took[name], budget=budget)
            )
        else:
            found.append(Skipped(f"hit: lease against {name}", "lmdb is not installed"))
    return found


@contextlib.contextmanager
def lmdb_cases(numbers: list[int], size: int = VALUE) -> Iterator[dict[str, loops.Loop]]:
    """LMDB with the same values in a temporary folder on shared memory; empty without LMDB."""
    import tempfile

    try:
        import lmdb
    except ImportError:
        yield {}
        return
    count = max(numbers) + 1
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        environment = lmdb.open(folder, map_size=2 * count * (size + 8 * KIB) + MIB, sync=False, lock=True)
        with environment.begin(write=True) as transaction:
            for n in range(count):
                transaction.put(b"value%06d" % n, bytes([n & 255]) * size)
        names = [b"value%06d" % n for n in range(count)]
        keys = [names[n] for n in numbers]
        with environment.begin(buffers=True) as transaction:
            yield {
                "LMDB, open transaction": loops.method(transaction.get, keys),
                "LMDB, transaction per get": loops.transactions(environment, keys),
            }
        environment.close()


def hitters(name: str, count: int, number: int, length: int) -> dict[str, loops.Loop]:
    """Crew: hits on values of its own, and on one value that all share."""
    mapping = one_per_folio(foliocache.attach(name), count, VALUE)
    return {
        "different": loops.leases(mapping, loops.order(range(number % 4, count, 4), length)),
        "same": loops.leases(mapping, [0] * length),
    }


def processes(plan: Plan) -> list[Found]:
    """Two processes at once, pinned to a processor each."""
    if len(cpus()) < 2:
        raise Unavailable("needs two processors")
    length = plan.hits * 4
    with pool(2 * plan.values * VALUE, VALUE) as cache:
        values(cache, plan.values, VALUE)
        with Crew(hitters, [(cache.name, plan.values, n, length) for n in range(2)], cpus()) as crew:
            rates = interleave(
                {
                    "one": lambda: crew.rate("different", 1),
                    "different": lambda: crew.rate("different"),
                    "same": lambda: crew.rate("same"),
                },
                plan.rounds,
            )
    return [
        record(
            "two processes, different folios",
            rates["different"],
            "hits/s",
            against="one process",
            baseline=rates["one"],
            budget=">= 1.8",
        ),
        record("two processes, the same folio", rates["same"], "hits/s", against="one process", baseline=rates["one"]),
    ]


# Cost as things grow.


def growth(plan: Plan) -> list[Found]:
    """A thousand hot folios among ever more cached ones; attaching."""
    hot, page = min(1000, plan.grown), 4 * KIB
    with pool(2 * hot * page + 4 * MIB, page) as small, pool(plan.grown * page * 9 // 8 + 4 * MIB, page) as large:
        few, many = values(small, hot, page), values(large, plan.grown, page)
        took = interleave(
            {
                "few": per_op(loops.leases(few, loops.order(hot, plan.hits)), plan.hits),
                "many": per_op(loops.leases(many, loops.order(loops.anywhere(hot, plan.grown), plan.hits)), plan.hits),
            },
            plan.rounds,
        )
        overhead = metadata_per_page(large)
    return [
        record(
            f"hit, {hot} of {plan.grown} cached folios",
            took["many"],
            "ns",
            against=f"{hot} cached folios",
            baseline=took["few"],
            budget="<= 1.3",
        ),
        record("memory overhead per cached folio of 4 KiB", overhead, "bytes"),
    ]


def metadata_per_page(cache: Any) -> float:
    """Bytes of tables and of index nodes per cached page; the fixed header and the client table are left out."""
    stat = cache.stat()
    geometry = cache._attachment.segment.geometry
    tables = geometry["data"] - geometry["buckets"]
    nodes = sum(count for name, count in stat["pages_by_state"].items() if name not in ("free", "file")) * stat["page_size"]
    cached = stat["pages_by_state"]["file"]
    return tables / stat["pages"] + nodes / max(cached, 1)


def attach(plan: Plan) -> list[Found]:
    """Attaching to a pool that exists, until it can be used."""
    with pool(plan.attach_bytes) as cache:
        took = interleave({"attach": lambda: _attach_ms(cache.name)}, plan.rounds)
    return [record(f"attach, pool of {plan.attach_bytes // MIB} MiB", took["attach"], "ms", budget="<= 100")]


def _attach_ms(name: str) -> float:
    known = foliocache.attach(name)
    known.close()
    begin = time.perf_counter_ns()
    again = foliocache.attach(name)
    took = (time.perf_counter_ns() - begin) / 1e6
    if again is known:
        raise RuntimeError("the same attachment again: nothing was measured")
    again.close()
    return took


# Filling.


def fill(plan: Plan) -> list[Found]:
    """A source in memory, read through the cache: against memcpy, and with every page taken by eviction."""
    size, total = VALUE, plan.fill_bytes
    content = bytes(range(256)) * (total // 256)
    target = mmap.mmap(-1, total)

    view = memoryview(content)

    def memcpy() -> float:
        begin = time.perf_counter_ns()
        memoryview(target)[:] = view
        return total / (time.perf_counter_ns() - begin)

    with pool(2 * total) as roomy, pool(total) as tight:
        cases = {
            "memcpy": memcpy,
            "default folios": _filler(roomy, total, view, None),
            "64 KiB folios": _filler(roomy, total, view, size),
            "64 KiB folios, evicting": _evicting(tight, total, view, size),
        }
        speed = interleave(cases, plan.rounds, warmup=3)
    return [
        record(
            "fill, default folios", speed["default folios"], "GB/s", against="memcpy", baseline=speed["memcpy"], budget=">= 0.8"
        ),
        record("fill, 64 KiB folios", speed["64 KiB folios"], "GB/s", against="memcpy", baseline=speed["memcpy"]),
        record(
            "fill of a 64 KiB folio, evicting",
            size / speed["64 KiB folios, evicting"],
            "ns",
            against="the same without pressure",
            baseline=size / speed["64 KiB folios"],
            budget="<= 1.5",
        ),
    ]


def _filler(cache: Any, total: int, source: memoryview, folio: int | None) -> Case:
    """GB/s of reading an object of which nothing is cached, folio by folio."""
    mapping = _object(cache, "object", total, source, folio)

    def case() -> float:
        mapping.invalidate()
        return _read_all(mapping)

    return case


def _evicting(cache: Any, total: int, source: memoryview, folio: int) -> Case:
    """The same in a pool that is full of other objects, so that every page comes from an eviction."""
    objects = [_object(cache, f"object {n}", total, source, folio) for n in range(3)]
    turns = iter(range(1 << 30))

    def case() -> float:
        return _read_all(objects[next(turns) % 3])

    return case


def _object(cache: Any, key: str, size: int, source: memoryview, folio: int | None) -> Any:
    def readinto(offset: int, buffer: Any) -> int:
        buffer[:] = source[offset : offset + len(buffer)]
        return len(buffer)

    if folio is None:
        return cache.mapping(key, size, "1", readinto=readinto)
    mapping = one_per_folio(cache, size // folio, folio, key)
    mapping._source_readinto = readinto
    return mapping


def _read_all(mapping: Any) -> float:
    begin = time.perf_counter_ns()
    for index in range(mapping.folios):
        mapping.lease(index).release()
    return mapping.size / (time.perf_counter_ns() - begin)


# fsspec.


def fsspec(plan: Plan) -> list[Found]:
    """64 KiB reads of a cached file: ``folio::`` against fsspec's own blockcache, over a stub in memory."""
    from foliocache.cli.bench.stub import PATH, StubFileSystem
    from foliocache.fs import FolioFileSystem

    target = StubFileSystem(bytes(range(256)) * (plan.values * VALUE // 256))
    numbers = loops.order(plan.values, plan.hits // 8)
    with pool(2 * plan.values * VALUE) as cache:
        folio = FolioFileSystem(fs=target, name=cache.name, check_files=False, trust_info=True)
        ours, theirs = folio.open(PATH), target.open(PATH, cache_type="blockcache", cache_options={"maxblocks": 1024})
        cases = {
            "blockcache": loops.file_reads(theirs, VALUE, numbers),
            "read": loops.file_reads(ours, VALUE, numbers),
            "file.lease": loops.file_leases(ours, VALUE, numbers),
            "fs.lease": _path_leases(folio, PATH, numbers),
        }
        took = interleave({name: per_op(loop, len(numbers)) for name, loop in cases.items()}, plan.rounds)
    return [
        record(
            "fsspec: read of 64 KiB", took["read"], "ns", against="blockcache", baseline=took["blockcache"], budget="<= 1.2"
        ),
        record(
            "fsspec: file.lease", took["file.lease"], "ns", against="blockcache", baseline=took["blockcache"], budget=">= 5"
        ),
        record("fsspec: fs.lease by path", took["fs.lease"], "ns", against="blockcache", baseline=took["blockcache"]),
    ]


def _path_leases(fs: Any, path: str, numbers: list[int]) -> loops.Loop:
    def loop() -> int:
        for n in numbers:
            fs.lease(path, n * VALUE, VALUE)[0]
        return len(numbers)

    return loop


# All of a value.


def consume(plan: Plan) -> list[Found]:
    """numpy's sum over values of 1 MiB."""
    try:
        import numpy  # noqa: F401
    except ImportError:
        raise Unavailable("needs numpy") from None
    count = max(plan.values // 16, 4)
    numbers = loops.order(count, max(plan.hits // 64, count))
    with pool(2 * count * MIB, 64 * KIB) as cache, shared_slices(count, MIB) as buffer:
        mapping = values(cache, count, MIB)
        took = interleave(
            {
                "lease": per_op(loops.sums(mapping.lease, numbers), len(numbers)),
                "slice": per_op(loops.sums(lambda n: buffer[n * MIB : n * MIB + MIB], numbers), len(numbers)),
            },
            plan.rounds,
        )
    speed = {name: MIB / each for name, each in took.items()}
    return [
        record("consume 1 MiB (numpy sum)", speed["lease"], "GB/s", against=SLICE, baseline=speed["slice"], budget=">= 0.95")
    ]


# The policy.


def eviction(plan: Plan) -> list[Found]:
    """Shuffled epochs over twice the pool keep a stable part cached; the first epoch, which fills the pool, does not count."""
    pages, data = plan.policy_pages, 2 * plan.policy_pages
    trace = [page for epoch in range(plan.epochs) for page in loops.order(data, data, seed=epoch)]
    ratio = policy.hit_ratio(trace, pages, skip=data)
    return [
        record(
            "hit ratio, shuffled epochs over twice the pool",
            ratio,
            "",
            against="pool/data",
            baseline=pages / data,
            budget=">= 0.9",
        )
    ]


GROUPS: tuple[Callable[[Plan], list[Found]], ...] = (
    refcount,
    hit,
    processes,
    growth,
    attach,
    fill,
    fsspec,
    consume,
    eviction,
)
