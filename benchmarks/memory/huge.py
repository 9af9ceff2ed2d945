"""What a pool costs in huge pages, which the file system gives, or the kernel makes (``huge=never``), beside one in small ones.
The file systems are mounted here."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.cold.floors import have_backed
from benchmarks.common.measure import Unavailable, per_op, record, samples
from benchmarks.common.plan import Plan
from benchmarks.common.pools import GIB, KIB, MIB, new_pool, one_per_folio, values
from benchmarks.common.report import Section

FOLIO = 256 * KIB
SMALL = 16 * KIB
KINDS = ("small", "never", "within_size", "advise")


def pages(section: Section, plan: Plan) -> None:
    """Fill a new pool, fill it again, and give it back; and hits among many folios: in small pages, and in huge ones."""
    size = plan.of(512 * MIB, 64 * MIB)
    with contextlib.ExitStack() as stack:
        folders = {kind: stack.enter_context(_mounted(kind, 3 * size)) for kind in KINDS}
        first: dict[str, list[float]] = {kind: [] for kind in KINDS}
        again: dict[str, list[float]] = {kind: [] for kind in KINDS}
        trim: dict[str, list[float]] = {kind: [] for kind in KINDS}
        share: list[float] = []

        def used(kind: str) -> Callable[[], float]:
            def case() -> float:
                have_backed(size)
                with new_pool(2 * size, folder=folders[kind], huge=kind != "small") as pool:
                    first[kind].append(_filled(pool, size))
                    pool.forget("filled")
                    again[kind].append(_filled(pool, size))
                    pool.forget("filled")
                    free = pool.stat().pages_by_state.free * pool.page_size
                    begin = time.process_time()
                    given = pool.trim()
                    trim[kind].append((time.process_time() - begin) / given)
                    share.append(given / free)
                return 0.0

            return case

        samples({kind: used(kind) for kind in KINDS}, plan.of(5, 1))
        hits = _hits(stack, folders, size, plan)
    for kind in KINDS[1:]:
        section.found += [
            record(f"first fill of a pool, huge={kind}, CPU", GIB * min(first[kind]), "s/GiB", against="small pages",
                   baseline=GIB * min(first["small"]), budget="<= 1"),
            record(f"of that, more than another fill takes, huge={kind}, CPU", GIB * _extra(first, again, kind), "s/GiB",
                   against="small pages", baseline=GIB * _extra(first, again, "small"), budget="<= 0.2"),
            record(f"give it back, huge={kind}, CPU", GIB * 1000 * min(trim[kind]), "ms/GiB", against="small pages",
                   baseline=GIB * 1000 * min(trim["small"]), budget="<= 1"),
            record(f"read 64 bytes of one of {size // SMALL:,} folios, huge={kind}", hits[kind], "ns", against="small pages",
                   baseline=hits["small"], budget="<= 1.02"),
        ]  # fmt: skip
    section.found.append(record("of the free memory, trim gives back in huge pages", min(share), "", budget=">= 0.95"))


def _extra(first: dict[str, list[float]], again: dict[str, list[float]], kind: str) -> float:
    return max(min(first[kind]) - min(again[kind]), 0.0)


def _filled(pool: Any, size: int) -> float:
    """Fill a part of a pool. Return the processor time for each byte."""
    mapping = one_per_folio(pool, size // FOLIO, FOLIO, "filled")
    begin = time.process_time()
    for offset in range(0, size, FOLIO):
        mapping.lease(offset).release()
    return (time.process_time() - begin) / size


def _hits(stack: contextlib.ExitStack, folders: dict[str, Path], size: int, plan: Plan) -> dict[str, float]:
    """Return the least ns that it takes to read the first bytes of one of many small folios, chosen at random."""
    cases = {}
    numbers = [random.Random(0).randrange(size // SMALL) for _ in range(plan.hits)]
    for kind, folder in folders.items():
        pool = stack.enter_context(new_pool(size * 9 // 8, folder=folder, huge=kind != "small"))
        cases[kind] = per_op(_reads(values(pool, size // SMALL, SMALL), numbers), len(numbers))
    return {kind: min(taken) for kind, taken in samples(cases, plan.rounds).items()}


def _reads(mapping: Any, numbers: list[int]) -> Callable[[], None]:
    offsets = [number * SMALL for number in numbers]

    def run() -> None:
        read = mapping.read_bytes
        for offset in offsets:
            read(offset, 64)

    return run


@contextlib.contextmanager
def _mounted(kind: str, size: int) -> Iterator[Path]:
    """A tmpfs of its own. Raises Unavailable."""
    with tempfile.TemporaryDirectory(prefix="foliocache-bench-") as folder:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size},huge={'never' if kind == 'small' else kind}", "tmpfs", folder]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError as missing:
            raise Unavailable(f"no file system can be mounted: {missing}") from None
        if done.returncode:
            raise Unavailable(f"no file system with huge={kind} can be mounted: {done.stderr.strip() or os.strerror(1)}")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "-l", folder], check=True)
