"""Everyone else: what a hit costs, what two processes get, what reading all of a value gives, what four workers hold.

The same values for all: ``values`` of 64 KiB (1 MiB where all of them is read), every one cached, asked for in the same
shuffled order from a Python loop, the first byte touched. Latencies are of interleaved rounds; the socket peers also with
client and server on one processor, because waking an idle one inflates the rest.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.common import loops
from benchmarks.common.measure import Skipped, Unavailable, cpus, interleave, per_op, pinned, record
from benchmarks.common.plan import Plan
from benchmarks.common.pools import MIB, VALUE
from benchmarks.common.report import Section, Table
from benchmarks.common.worker_pool import WorkerPool
from benchmarks.peers import memory, openers, stores

SLICE, BLOCKCACHE = "shared memory, slice", "fsspec blockcache, read"


@dataclass(frozen=True)
class Peer:
    """A name, where it keeps the values, how it is opened; ``slow`` divides its loops; ``shared`` between processes."""

    name: str
    store: Any
    opener: Any
    slow: int = 1
    shared: bool = True
    socket: bool = False


PEERS = (
    Peer("foliocache, lease", stores.folios, openers.lease),
    Peer("foliocache, memoryview(lease)", stores.folios, openers.lease_view),
    Peer("foliocache, with lease", stores.folios, openers.lease_with),
    Peer("foliocache, mapping.read", stores.folios, openers.mapping_read, 4),
    Peer("foliocache, folio:: lease", stores.folio_pool, openers.folio_lease, 4),
    Peer("foliocache, folio:: read (a copy)", stores.folio_pool, openers.folio_file, 16),
    Peer("dict", stores.private(), openers.dictionary, shared=False),
    Peer("tuple key, dict, memoryview", stores.private(), openers.tuple_dictionary, shared=False),
    Peer("cachetools LRU", stores.private("cachetools"), openers.cachetools_lru, shared=False),
    Peer("cachebox LRU", stores.private("cachebox"), openers.cachebox_lru, shared=False),
    Peer(SLICE, stores.shared_memory, openers.shared_slice),
    Peer("shared memory, dict of offsets", stores.shared_memory, openers.shared_table),
    Peer("mmap of a file, slice", stores.data_file, openers.mapped_file),
    Peer("LMDB, open transaction", stores.lmdb, openers.lmdb_open, 4),
    Peer("LMDB, transaction per get", stores.lmdb, openers.lmdb_each, 4),
    Peer(BLOCKCACHE, stores.data_file, openers.blockcache, 16, shared=False),
    Peer("fsspec filecache, read", stores.data_file, openers.filecache, 16),
    Peer("stocaching", stores.stocaching, openers.stocaching, 16),
    Peer("diskcache", stores.diskcache, openers.diskcache, 64),
    Peer("memcached", stores.memcached, openers.memcached, 64, socket=True),
    Peer("Redis", stores.redis, openers.redis, 64, socket=True),
)

IN_TESTS = ("foliocache, lease", SLICE, "foliocache, memoryview(lease)")


def run(plan: Plan) -> Section:
    section = Section("peers")
    with tempfile.TemporaryDirectory(prefix="foliocache-bench-", dir="/dev/shm") as folder:
        ready = list(available(section, plan, folder))
    section.tables.append(latency(plan, ready, section))
    few = ready if not plan.is_tiny else [peer for peer in ready if peer.name in IN_TESTS]
    section.tables.append(pairs_of_processes(plan, few))
    section.tables.append(consume(plan, few, section))
    section.tables.append(memory.table(plan, few))
    return section


def available(section: Section, plan: Plan, folder: str) -> Iterator[Peer]:
    """The peers that are here; the others are skipped with a word."""
    for number, peer in enumerate(PEERS):
        try:
            with kept(peer, 4, VALUE, os.path.join(folder, str(number))) as where:
                peer.opener(where, 4, VALUE)
            yield peer
        except (Unavailable, ImportError) as missing:
            section.found.append(Skipped(peer.name, str(missing)))


@contextlib.contextmanager
def kept(peer: Peer, count: int, size: int, folder: str | None = None) -> Iterator[Any]:
    """The peer's values in place."""
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="foliocache-bench-", dir="/dev/shm"))
        os.makedirs(folder, exist_ok=True)
        yield stack.enter_context(peer.store(count, size, folder))


def latency(plan: Plan, peers: list[Peer], section: Section) -> Table:
    """ns per hit; in one run for all, values of each peer held at the same time."""
    count, length = plan.values, plan.hits
    with contextlib.ExitStack() as stack:
        cases = {}
        for peer in peers:
            reader = peer.opener(stack.enter_context(kept(peer, count, VALUE)), count, VALUE)
            numbers = loops.order(count, max(length // peer.slow, 16))
            cases[peer.name] = per_op(reader.loop(numbers), len(numbers))
        with pinned(cpus()[:1]):
            took = interleave(cases, plan.rounds)
        one_core = _on_one_processor(plan, peers, cases)
    return _latency_table(took, one_core, section)


def _on_one_processor(plan: Plan, peers: list[Peer], cases: dict[str, Any]) -> dict[str, float]:
    """The socket peers once more, server and client pinned to the same processor."""
    chosen = {peer.name: cases[peer.name] for peer in peers if peer.socket}
    if not chosen:
        return {}
    first = cpus()[:1]
    for pid in stores.pids.values():
        for thread in os.listdir(f"/proc/{pid}/task"):
            os.sched_setaffinity(int(thread), first)
    with pinned(first):
        return interleave(chosen, plan.rounds)


def _latency_table(took: dict[str, float], one_core: dict[str, float], section: Section) -> Table:
    ours, slice_ = took["foliocache, lease"], took[SLICE]
    table = Table("ns per hit of a 64 KiB value, first byte touched", ("who", "ns", "times the slice", "times our lease"))
    for name, each in [*took.items(), *((f"{name}, one processor", each) for name, each in one_core.items())]:
        table.add(name, each, each / slice_, each / ours)
    found = section.found
    found.append(record("hit: lease", ours, "ns", against=SLICE, baseline=slice_, budget="<= 1.5"))
    view = took["foliocache, memoryview(lease)"]
    found.append(record("hit: memoryview(lease)", view, "ns", against=SLICE, baseline=slice_, budget="<= 2"))
    budgets = {"LMDB, open transaction": ">= 4", "LMDB, transaction per get": ">= 8", "diskcache": ">= 200"}
    sockets = dict.fromkeys(one_core, ">= 200")
    for name, budget in budgets.items():
        if name in took:
            found.append(record(f"hit: lease against {name}", ours, "ns", against=name, baseline=took[name], budget=budget))
    for name, budget in sockets.items():
        found.append(
            record(
                f"hit: lease against {name}",
                ours,
                "ns",
                against=f"{name}, one processor",
                baseline=one_core[name],
                budget=budget,
            )
        )
    for name, budget in (("foliocache, folio:: read (a copy)", "<= 1.2"), ("foliocache, folio:: lease", ">= 5")):
        found.append(record(f"fsspec: {name}", took[name], "ns", against=BLOCKCACHE, baseline=took[BLOCKCACHE], budget=budget))
    return table


# Two processes, and all of a value.


def workers(opener: Any, where: Any, count: int, size: int, number: int, length: int) -> dict[str, Any]:
    """WorkerPool: a loop of hits, and one that reads all of each value."""
    reader = opener(where, count, size)
    numbers = loops.order(count, length, seed=number)
    return {"hit": reader.loop(numbers), "sum": loops.sums(reader.get, numbers)}


def pairs_of_processes(plan: Plan, peers: list[Peer]) -> Table:
    """Hits per second of two processes against one."""
    table = Table("Hits of 64 KiB values, thousand per second", ("who", "one process", "two processes", "ratio"))
    if len(cpus()) < 2:
        return table
    for peer in (peer for peer in peers if peer.shared):
        length = max(2 * plan.hits // peer.slow, 16)
        with kept(peer, plan.values, VALUE) as where:
            jobs = [(peer.opener, where, plan.values, VALUE, n, length) for n in range(2)]
            with WorkerPool(workers, jobs, None if peer.socket else cpus()) as pool:
                rates = interleave({str(n): partial(pool.rate, "hit", n) for n in (1, 2)}, max(plan.rounds // 2, 1))
        table.add(peer.name, rates["1"] / 1e3, rates["2"] / 1e3, rates["2"] / rates["1"])
    return table


def consume(plan: Plan, peers: list[Peer], section: Section) -> Table:
    """GB/s of numpy's sum over values of 1 MiB, one process and two, each peer with the slice in the same rounds."""
    table = Table(
        "Full consume: numpy sum of 1 MiB values, GB/s", ("who", "one process", "slice then", "two processes", "slice then")
    )
    count = max(plan.values // 16, 4)
    chosen = ("foliocache, lease", "mmap of a file, slice", "LMDB, open transaction", "dict", "diskcache", "Redis", "memcached")
    slices = next(peer for peer in peers if peer.name == SLICE)
    for peer in (peer for peer in peers if peer.name in chosen):
        with kept(slices, count, MIB) as theirs, kept(peer, count, MIB) as where:
            length = max(plan.hits // 64 // min(peer.slow, 8), 4)
            with _workers(peer, where, count, length) as own, _workers(slices, theirs, count, length) as base:
                speed = interleave(_sums(own, base), plan.rounds)
        gigabytes = {name: each * MIB / 1e9 for name, each in speed.items()}
        table.add(peer.name, *[gigabytes[name] for name in ("1", "base 1", "2", "base 2")])
        if peer.name == "foliocache, lease":
            for n, word in ((1, "one process"), (2, "two processes")):
                section.found.append(
                    record(
                        f"consume 1 MiB, {word}",
                        gigabytes[str(n)],
                        "GB/s",
                        against=SLICE,
                        baseline=gigabytes[f"base {n}"],
                        budget=">= 0.95",
                    )
                )
    return table


def _workers(peer: Peer, where: Any, count: int, length: int) -> WorkerPool:
    return WorkerPool(workers, [(peer.opener, where, count, MIB, n, length) for n in range(2)], None if peer.socket else cpus())


def _sums(own: WorkerPool, base: WorkerPool) -> dict[str, Any]:
    return {
        "1": lambda: own.rate("sum", 1),
        "base 1": lambda: base.rate("sum", 1),
        "2": lambda: own.rate("sum"),
        "base 2": lambda: base.rate("sum"),
    }
