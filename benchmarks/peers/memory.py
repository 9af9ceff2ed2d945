"""What four workers hold once each has read every value: the sum of their PSS (a shared page counts once), and of a
server's."""

from __future__ import annotations

from typing import Any

from benchmarks.common.plan import Plan
from benchmarks.common.pools import KIB, MIB, VALUE
from benchmarks.common.report import Table
from benchmarks.common.worker_pool import WorkerPool
from benchmarks.peers import stores
from foliocache.cli.memory import private_and_shared

WORKERS = 4
NAMES = (
    "foliocache, memoryview(lease)",
    "foliocache, folio:: read (a copy)",
    "dict",
    "cachetools LRU",
    "cachebox LRU",
    "shared memory, slice",
    "LMDB, open transaction",
    "fsspec blockcache, read",
    "fsspec filecache, read",
    "diskcache",
    "memcached",
    "Redis",
)


def table(plan: Plan, peers: list[Any]) -> Table:
    from benchmarks.peers import kept

    held = plan.values * VALUE / MIB
    found = Table(
        f"Memory of {WORKERS} workers that have each read {held:.0f} MiB of values, above {WORKERS} idle ones, MiB",
        ("who", "workers (PSS)", "server (PSS)", "together", "times the data"),
    )
    for peer in (peer for peer in peers if peer.name in NAMES):
        with kept(peer, plan.values, VALUE) as where:
            jobs = [(peer.opener, where, plan.values, VALUE)] * WORKERS
            with WorkerPool(touchers, jobs) as pool:
                before = sum(pss(pid) for pid in pool.pids)
                pool.rate("open and read")
                workers = (sum(pss(pid) for pid in pool.pids) - before) / MIB
                server = sum(pss(pid) for pid in stores.pids.values()) / MIB
        found.add(peer.name, workers, server, workers + server, (workers + server) / held)
    return found


def touchers(opener: Any, where: Any, count: int, size: int) -> dict[str, Any]:
    """WorkerPool: opens the peer only when it is told to, then reads all of every value."""
    opener(where, 1, size)  # the libraries that it imports are no data
    keep = []

    def read() -> int:
        reader = opener(where, count, size)
        keep.append(reader)
        total = 0
        for n in range(count):
            with memoryview(reader.get(n)) as view:
                total += sum(view[:: 4 * KIB])
        return count

    return {"open and read": read}


def pss(pid: int) -> int:
    """Bytes."""
    return sum(private_and_shared(pid))
