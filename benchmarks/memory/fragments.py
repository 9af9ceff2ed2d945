"""How long the first use of a page waits where the kernel has to make room for each huge page:
``python -m benchmarks.memory.fragments``.

All free memory is broken up: it is taken 2 MiB at a time, and every second page of it is given back. So half of it is held,
until the end, and no more where less than ``LEAST`` would be available. It needs root, for file systems of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import foliocache
from benchmarks.common.measure import Unavailable
from benchmarks.common.pools import MIB
from foliocache.cli.signals import CleanupStack

HUGE, PAGE, ORDER = 2 * MIB, mmap.PAGESIZE, 9
FEW = 8  # huge pages that are left: others give some back meanwhile
LEAST = 0.3  # of the machine
SECONDS = 120  # for breaking up
CHUNKS = 128  # huge pages that are asked for
KEEP_SIZE, PUNCH_HOLE, COLLAPSE = 1, 2, 25
PATIENCE = 60
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]


def main() -> int:
    try:
        Path("/proc/self/oom_score_adj").write_text("1000")
        with CleanupStack() as stack:
            plain = stack.enter_context(_mounted("size=2g,huge=never"))
            _show("as it is", plain)
            taken = stack.enter_context(_mounted(f"size={_memory('MemTotal')},huge=always"))
            print(f"{_broken_up(taken) // MIB:,} MiB held; {_large():,} huge pages are free")
            _show("broken up", plain)
    except (Unavailable, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


@contextlib.contextmanager
def _mounted(options: str) -> Iterator[Path]:
    """A tmpfs of its own. Raises Unavailable."""
    with tempfile.TemporaryDirectory(prefix="foliocache-bench-") as place:
        if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], timeout=PATIENCE).returncode:
            raise Unavailable("no file system can be mounted here")
        try:
            yield Path(place)
        finally:
            subprocess.run(["umount", "-l", place], check=True, timeout=PATIENCE)


def _memory(name: str) -> int:
    """Return a number of /proc/meminfo in bytes."""
    found = re.search(rf"^{name}:\s+(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _large() -> int:
    """Return how many huge pages could be had at once."""
    rows = (line.split()[4:] for line in Path("/proc/buddyinfo").read_text().splitlines())
    return sum(int(count) << order - ORDER for row in rows for order, count in enumerate(row) if order >= ORDER)


def _fallocate(fd: int, mode: int, at: int, length: int) -> None:
    if _libc.fallocate(fd, mode, at, length):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _broken_up(place: Path) -> int:
    """Break up free memory. Return the bytes that are held, until the file system is gone."""
    fd = os.open(place / "held", os.O_RDWR | os.O_CREAT)
    held, deadline = 0, time.monotonic() + SECONDS
    try:
        while _large() > FEW and _memory("MemAvailable") > LEAST * _memory("MemTotal") and time.monotonic() < deadline:
            for at in range(2 * held, 2 * held + 16 * HUGE, HUGE):
                _fallocate(fd, 0, at, HUGE)
                for page in range(at, at + HUGE, 2 * PAGE):
                    _fallocate(fd, PUNCH_HOLE | KEEP_SIZE, page, PAGE)
            held += 8 * HUGE
    finally:
        os.close(fd)
    return held


def _show(what: str, place: Path) -> None:
    for name, measure in (("huge pages by MADV_COLLAPSE", _collapses), ("a pool, huge", _huge), ("a pool, small", _small)):
        wall, cpu = zip(*measure(place), strict=True)
        print(
            f"{what}, {name}: wall, ms: median {1000 * sorted(wall)[len(wall) // 2]:.2f}, worst {1000 * max(wall):.2f}; "
            f"processor, ms: worst {1000 * max(cpu):.2f}, all {1000 * sum(cpu):.0f}",
            flush=True,
        )


def _timed(call: Callable[[], Any]) -> tuple[float, float]:
    """Return the seconds that a call takes, and those of the processor."""
    wall, cpu = time.perf_counter(), time.thread_time()
    call()
    return time.perf_counter() - wall, time.thread_time() - cpu


def _collapses(place: Path) -> list[tuple[float, float]]:
    """Ask for huge pages one after the other, as a pool does that leaves none out."""
    size = CHUNKS * HUGE
    fd = os.open(place / "file", os.O_RDWR | os.O_CREAT)
    kept = _libc.mmap(None, size + HUGE, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    try:
        os.ftruncate(fd, size)
        begin = -(-kept // HUGE) * HUGE
        if _libc.mmap(begin, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | 0x10, fd, 0) != begin:  # MAP_FIXED
            raise Unavailable("the file cannot be mapped")

        def collapse(at: int) -> None:
            _fallocate(fd, 0, at, 1)
            _libc.madvise(begin + at, HUGE, COLLAPSE)

        return [_timed(lambda at=at: collapse(at)) for at in range(0, size, HUGE)]  # type: ignore[misc]
    finally:
        _libc.munmap(kept, size + HUGE)
        os.close(fd)
        os.unlink(place / "file")


def _huge(place: Path) -> list[tuple[float, float]]:
    return _first_touches(place, True)


def _small(place: Path) -> list[tuple[float, float]]:
    return _first_touches(place, False)


def _first_touches(place: Path, huge: bool) -> list[tuple[float, float]]:
    """Use the pages of a new pool for the first time, 2 MiB after 2 MiB."""
    size = CHUNKS * HUGE
    os.environ["FOLIOCACHE_DIR"] = str(place)
    with contextlib.ExitStack() as stack:
        pool = foliocache.open("fragments", size=size + 32 * HUGE, huge=huge, pressure=False)
        stack.callback(foliocache.remove, "fragments")
        stack.callback(pool.close)
        mapping = pool.mapping("object", size, "1", readinto=lambda offset, buffer: len(buffer), readahead=0)

        def touch(at: int) -> None:
            for offset in range(at, at + HUGE, MIB):
                mapping.read(offset, MIB)

        return [_timed(lambda at=at: touch(at)) for at in range(0, size, HUGE)]  # type: ignore[misc]


if __name__ == "__main__":
    sys.exit(main())
