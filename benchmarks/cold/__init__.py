"""The first read of everything: an object behind nginx that nothing of is cached, beside obstore and fsspec's own caches.

Every figure is of a whole read, the question for the object's version and the copies that the caller gets included. *First
touch* means a pool that was made for that read, whose pages this process has never touched (but the host has given the
machine memory for them, see ``floors.have_backed``); *used* means that the pages have been touched, and the object was
forgotten. obstore is there twice: its bytes are thrown away where it has put them; or they are *copied into used pages*, as a
cache must, which is what the unlimited budgets compare with. The *sockets* are no one's product, but what the machine and
nginx give to threads that receive straight into shared pages.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import fsspec

from benchmarks.cold import floors, ways, window
from benchmarks.common import nginx
from benchmarks.common.measure import Case, Skipped, Unavailable, interleave, record
from benchmarks.common.plan import Plan
from benchmarks.common.pools import KIB, MIB, new_pool
from benchmarks.common.report import Section, Table
from benchmarks.common.worker_pool import WorkerPool
from foliocache.adapters.fsspec import FolioFileSystem

SMALL = 4 * KIB
WORKERS = 4
ROUNDS_MAX = 5  # of reads that take up to a second each
BACKED = 2  # a first touch takes memory for the pool and for the results
MANY = 11  # rounds that are asked for, from which on the objects are as many as the budget says
BEST = "obstore's best"
CALLS = ("reads of 1 MiB", "cat_file", "cat_ranges of 1 MiB")
AWAITED = ("awaited cat_file", "awaited cat_ranges of 1 MiB")
AWAITED_PEER = (16, 4)
OBSTORE = {"unlimited": ((8, 4), (16, 4), (16, 1)), "limited": ((16, 4), (32, 4), (32, 1)), "slow": ((16, 4), (32, 4), (32, 1))}
SOCKETS = ((4, 1), (16, 1))
CACHES = ("readahead", "background", "blockcache")
Budgets = dict[str, str | None]
BUDGETS: dict[str, Budgets] = {
    "unlimited": {"first touch": ">= 0.55", "used": ">= 1"},
    "limited": {"first touch": ">= 0.85"},
    "slow": {"first touch": None},
}


def run(plan: Plan) -> Section:
    """Measure all of it. Raises Unavailable without nginx."""
    section = Section("cold")
    size = plan.of(256 * MIB, 4 * MIB)
    with tempfile.TemporaryDirectory(prefix="bench-cold-") as folder:
        write(Path(folder) / "object", size)
        write(Path(folder) / "small", SMALL)
        with nginx.serving(Path(folder)) as origin:
            bench = Bench(plan, origin, size, section)
            for part in (
                *map(bench.one_process, nginx.WAYS),
                bench.window,
                bench.random_reads,
                bench.processes,
                bench.small_objects,
            ):
                try:
                    part()
                except Unavailable as missing:
                    section.found.append(Skipped("cold", str(missing)))
    return section


def write(path: Path, size: int) -> None:
    """Write a file of bytes that no mistake of offset reads right."""
    block = random.Random(size).randbytes(min(size, MIB + 1))
    with open(path, "wb") as file:
        while (left := size - file.tell()) > 0:
            file.write(block[:left])


def folio(pool: str, **options: Any) -> Any:
    """Return ``folio::http`` over a pool."""
    target = fsspec.filesystem("http", skip_instance_cache=True)
    return FolioFileSystem(fs=target, name=pool, skip_instance_cache=True, **options)


def speed(read: Callable[[], int], size: int) -> float:
    """Return MB/s of a read of so many bytes. Raises RuntimeError if it gets another number of them."""
    begin = time.perf_counter_ns()
    got = read()
    took = time.perf_counter_ns() - begin
    if got != size:
        raise RuntimeError(f"{got} bytes were read instead of {size}")
    return size * 1e3 / took


class Bench:
    """The parts of the bench, and what they have in common."""

    def __init__(self, plan: Plan, origin: nginx.Origin, size: int, section: Section):
        self.plan, self.origin, self.size, self.section = plan, origin, size, section
        self.rounds = min(plan.rounds, ROUNDS_MAX)
        self.pool_bytes = size + size // 2

    # One process that reads it all.

    def one_process(self, way: str) -> Callable[[], None]:
        """Return the part for one way in which nginx serves."""
        return lambda: self._one_process(way)

    def _one_process(self, way: str) -> None:
        url = self.origin.url("object", way)
        peers = [ways.Obstore(self.size, at_once, length * MIB) for at_once, length in OBSTORE[way]]
        cases: dict[str, Case] = {peer.name: self._plain(partial(peer.whole, url)) for peer in peers}
        judges: list[ways.Obstore] = list(peers)  # whose best the budgets compare with
        with contextlib.ExitStack() as stack:
            if way == "unlimited":
                cases |= self._caches(url) | stack.enter_context(self._sockets(url))
                used = stack.enter_context(floors.pages(self.size, touched=True))
                judges = [floors.Copied(self.size, at_once, length * MIB, used) for at_once, length in OBSTORE[way]]
                cases |= {judge.name: self._plain(partial(judge.whole, url)) for judge in judges}
            for call, read in self._calls(url).items():
                cases[f"folio::, {call}, first touch"] = self._first(read)
                cases[f"folio::, {call}, used"] = stack.enter_context(self._used(read))
            awaited = ways.Obstore(self.size, AWAITED_PEER[0], AWAITED_PEER[1] * MIB)
            cases[f"{awaited.name}, awaited"] = self._plain(partial(awaited.whole_awaited, url))
            for call, read in self._awaited(url).items():
                cases[f"folio::, {call}, used"] = stack.enter_context(self._used(read))
            self._check(url)
            found = interleave(cases, self.rounds)
        best = max(judges, key=lambda judge: found[judge.name]).name
        table = Table(f"All of {self.size // MIB} MiB, {_described(way)}", ("who", "MB/s", f"of {best}"))
        for name, value in sorted(found.items(), key=lambda each: -each[1]):
            table.add(name, value, value / found[best])
        self.section.tables.append(table)
        for call, (touched, budget) in itertools.product(CALLS, BUDGETS[way].items()):
            value = found[f"folio::, {call}, {touched}"]
            self._record(f"{way}: {call}, {touched}", value, "MB/s", best, found[best], budget)
        peer = f"{awaited.name}, awaited"
        for call in AWAITED:
            self._record(f"{way}: {call}, used", found[f"folio::, {call}, used"], "MB/s", peer, found[peer], None)
        if way == "unlimited":
            cache = max(CACHES, key=lambda name: found[f"fsspec, {name}"])
            value = found[f"folio::, {CALLS[0]}, first touch"]
            name = f"fsspec, {cache}"
            self._record(f"{way}: {CALLS[0]}, first touch", value, "MB/s", name, found[name], ">= 1.2")

    def _awaited(self, url: str) -> dict[str, Callable[[Any], int]]:
        return dict(
            zip(
                AWAITED,
                (lambda fs: ways.whole_awaited(fs, url), lambda fs: ways.ranges_awaited(fs, url, self.size)),
                strict=True,
            )
        )

    def _calls(self, url: str) -> dict[str, Callable[[Any], int]]:
        return dict(
            zip(
                CALLS,
                (
                    lambda fs: ways.sequential(fs, url),
                    lambda fs: ways.whole(fs, url),
                    lambda fs: ways.ranges(fs, url, self.size),
                ),
                strict=True,
            )
        )

    def _caches(self, url: str) -> dict[str, Case]:
        """fsspec's own caches, and its calls without one."""
        fs = fsspec.filesystem("http", skip_instance_cache=True)
        cases = {f"fsspec, {name}": self._plain(partial(ways.sequential, fs, url, cache_type=name)) for name in CACHES}
        cases["fsspec, cat_file"] = self._plain(lambda: ways.whole(fs, url))
        cases["fsspec, cat_ranges of 1 MiB"] = self._plain(lambda: ways.ranges(fs, url, self.size))
        return cases

    @contextlib.contextmanager
    def _sockets(self, url: str) -> Iterator[dict[str, Case]]:
        """Threads that receive straight into shared memory."""
        every = [floors.Sockets(self.size, at_once, length * MIB) for at_once, length in SOCKETS]

        def first(sockets: floors.Sockets) -> float:
            floors.have_backed(BACKED * self.size)
            with floors.pages(self.size, touched=False) as memory:
                return speed(lambda: sockets.whole(url, memory), self.size)

        with floors.pages(self.size, touched=True) as used:
            try:
                yield {
                    f"{sockets.name}, {touched}": case
                    for sockets in every
                    for touched, case in (
                        ("used", self._plain(partial(sockets.whole, url, used))),
                        ("first touch", partial(first, sockets)),
                    )
                }
            finally:
                for sockets in every:
                    sockets.close()

    def _plain(self, read: Callable[[], int]) -> Case:
        return lambda: speed(read, self.size)

    def _first(self, read: Callable[[Any], int], size: int | None = None) -> Case:
        def case() -> float:
            floors.have_backed(BACKED * self.size)
            with new_pool(self.pool_bytes) as pool:
                fs = folio(pool.name)
                return speed(lambda: read(fs), size or self.size)

        return case

    @contextlib.contextmanager
    def _used(self, read: Callable[[Any], int], size: int | None = None) -> Iterator[Case]:
        with new_pool(self.pool_bytes) as pool:
            fs = folio(pool.name)
            read(fs)

            def case() -> float:
                _forget(pool)
                return speed(lambda: read(fs), size or self.size)

            yield case

    def _check(self, url: str) -> None:
        """Every byte, once."""
        with new_pool(self.pool_bytes) as pool:
            content = folio(pool.name).cat_file(url)
        if content != (self.origin.files / "object").read_bytes():
            raise RuntimeError("other bytes were read than those of the file")

    def _record(
        self, metric: str, value: float, unit: str, against: str | None, baseline: float | None, budget: str | None
    ) -> None:
        self.section.found.append(record(metric, value, unit, against=against, baseline=baseline, budget=budget))

    def window(self) -> None:
        """The chart of the window of a sequential reader."""
        size = self.plan.of(64 * MIB, 4 * MIB)
        write(self.origin.files / "window", size)
        with new_pool(2 * size) as pool:
            self.section.plots[window.FILE] = window.chart(folio(pool.name), self.origin.url("window", "slow"), size)

    # Some of it.

    def random_reads(self) -> None:
        """Pieces of 64 KiB in no order, one after the other and at once; and what is fetched for them."""
        url = self.origin.url("object")
        offsets = ways.random_offsets(self.size, 256)
        asked = len(offsets) * ways.PIECE
        obstore = ways.Obstore(self.size, 16, MIB)
        fs = fsspec.filesystem("http", skip_instance_cache=True)
        fetched: dict[str, list[float]] = {}

        def counted(name: str, case: Case) -> Case:
            def counting() -> float:
                self.origin.sent()
                value = asked / case() / 1e3  # milliseconds
                fetched.setdefault(name, []).append(self.origin.sent()[1] / asked)
                return value

            return counting

        reads: dict[str, Case] = {
            "obstore, get_range one by one": lambda: speed(lambda: obstore.pieces(url, offsets), asked),
            "folio::, one by one, first touch": self._first(lambda fs: ways.pieces(fs, url, offsets), asked),
            "fsspec, readahead, one by one": lambda: speed(lambda: ways.pieces(fs, url, offsets), asked),
            "obstore, get_ranges": lambda: speed(lambda: obstore.get_ranges(url, offsets), asked),
            "obstore, get_range in 16 threads": lambda: speed(lambda: obstore.pieces_at_once(url, offsets), asked),
            "folio::, cat_ranges, first touch": self._first(lambda fs: ways.pieces_at_once(fs, url, offsets), asked),
            "fsspec, cat_ranges": lambda: speed(lambda: ways.pieces_at_once(fs, url, offsets), asked),
        }
        with contextlib.ExitStack() as stack:
            used = self._used(lambda fs: ways.pieces(fs, url, offsets), asked)
            reads["folio::, one by one, used"] = stack.enter_context(used)
            used = self._used(lambda fs: ways.pieces_at_once(fs, url, offsets), asked)
            reads["folio::, cat_ranges, used"] = stack.enter_context(used)
            took = interleave({name: counted(name, case) for name, case in reads.items()}, self.rounds)
        table = Table(f"{len(offsets)} random reads of 64 KiB, unlimited", ("who", "ms", "bytes fetched / asked for"))
        for name, value in took.items():
            table.add(name, value, max(fetched[name]))
        self.section.tables.append(table)
        at_once = min(("obstore, get_ranges", "obstore, get_range in 16 threads"), key=took.__getitem__)
        for (call, theirs), touched in itertools.product(
            (("one by one", "obstore, get_range one by one"), ("cat_ranges", at_once)), ("first touch", "used")
        ):
            ours = f"folio::, {call}, {touched}"
            self._record(f"random reads: {call}, {touched}", took[ours], "ms", theirs, took[theirs], "<= 1.3")
            self._record(f"random reads: {call}, {touched}, fetched", max(fetched[ours]), "times", None, None, "<= 1.25")

    # Several processes.

    def processes(self) -> None:
        """Four processes that read an object each, and that read the same one."""
        own = [self.origin.url(f"{n}") for n in range(WORKERS)]
        for n in range(WORKERS):
            (self.origin.files / f"{n}").symlink_to(self.origin.files / "object")
        jobs = [(str(self.origin.files / "pool"), url, self.origin.url("object"), self.size) for url in own]
        fetched: list[float] = []
        with WorkerPool(worker, jobs) as workers:

            def case(which: str, members: int, used: bool = False) -> Case:
                def measured() -> float:
                    floors.have_backed(members * self.size)
                    with new_pool(WORKERS * self.pool_bytes) as pool:
                        (self.origin.files / "pool").write_text(pool.name)
                        if used:
                            workers.per_op(which, members)
                            _forget(pool)
                        self.origin.sent()
                        took = max(workers.per_op(which, members))
                        if which == "one" and members == WORKERS:
                            fetched.append(self.origin.sent()[1] / self.size)
                        workers.per_op("close")
                    return members * self.size * 1e3 / took

                return measured

            cases = {
                "four obstores, an object each": case("obstore", WORKERS),
                "four folio::, an object each": case("own", WORKERS),
                "four folio::, an object each, used": case("own", WORKERS, used=True),
                "one folio::, one object": case("one", 1),
                "four folio::, one object": case("one", WORKERS),
            }
            found = interleave(cases, self.rounds)
        table = Table("Processes that read, unlimited, reads of 1 MiB, first touch if not used", ("who", "MB/s together"))
        for each, value in found.items():
            table.add(each, value)
        self.section.tables.append(table)
        theirs = "four obstores, an object each"
        for ours in ("four folio::, an object each", "four folio::, an object each, used"):
            self._record(f"processes: {ours}", found[ours], "MB/s", theirs, found[theirs], ">= 0.8")
        ours, theirs = "four folio::, one object", "one folio::, one object"
        self._record(f"processes: {ours}", found[ours], "MB/s", theirs, found[theirs], ">= 2")
        self._record(f"processes: {ours}, fetched", max(fetched), "times", None, None, "<= 1.005")

    # Small objects.

    def small_objects(self) -> None:
        """Objects of a page each, 64 of them at a time."""
        count = self.plan.of(100_000 if self.plan.rounds >= MANY else 10_000, 200)
        urls = [self.origin.url(f"small/{n}") for n in range(count)]
        few = urls[:10_000]  # for a row without a budget
        obstore = ways.Obstore(SMALL, 1, MIB)

        def ours(read: Callable[[Any, Any], int], urls: list[str]) -> Case:
            def case() -> float:
                with new_pool(2 * len(urls) * SMALL, page_size=4 * KIB) as pool:
                    fs = folio(pool.name)
                    return speed(lambda: read(fs, urls), len(urls) * SMALL)

            return case

        cases = {
            "obstore, get in 64 tasks": lambda: speed(lambda: obstore.small_objects(urls), count * SMALL),
            "folio::, cat_file in 64 tasks": ours(ways.small_objects_in_a_loop, urls),
            "folio::, cat_file in 64 threads": ours(ways.small_objects, few),
        }
        found = interleave(cases, 1 if count > len(few) else self.rounds, warmup=0)
        table = Table(f"{count:,} objects of 4 KiB, 64 at a time; in threads {len(few):,}", ("who", "objects/s"))
        for name, value in found.items():
            table.add(name, value * 1e6 / SMALL)
        self.section.tables.append(table)
        ours_, theirs = "folio::, cat_file in 64 tasks", "obstore, get in 64 tasks"
        self._record("small objects", found[ours_] * 1e6 / SMALL, "objects/s", theirs, found[theirs] * 1e6 / SMALL, ">= 0.8")


def worker(named: str, own: str, shared: str, size: int) -> dict[str, Callable[[], int]]:
    """WorkerPool: reading an object through a new pool each time, whose name the parent has written into a file."""
    obstore = ways.Obstore(size, 8, 4 * MIB)
    open_pools: list[Any] = []

    def ours(url: str) -> int:
        fs = folio(Path(named).read_text())
        _exactly(ways.sequential(fs, url), size)
        open_pools.append(fs.pool)
        return 1

    def theirs() -> int:
        _exactly(obstore.whole(own), size)
        return 1

    def close() -> int:
        while open_pools:
            open_pools.pop().close()
        return 1

    return {"obstore": theirs, "own": lambda: ours(own), "one": lambda: ours(shared), "close": close}


def _exactly(got: int, size: int) -> None:
    if got != size:
        raise RuntimeError(f"{got} bytes were read instead of {size}")


def _forget(pool: Any) -> None:
    for each in pool.mappings():
        pool.forget(each.key)


def _described(way: str) -> str:
    return {"unlimited": "unlimited", "limited": "50 MB/s a connection", "slow": "20 ms before each answer"}[way]
