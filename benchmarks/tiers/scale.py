"""What a pool and a disk tier keep of a data set that many machines read, by the shipped code; and what follows for 1,000.

One machine is simulated, with pieces of a page: a real pool and a real disk tier, in memory. What counts are the ratios of the
sizes, so few pieces stand for many. ``python -m benchmarks.tiers.scale`` prints the tables of docs/scale.md.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import foliocache.tiers
from benchmarks.common import inside
from benchmarks.common.plan import KIB
from benchmarks.common.pools import one_per_folio
from benchmarks.common.report import Table

PAGE = 4 * KIB
POOL_LEAST = 64
MACHINES = 8  # of the simulation
SETTLE = 32  # fetches after which the simulation waits until they are stored: a real origin takes longer than this

TB, GB = 10**12, 10**9
FLEET = 1000
DATA = 100 * TB
READ = 2 * GB  # bytes per second that a machine reads
MEMORY, DISK, SHARED = 64 * GB, 1 * TB, 32 * GB  # of each machine: the pool, the disk tier, what it gives to Valkey


@dataclass(frozen=True)
class Share:
    """Where the bytes of an epoch came from: shares of all that was read."""

    pool: float
    disk: float
    origin: float


def orders(kind: str, pieces: int, epochs: int, seed: int = 1) -> Iterator[list[int]]:
    """Yield what one of MACHINES machines reads in each epoch.

    "sharded": its own part of the data, in a new order. "shuffled": a random part, as large, of all data.
    """
    chosen = random.Random(seed)
    part = pieces // MACHINES
    for _ in range(epochs):
        yield chosen.sample(range(part if kind == "sharded" else pieces), part)


def simulate(pieces: int, pool_pieces: int, disk_pieces: int, epochs: Sequence[Sequence[int]]) -> list[Share]:
    """Read pieces through a pool and a disk tier. Return for each epoch where they came from."""
    folder = tempfile.mkdtemp(prefix="foliocache-bench-", dir="/dev/shm")
    name = folder.rpartition("/")[2]
    sent = 0

    def readinto(offset: int, buffer: Any) -> int:
        nonlocal sent
        sent += 1
        if not sent % SETTLE:
            foliocache.tiers.flush()
        return len(buffer)

    found = []
    try:
        tier = f"disk:{folder}/tier?size={inside.tier_bytes(disk_pieces, PAGE)}&slot={PAGE}"
        size = max(pool_pieces + pieces // 512 + 8, POOL_LEAST) * PAGE
        with foliocache.open(name, size=size, page_size=PAGE, tiers=[tier]) as pool:
            mapping = one_per_folio(pool, pieces, PAGE, readinto=readinto, readahead=False)
            for epoch in epochs:
                sent, before = 0, pool.tiers[0].hits
                for index in epoch:
                    mapping.lease(index * PAGE)
                foliocache.tiers.flush()
                disk, origin = pool.tiers[0].hits - before, sent
                found.append(Share((len(epoch) - disk - origin) / len(epoch), disk / len(epoch), origin / len(epoch)))
    finally:
        foliocache.remove(name)
        shutil.rmtree(folder)
    return found


def simulated(pieces: int, epochs: int = 24) -> Table:
    """Return the hit ratios of one of MACHINES machines in the last epoch, with disks of several sizes."""
    part = pieces // MACHINES
    table = Table(
        f"One of {MACHINES} machines, {pieces:,} pieces, epoch {epochs}, a pool of 1/8 of the machine's part",
        ("disk tier / data", "order", "pool", "disk tier", "origin"),
    )
    for disk in (part // 2, part, pieces // 2, pieces):
        for kind in ("sharded", "shuffled"):
            last = simulate(pieces, part // 8, disk, list(orders(kind, pieces, epochs)))[-1]
            table.add(f"{disk / pieces:.3f}", kind, *(f"{share:.3f}" for share in (last.pool, last.disk, last.origin)))
    return table


@dataclass(frozen=True)
class Load:
    """What a fleet asks of each tier in a later epoch: shares of what is read, and bytes per second."""

    order: str
    pool: float
    disk: float
    valkey: float
    origin: float

    @property
    def valkey_rate(self) -> float:
        """Bytes per second that each machine's server sends."""
        return READ * self.valkey

    @property
    def origin_rate(self) -> float:
        """Bytes per second that the origin sends to all machines."""
        return FLEET * READ * self.origin


def loads(disk: int = DISK, shared: int = SHARED) -> list[Load]:
    """Return the loads of FLEET machines: of data that is read once in an epoch, a tier keeps what it has room for."""
    found = []
    for order, working in (("sharded", DATA / FLEET), ("shuffled", float(DATA))):
        pool = min(1.0, MEMORY / working)
        near = max(pool, min(1.0, disk / working))  # the disk has what the pool has, too
        far = min(1.0, FLEET * shared / DATA) * (1 - near)
        found.append(Load(order, pool, near - pool, far, 1 - near - far))
    return found


def fleet() -> Table:
    """Return the table of what 1,000 machines ask of each tier."""
    table = Table(
        f"{FLEET:,} machines, {DATA / TB:.0f} TB, {READ / GB:.0f} GB/s each",
        ("order", "pool", "disk tier", "Valkey", "origin", "each server sends, GB/s", "the origin sends, GB/s"),
    )
    for each in loads():
        shares = (f"{share:.3f}" for share in (each.pool, each.disk, each.valkey, each.origin))
        table.add(each.order, *shares, f"{each.valkey_rate / GB:.2f}", f"{each.origin_rate / GB:,.0f}")
    return table


def main(tables: Sequence[Any] = ()) -> None:
    """Print the tables."""
    for table in tables or (simulated(4000), fleet()):
        print(f"{table.markdown()}\n")


if __name__ == "__main__":
    main()
