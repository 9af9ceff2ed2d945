"""A hog that takes most of a cgroup's memory and lets it go again, while readers read: from a pool, and from a file through the
kernel's page cache."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import re
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import foliocache
from benchmarks.common import plot
from benchmarks.common.measure import Unavailable, record
from benchmarks.common.plan import Plan
from benchmarks.common.pools import KIB, MIB, Pattern
from benchmarks.common.report import Section, Table

READERS = 2
PIECE = 256 * KIB  # of a read
STEP = 0.02  # seconds between two samples
RATE = 500 * MIB  # bytes a second that the hog takes
SHARE = 0.8  # of the limit
SECONDS = 60  # for a process to begin or to end
Process = Any
Point = tuple[float, dict[str, float]]


def scene(section: Section, plan: Plan) -> None:
    """The hog beside readers of a pool, and beside readers of a file."""
    limit = plan.of(1024 * MIB, 256 * MIB)
    size = plan.of(640 * MIB, 64 * MIB)
    table = Table(
        f"a hog takes {SHARE:.0%} of {limit // MIB} MiB at {RATE // MIB} MiB/s, with {READERS} readers of {size // MIB} MiB",
        ("readers of", "hog got, MiB", "killed", "most used, MiB", "MB/s read before", "while it grows", "while it stays",
         "afterwards"),
    )  # fmt: skip
    series: dict[str, list[tuple[float, float]]] = {}
    for kind, readers in (("pool", _pool), ("file", _file)):
        with _group(limit) as group, readers(size) as (read, cached):
            points, got, killed, phases = _watched(group, limit, read, cached, plan)
            most = int((group / "memory.max_usage_in_bytes").read_text())
        table.add(kind, got / MIB, killed, most / MIB, *phases)
        for name in points[0][1]:
            series[f"{kind}: {name}"] = [(at, found[name] / MIB) for at, found in points if name in found]
        section.found.append(record(f"hog beside readers of a {kind}: its share of the limit", got / limit, "",
                                    budget=f">= {SHARE}" if kind == "pool" else None))  # fmt: skip
        section.found.append(record(f"processes killed, {kind}", killed, "", budget="<= 0" if kind == "pool" else None))
    section.tables.append(table)
    section.plots["memory.svg"] = plot.lines(
        f"Readers and a hog in {limit // MIB} MiB: of a pool, and of a file", "seconds", "MiB", series, pairs=True
    )


@contextlib.contextmanager
def _group(limit: int) -> Iterator[Path]:
    """A memory cgroup of version 1 with a limit. Raises Unavailable."""
    path = Path(f"/sys/fs/cgroup/memory/foliocache-bench-{os.getpid()}-{secrets.token_hex(3)}")
    try:
        path.mkdir()
    except OSError as error:
        raise Unavailable(f"no memory cgroup (version 1) can be made: {error}") from None
    try:
        (path / "memory.limit_in_bytes").write_text(str(limit))
        yield path
    finally:
        deadline = time.monotonic() + SECONDS
        while path.exists() and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                path.rmdir()
            time.sleep(STEP)


Read = Callable[[Any, Any], None]
Cached = Callable[[Path], dict[str, float]]


@contextlib.contextmanager
def _pool(size: int) -> Iterator[tuple[Read, Cached]]:
    """Readers of an object through a pool that may have all of it."""
    name = f"bench-{os.getpid()}-{secrets.token_hex(4)}"
    pool = foliocache.open(name, size=2 * size, clients=16, pressure=False)

    def read(done: Any, ready: Any) -> None:
        mapping = foliocache.open(name, pressure=True).mapping("object", size, "1", readinto=Pattern(MIB), readahead=0)
        into, numbers = bytearray(PIECE), random.Random(os.getpid())
        ready.release()
        while True:
            mapping.readinto(numbers.randrange(size // PIECE) * PIECE, into)
            done.value += PIECE

    def cached(group: Path) -> dict[str, float]:
        found = pool.stat()
        return {"backed": found.backed_bytes, "cached": found.cached_bytes}

    try:
        yield read, cached
    finally:
        pool.close()
        foliocache.remove(name)


@contextlib.contextmanager
def _file(size: int) -> Iterator[tuple[Read, Cached]]:
    """Readers of a file on a disk."""
    with tempfile.NamedTemporaryFile(dir=Path.home()) as file:
        for _ in range(0, size, MIB):
            file.write(os.urandom(MIB))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

        def read(done: Any, ready: Any) -> None:
            into, numbers = bytearray(PIECE), random.Random(os.getpid())
            fd = os.open(file.name, os.O_RDONLY)
            ready.release()
            while True:
                os.preadv(fd, [into], numbers.randrange(size // PIECE) * PIECE)
                done.value += PIECE

        def cached(group: Path) -> dict[str, float]:
            stat = (group / "memory.stat").read_text()
            return {"cached": sum(_field(stat, name) for name in ("active_file", "inactive_file"))}

        yield read, cached


def _watched(group: Path, limit: int, read: Read, cached: Cached, plan: Plan) -> tuple[list[Point], int, int, list[float]]:
    """Let readers and the hog run. Return the samples, the bytes that the hog got, how many were killed, and MB/s in each
    phase."""
    context = multiprocessing.get_context("fork")
    want = int(SHARE * limit)
    done = [context.Value("Q", 0, lock=False) for _ in range(READERS)]
    got, ready, go, leave = context.Value("Q", 0, lock=False), context.Semaphore(0), context.Semaphore(0), context.Semaphore(0)
    processes = [context.Process(target=_in_group, args=(group, read, each, ready), daemon=True) for each in done]
    processes.append(context.Process(target=_in_group, args=(group, _hog, want, got, ready, go, leave), daemon=True))
    points: list[Point] = []
    phases: list[float] = []
    most = 0
    begin = time.monotonic()

    def phase(until: Callable[[float], bool]) -> None:
        nonlocal most
        since, before = time.monotonic(), sum(each.value for each in done)
        while not until(time.monotonic() - since):
            usage, stat = int((group / "memory.usage_in_bytes").read_text()), (group / "memory.stat").read_text()
            clean = sum(_field(stat, name) for name in ("active_file", "inactive_file"))
            most = max(most, got.value)
            points.append((time.monotonic() - begin,
                           {**cached(group), "available": limit - usage + clean, "hog": got.value}))  # fmt: skip
            time.sleep(STEP)
        phases.append((sum(each.value for each in done) - before) / (time.monotonic() - since) / 1e6)

    try:
        for each in processes:
            each.start()
        for _ in processes:
            if not ready.acquire(timeout=SECONDS):
                raise RuntimeError("a process did not begin")
        quiet = plan.of(3.0, 0.3)
        phase(lambda took: took >= quiet)
        go.release()
        phase(lambda took: got.value >= want or not processes[-1].is_alive() or took > SECONDS)
        phase(lambda took: took >= quiet)
        leave.release()
        phase(lambda took: took >= 3 * quiet)
        killed = sum(each.exitcode == -9 for each in processes)
    finally:
        for each in processes:
            each.kill()
            each.join(SECONDS)
    return points, most, killed, phases


def _in_group(group: Path, run: Callable[..., None], *args: Any) -> None:
    (group / "cgroup.procs").write_text(str(os.getpid()))
    run(*args)


def _hog(want: int, got: Any, ready: Any, go: Any, leave: Any) -> None:
    """Take memory at RATE, keep it until told to leave, and let it go."""
    ready.release()
    go.acquire()
    held, begin = [], time.monotonic()
    while got.value < want:
        held.append(bytearray(b"x") * MIB)
        got.value += MIB
        time.sleep(max(0.0, got.value / RATE - (time.monotonic() - begin)))
    leave.acquire()
    held.clear()
    got.value = 0
    leave.acquire()


def _field(stat: str, name: str) -> int:
    found = re.search(rf"^(?:total_)?{name} (\d+)$", stat, re.MULTILINE)
    return int(found[1]) if found else 0
