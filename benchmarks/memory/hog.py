"""A hog that takes most of a cgroup's memory, or of the machine's, and lets it go again, while readers read: from a pool, and
from a file through the kernel's page cache."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import random
import re
import resource
import secrets
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
STEP = 0.02  # seconds between two samples ...
LONG_STEP = 0.1  # ... of a pool that has most of the machine's memory, of which each page is looked at
RATE = 500 * MIB  # bytes a second that the hog takes
SHARE = 0.8  # of the limit
SLOWEST = 50 * MIB  # bytes a second that the hog gets at least, or the measurement ends
SECONDS = 60  # for a process to begin or to end, and for the hog besides
TOUCHED = 64 * MIB  # that are looked at together, whether there is more
FLOOR = 0.05 * 1.25  # of the machine: what a pool leaves free by default, before it takes more
LEAST = 0.01  # of the machine: where less is left, the hog gives up
UNTOUCHED = 0.1  # of what is available: that much is not touched beforehand
PR_SET_PDEATHSIG = 1
COLUMNS = ("MB/s read before", "while it grows", "while it stays", "afterwards")
Process = Any
Point = tuple[float, dict[str, float]]


@dataclass(frozen=True)
class _Group:
    """A memory cgroup of version 1, whose processes these become."""

    path: Path
    limit: int
    step: float = STEP

    def enter(self) -> None:
        (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def seized(self, want: int) -> None:
        """The hog's own precautions: none, its limit is the cgroup's."""

    def available(self) -> int:
        usage = int((self.path / "memory.usage_in_bytes").read_text())
        return self.limit - usage + self.files()

    def files(self) -> int:
        stat = (self.path / "memory.stat").read_text()
        return sum(_field(stat, name) for name in ("active_file", "inactive_file"))

    def allows(self) -> bool:
        return True


@dataclass(frozen=True)
class _Machine:
    """The whole machine. The hog is the one that the kernel would kill; it limits itself, and ends with its parent."""

    limit: int
    step: float = LONG_STEP

    def enter(self) -> None:
        pass

    def seized(self, want: int) -> None:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.alarm(int(_patience(want) + SECONDS))
        Path("/proc/self/oom_score_adj").write_text("1000")
        has = 1024 * _field(Path("/proc/self/status").read_text(), "VmData:")
        resource.setrlimit(resource.RLIMIT_DATA, (has + want + want // 64 + 64 * MIB,) * 2)

    def available(self) -> int:
        return 1024 * _field(Path("/proc/meminfo").read_text(), "MemAvailable:")

    def allows(self) -> bool:
        return self.available() > LEAST * self.limit


def scene(section: Section, plan: Plan) -> None:
    """The hog beside readers of a pool, and beside readers of a file."""
    limit = plan.of(1024 * MIB, 256 * MIB)
    size = plan.of(640 * MIB, 64 * MIB)
    table = Table(
        f"a hog takes {SHARE:.0%} of {limit // MIB} MiB at {RATE // MIB} MiB/s, with {READERS} readers of {size // MIB} MiB",
        ("readers of", "hog got, MiB", "killed", "most used, MiB", *COLUMNS),
    )
    series: dict[str, list[tuple[float, float]]] = {}
    for kind, readers in (("pool", _pool), ("file", _file)):
        with _group(limit) as group, readers(size) as (read, cached):
            points, got, killed, phases = _watched(group, int(SHARE * limit), read, cached, plan)
            most = int((group.path / "memory.max_usage_in_bytes").read_text())
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


def whole_machine(section: Section, plan: Plan) -> None:
    """The hog takes its share of all memory, beside readers of a pool. Raises Unavailable where others have too much."""
    total = 1024 * _field(Path("/proc/meminfo").read_text(), "MemTotal:")
    machine = _Machine(total)
    want = plan.of(int(SHARE * total), 64 * MIB)
    size = plan.of(total // 5 // MIB * MIB, 64 * MIB)
    if machine.available() < want + FLOOR * total:
        raise Unavailable(
            f"a hog of {want // MIB:,} MiB does not fit: {machine.available() // MIB:,} of {total // MIB:,} MiB are available"
        )
    touched, first_rate = _touch(machine, plan)
    with _pool(size, warm=True) as (read, cached):
        points, got, killed, phases = _watched(machine, want, read, cached, plan)
    grown = [(at, found["hog"]) for at, found in points if 0 < found["hog"] < got]
    rate = (grown[-1][1] - grown[0][1]) / (grown[-1][0] - grown[0][0]) if len(grown) > 1 else 0.0
    least = min(found["available"] for _, found in points)
    kept = min(found["backed"] for at, found in points if at >= grown[0][0]) if grown else 0.0
    table = Table(
        f"a hog takes {want // MIB:,} MiB of a machine of {total // MIB:,} MiB, with {READERS} readers of {size // MIB:,} MiB",
        ("readers of", "hog got, MiB", "of the machine", "MiB/s", "killed", "pool at its smallest, MiB", "least available, MiB",
         *COLUMNS, "touched before, MiB", "at MiB/s"),
    )  # fmt: skip
    table.add("pool", got / MIB, got / total, rate / MIB, killed, kept / MIB, least / MIB, *phases, touched / MIB,
              first_rate / MIB)  # fmt: skip
    section.tables.append(table)
    section.found += [
        record("hog beside readers of a pool: its share of the machine", got / total, "",
               budget=None if plan.is_tiny else f">= {SHARE}"),
        record("rate at which the hog got it", rate / 1e6, "MB/s", against="as it wants it", baseline=RATE / 1e6),
        record("processes killed on the machine", killed, "", budget="<= 0"),
        record("MB/s read while it grows", phases[1], "MB/s", budget=">= 1"),
        record("MB/s read while it stays", phases[2], "MB/s", budget=">= 1"),
    ]  # fmt: skip


def _patience(want: int) -> float:
    """Return the seconds after which a hog gives up that wants so many bytes."""
    return SECONDS + want / SLOWEST


def _touch(machine: _Machine, plan: Plan) -> tuple[int, float]:
    """Let a process use most of the memory that is free, and end: the host of a virtual machine gives memory when it is first
    touched, at a rate of its own. Return how many bytes it was, and how many a second."""
    want = plan.of(int((1 - UNTOUCHED) * machine.available()), 64 * MIB)
    context = multiprocessing.get_context("fork")
    got, took = context.Value("Q", 0, lock=False), context.Value("d", 0.0, lock=False)
    process = context.Process(target=_touch_all, args=(machine, want, got, took), daemon=True)
    process.start()
    process.join(_patience(want) + SECONDS)
    process.kill()
    process.join(SECONDS)
    return got.value, got.value / took.value if took.value else 0.0


def _touch_all(machine: _Machine, want: int, got: Any, took: Any) -> None:
    machine.seized(want)
    held, begin = [], time.monotonic()
    while got.value < want and machine.available() > max(LEAST * machine.limit, TOUCHED):
        held.append(bytearray(b"x") * TOUCHED)
        got.value += TOUCHED
        took.value = time.monotonic() - begin


@contextlib.contextmanager
def _group(limit: int) -> Iterator[_Group]:
    """A memory cgroup of version 1 with a limit. Raises Unavailable."""
    path = Path(f"/sys/fs/cgroup/memory/foliocache-bench-{os.getpid()}-{secrets.token_hex(3)}")
    try:
        path.mkdir()
    except OSError as error:
        raise Unavailable(f"no memory cgroup (version 1) can be made: {error}") from None
    try:
        (path / "memory.limit_in_bytes").write_text(str(limit))
        yield _Group(path, limit)
    finally:
        deadline = time.monotonic() + SECONDS
        while path.exists() and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                path.rmdir()
            time.sleep(STEP)


Read = Callable[[Any, Any], None]
Cached = Callable[[Any], dict[str, float]]


@contextlib.contextmanager
def _pool(size: int, warm: bool = False) -> Iterator[tuple[Read, Cached]]:
    """Readers of an object through a pool that may have all of it; ``warm``: and has it when they are ready."""
    name = f"bench-{os.getpid()}-{secrets.token_hex(4)}"
    pool = foliocache.open(name, size=2 * size, clients=16, pressure=False)

    def read(done: Any, ready: Any) -> None:
        mapping = foliocache.open(name, pressure=True).mapping("object", size, "1", readinto=Pattern(MIB), readahead=0)
        into, numbers = bytearray(PIECE), random.Random(os.getpid())
        for offset in range(0, size if warm else 0, PIECE):
            mapping.readinto(offset, into)
        ready.release()
        while True:
            mapping.readinto(numbers.randrange(size // PIECE) * PIECE, into)
            done.value += PIECE

    def cached(place: Any) -> dict[str, float]:
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

        def cached(place: Any) -> dict[str, float]:
            return {"cached": place.files()}

        yield read, cached


def _watched(
    place: _Group | _Machine, want: int, read: Read, cached: Cached, plan: Plan
) -> tuple[list[Point], int, int, list[float]]:
    """Let readers and the hog run. Return the samples, the bytes that the hog got, how many were killed, and MB/s in each
    phase."""
    context = multiprocessing.get_context("fork")
    done = [context.Value("Q", 0, lock=False) for _ in range(READERS)]
    got, ready, go, leave = context.Value("Q", 0, lock=False), context.Semaphore(0), context.Semaphore(0), context.Semaphore(0)
    processes = [context.Process(target=_in_place, args=(place, read, each, ready), daemon=True) for each in done]
    processes.append(context.Process(target=_in_place, args=(place, _hog, place, want, got, ready, go, leave), daemon=True))
    points: list[Point] = []
    phases: list[float] = []
    most = 0
    begin = time.monotonic()

    def phase(until: Callable[[float], bool]) -> None:
        nonlocal most
        since, before = time.monotonic(), sum(each.value for each in done)
        while not until(time.monotonic() - since):
            most = max(most, got.value)
            points.append((time.monotonic() - begin,
                           {**cached(place), "available": place.available(), "hog": got.value}))  # fmt: skip
            time.sleep(place.step)
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
        phase(lambda took: got.value >= want or not processes[-1].is_alive() or took > _patience(want))
        phase(lambda took: took >= quiet)
        leave.release()
        phase(lambda took: took >= 3 * quiet)
        killed = sum(each.exitcode == -9 for each in processes)
    finally:
        for each in processes:
            each.kill()
            each.join(SECONDS)
    return points, most, killed, phases


def _in_place(place: _Group | _Machine, run: Callable[..., None], *args: Any) -> None:
    place.enter()
    run(*args)


def _hog(place: _Group | _Machine, want: int, got: Any, ready: Any, go: Any, leave: Any) -> None:
    """Take memory at RATE, keep it until told to leave, and let it go. Give up where the place allows no more."""
    place.seized(want)
    ready.release()
    go.acquire()
    held, begin = [], time.monotonic()
    while got.value < want and place.allows():
        held.append(bytearray(b"x") * MIB)
        got.value += MIB
        time.sleep(max(0.0, got.value / RATE - (time.monotonic() - begin)))
    leave.acquire()
    held.clear()
    got.value = 0
    leave.acquire()


def _field(stat: str, name: str) -> int:
    found = re.search(rf"^(?:total_)?{name}\s+(\d+)(?: kB)?$", stat, re.MULTILINE)
    return int(found[1]) if found else 0
