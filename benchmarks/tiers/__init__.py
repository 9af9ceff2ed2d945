"""Tiers: the second epoch of data larger than the pool, hits of disk and server beside the bare reads, and three machines.

The origin is a function that gives 50 MB/s to each call, as one connection to S3 does. The disk is the one of the working
directory. Compared cases take turns; a figure is the least of its rounds, since what disturbs only adds. Of a round it is the
least call, and with a server the median.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import foliocache.tiers
from benchmarks.common import inside
from benchmarks.common.measure import Skipped, Unavailable, record
from benchmarks.common.plan import KIB, MIB, Plan
from benchmarks.common.report import Section, Table
from benchmarks.tiers import scale
from benchmarks.tiers.servers import Valkey
from foliocache.cli.signals import CleanupStack

RATE = 50e6  # bytes per second of each call of the origin
DIGEST = bytes(16)
PATIENCE = 60.0
ROUNDS = 32  # with a server: the kernel leaves it and its client where they are for a while, on two processors or on one


def run(plan: Plan) -> Section:
    section = Section("tiers")
    try:
        import crc32c
    except ImportError as missing:
        section.found.append(Skipped("tiers", f"{missing}: pip install 'foliocache[disk]'"))
        return section
    del crc32c
    with tempfile.TemporaryDirectory(prefix="foliocache-bench-", dir=os.getcwd()) as folder:
        _epochs(section, plan, Path(folder))
        _many_calls(section, plan, Path(folder))
        _disk_hits(section, plan, Path(folder))
        _opening(section, plan, Path(folder))
    for part in (_valkey, _machines):
        try:
            part(section, plan)
        except (Unavailable, ImportError) as missing:
            section.found.append(Skipped(part.__name__.strip("_"), str(missing)))
    section.tables.append(scale.fleet())
    return section


def _epochs(section: Section, plan: Plan, folder: Path) -> None:
    """Data of four times the pool, in order."""
    pool_bytes = plan.of(64 * MIB, 2 * MIB)
    data, step = 4 * pool_bytes, MIB
    slot = plan.of(64 * KIB, 32 * KIB)  # folios of the tiny pool have half a slot of the usual size
    content = os.urandom(step)
    sent = 0

    def read(offset: int, length: int) -> bytes:
        nonlocal sent
        sent += length
        time.sleep(length / RATE)
        return (content * (length // step + 1))[:length]

    def epoch(pool: Any) -> float:
        mapping = pool.mapping("data", data, "1", read, concurrent=True)
        begin = time.perf_counter()
        for offset in range(0, data, step):
            mapping.read(offset, step)
        return time.perf_counter() - begin

    firsts: dict[bool, list[float]] = {False: [], True: []}
    second, direct, again, dropped, wrong_cache = [], [], 0, 0, 0.0
    for number in range(plan.of(3, 1)):
        for with_tier in (False, True):
            place = folder / f"epochs-{number}"
            tiers = [f"disk:{place}?size={data + data // 8 + MIB}&slot={slot}"] if with_tier else None
            with _pool(pool_bytes, tiers) as pool:
                firsts[with_tier].append(epoch(pool))
                if with_tier:
                    foliocache.tiers.flush(PATIENCE)
                    dropped = max(dropped, pool.tiers[0].dropped)
                    sent = 0
                    second.append(epoch(pool))
                    again = max(again, sent)
                    direct.append(_read_direct(place / "slots", data))
                    wrong_cache = max(wrong_cache, _cached_share(place / "slots"))
    section.found += [
        record("first epoch: folios for which the disk was too slow", dropped, "folios"),
        record("second epoch of 4 x the pool: bytes from the origin", again / MIB, "MiB", budget="<= 0"),
        record(
            "second epoch: speed",
            data / min(second) / 1e6,
            "MB/s",
            against="pread O_DIRECT of 1 MiB",
            baseline=data / min(direct) / 1e6,
            budget=">= 0.7",
        ),
        record(
            "first epoch with the tier", min(firsts[True]), "s", against="without", baseline=min(firsts[False]), budget="<= 1.1"
        ),
        record("share of the slots in the kernel's page cache", wrong_cache, "of the file", budget="<= 0.01"),
    ]


def _many_calls(section: Section, plan: Plan, folder: Path) -> None:
    """The first epoch of a process that makes 32 calls at once: the origin gives more than the disk takes."""
    pool_bytes, calls = plan.of(64 * MIB, 2 * MIB), 32
    data = 4 * pool_bytes
    content = os.urandom(MIB)

    def read(offset: int, length: int) -> bytes:
        time.sleep(length / RATE)
        return content if length == MIB else (content * (length // MIB + 1))[:length]

    took: dict[bool, list[float]] = {False: [], True: []}
    dropped = 0
    with ThreadPoolExecutor(calls) as threads:
        for number in range(plan.of(5, 1)):
            for with_tier in (False, True):
                tiers = [f"disk:{folder}/calls-{number}?size={data + data // 8 + MIB}"] if with_tier else None
                with _pool(pool_bytes, tiers) as pool:
                    mapping = pool.mapping("data", data, "1", read, concurrent=True)
                    begin = time.perf_counter()
                    for _ in threads.map(lambda at, mapping=mapping: mapping.read(at, MIB) and None, range(0, data, MIB)):
                        pass
                    took[with_tier].append(time.perf_counter() - begin)
                    if with_tier:
                        dropped = max(dropped, pool.tiers[0].dropped)
                        foliocache.tiers.flush(PATIENCE)
    section.found += [
        record(
            f"first epoch with the tier, {calls} calls at once",
            min(took[True]),
            "s",
            against="without",
            baseline=min(took[False]),
            budget="<= 1.1",
        ),
        record("folios for which the disk was too slow then", dropped, "folios"),
    ]


@contextlib.contextmanager
def _pool(size: int, tiers: Any) -> Iterator[Any]:
    name = f"foliocache-bench-{os.getpid()}"
    with CleanupStack() as stack:
        pool = foliocache.open(name, size=size, tiers=tiers)
        stack.callback(foliocache.remove, name)
        stack.callback(pool.close)
        yield pool


def _read_direct(path: Path, length: int) -> float:
    """Return the seconds that reading so many bytes takes without the page cache."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, MIB) as buffer:
            begin = time.perf_counter()
            for offset in range(0, length, MIB):
                os.preadv(fd, [buffer], offset)
            return time.perf_counter() - begin
    finally:
        os.close(fd)


def _cached_share(path: Path) -> float:
    """Return the share of a file that the kernel has in its page cache."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    size = path.stat().st_size
    pages = -(-size // mmap.PAGESIZE)
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), size) as mapped:
        seen = (ctypes.c_ubyte * pages)()
        anchor = ctypes.c_char.from_buffer(mapped)
        try:
            if libc.mincore(ctypes.c_void_p(ctypes.addressof(anchor)), ctypes.c_size_t(size), seen):
                raise OSError(ctypes.get_errno(), "mincore")
        finally:
            del anchor
        return sum(each & 1 for each in seen) / pages


def _disk_hits(section: Section, plan: Plan, folder: Path) -> None:
    pieces = plan.of(64, 4)
    tier = inside.disk_tier(folder / "hits", (pieces + 8) * MIB)
    buffer = mmap.mmap(-1, MIB)
    view = memoryview(buffer)
    for number in range(pieces):
        tier.store(DIGEST, [(number * MIB, view)])
    fd = os.open(folder / "hits" / "slots", os.O_RDONLY | (os.O_DIRECT if tier.is_direct else 0))
    for size, budget in ((MIB, "<= 1.5"), (64 * KIB, "<= 2")):
        part = view[:size]

        def load(number: int, part: memoryview = part) -> None:
            assert tier.load(DIGEST, [(number * MIB, part)]) == [True]

        def bare(number: int, part: memoryview = part) -> None:
            os.preadv(fd, [part], number * MIB)

        ours, theirs = _paired(load, bare, pieces, plan.rounds)
        section.found.append(
            record(
                f"disk tier: hit of {size // KIB} KiB", ours * 1e6, "us", against="pread", baseline=theirs * 1e6, budget=budget
            )
        )
        part.release()
    os.close(fd)
    tier.close()
    view.release()


def _opening(section: Section, plan: Plan, folder: Path) -> None:
    """As after a reboot: nothing of the index is in the page cache."""
    slots = plan.of(1_000_000, 1000)
    size = slots * (4 * KIB + 110)
    try:
        inside.disk_tier(folder / "large", size, 4 * KIB).close()
    except OSError as error:
        section.found.append(Skipped("opening of 10^6 slots", str(error)))
        return
    took = []
    for _ in range(plan.rounds):
        fd = os.open(folder / "large" / "index", os.O_RDWR)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
        begin = time.perf_counter()
        tier = inside.disk_tier(folder / "large")
        tier.holds(DIGEST, [(0, 4 * KIB)])
        took.append(time.perf_counter() - begin)
        count = tier.shape.slots
        tier.close()
    section.found.append(record(f"opening of {count:,} slots, cold", max(took), "s", budget="<= 2"))


def _valkey(section: Section, plan: Plan) -> None:
    """Hits and stores on loopback, beside GET and SET of one value of that size by the fastest of the clients that are here.

    A round's figure is its median. How long a call takes depends on where the kernel has put the two processes, and on what is
    in the caches: the least of all calls would be that of the one that was lucky in both.
    """
    pieces = plan.of(32, 4)
    table = Table("A Valkey server on loopback: microseconds", ("size", "what", "tier", *CLIENTS))
    with CleanupStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="foliocache-bench-")))
        server = stack.enter_context(Valkey(folder, "127.0.0.1", 0))
        tier = inside.valkey_tier(server.url, PATIENCE)
        stack.callback(tier.close)
        clients = {name: client for name, make in CLIENTS.items() if (client := _made(make, server.port, stack)) is not None}
        for size in (64 * KIB, MIB):
            data = memoryview(os.urandom(size))
            target = memoryview(bytearray(size))

            def load(number: int, target: memoryview = target) -> None:
                assert tier.load(DIGEST, [(number * MIB, target)]) == [True]

            def store(number: int, data: memoryview = data) -> None:
                tier.store(DIGEST, [(number * MIB, data)])

            sets = [partial(_bare_set, client, bytes(data)) for client in clients.values()]
            gets = [partial(_bare_get, client) for client in clients.values()]
            for what, command, ours, theirs in (("store", "SET", store, sets), ("load", "GET", load, gets)):
                found = _in_turns([ours, *theirs], pieces, plan.of(ROUNDS, 1), median)
                each = dict(zip(clients, found[1:], strict=True))
                table.add(
                    f"{size // KIB} KiB",
                    f"{what}, {command}",
                    f"{found[0] * 1e6:.0f}",
                    *(f"{each[name] * 1e6:.0f}" if name in each else "" for name in CLIENTS),
                )
                fastest = min(each, key=each.__getitem__)
                section.found.append(
                    record(
                        f"Valkey: {what} of {size // KIB} KiB",
                        found[0] * 1e6,
                        "us",
                        against=f"{command} by {fastest}",
                        baseline=each[fastest] * 1e6,
                        budget=">= 0.9",
                    )
                )
        _many_at_once(section, tier, clients, pieces, plan.of(ROUNDS, 1))
    section.tables.append(table)


def _many_at_once(section: Section, tier: Any, clients: dict[str, Any], pieces: int, rounds: int) -> None:
    """Store folios of 1 MiB as the queue of what is to be stored gives them: four by one call."""
    together = 4
    data = memoryview(os.urandom(together * MIB))

    def store(number: int) -> None:
        at = number * together
        tier.store(DIGEST, [((at + n) * MIB, data[n * MIB : (n + 1) * MIB]) for n in range(together)])

    sets = [partial(_bare_set, client, bytes(data[:MIB])) for client in clients.values()]
    found = _in_turns([store, *sets], pieces, rounds, median)
    each = dict(zip(clients, found[1:], strict=True))
    fastest = min(each, key=each.__getitem__)
    section.found.append(
        record(
            f"Valkey: store of {together} x 1024 KiB, each",
            found[0] / together * 1e6,
            "us",
            against=f"SET by {fastest}",
            baseline=each[fastest] * 1e6,
            budget=">= 0.9",
        )
    )


def _bare_set(client: Any, data: bytes, number: int) -> None:
    client.set(f"bare{number}", data)


def _bare_get(client: Any, number: int) -> None:
    client.get(f"bare{number}")


def _made(make: Callable[[int, CleanupStack], Any], port: int, stack: CleanupStack) -> Any:
    """Return a client; None if its package is not installed."""
    try:
        return make(port, stack)
    except ImportError:
        return None


def _valkey_py(port: int, stack: CleanupStack) -> Any:
    import valkey

    return stack.enter_context(valkey.Valkey(port=port, socket_timeout=PATIENCE))


def _redis_py(port: int, stack: CleanupStack) -> Any:
    import redis

    return stack.enter_context(redis.Redis(port=port, socket_timeout=PATIENCE))


def _glide(port: int, stack: CleanupStack) -> Any:
    from glide_sync import GlideClient, GlideClientConfiguration, NodeAddress

    client = GlideClient.create(GlideClientConfiguration([NodeAddress("127.0.0.1", port)]))
    stack.callback(client.close)
    return client


CLIENTS: dict[str, Callable[[int, CleanupStack], Any]] = {
    "valkey-py": _valkey_py,
    "redis-py": _redis_py,
    "valkey-glide": _glide,
}


def _machines(section: Section, plan: Plan) -> None:
    from benchmarks.tiers import cluster  # here, since it is a program, too

    found = cluster.measure(plan.of(cluster.Size(), cluster.Size(machines=2, workers=1, files=1, file_bytes=MIB, latency=0.0)))
    kind = "network namespaces" if found["isolated"] else "folders"
    section.found.append(
        record(
            f"{len(found['machines'])} machines ({kind}): bytes from the origin",
            found["origin_bytes"] / MIB,
            "MiB",
            against="data set",
            baseline=found["data_bytes"] / MIB,
            budget="<= 1",
        )
    )


def _paired(one: Callable[[int], None], other: Callable[[int], None], count: int, rounds: int) -> tuple[float, float]:
    """Return the least seconds of each call; they take turns."""
    ours, theirs = _in_turns([one, other], count, rounds)
    return ours, theirs


def _in_turns(
    calls: Sequence[Callable[[int], Any]], count: int, rounds: int, of_round: Callable[[list[float]], float] = min
) -> list[float]:
    """Return the seconds of each call: the least of its rounds, of each of which there is one figure. They take turns, and each
    is the first as often as the others."""
    least = [float("inf")] * len(calls)
    for turn in range(rounds):
        for step in range(len(calls)):
            place = (turn + step) % len(calls)
            took = []
            for number in range(count):
                begin = time.perf_counter()
                calls[place](number)
                took.append(time.perf_counter() - begin)
            least[place] = min(least[place], of_round(took))
    return least
