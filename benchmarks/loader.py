"""PyTorch's DataLoader over JPEGs: decoded each time, held by every worker, held by the parent, and in a pool.

Four workers live through all epochs. The ways take turns, an epoch each, so that whatever disturbs the machine disturbs all.
Each decode is counted, and the workers' processor time. Memory is the workers' own (anonymous pages that no other process has),
what the pool has cached of the dataset, and the dataset's share of all else that the pool's file takes. Pages that a worker
still has in common with its parent are left out: as parts of them, they would count for more or less as other workers come and
go, and by what the parent did since. "For the images" is what is above the memory of workers that load one image again and
again. It is measured for more images, too, and for larger ones: what a worker needs besides the images grows with their number,
not with their bytes.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import multiprocessing
import os
import statistics
import tempfile
import time
import warnings
from array import array
from typing import Any

from benchmarks.common.measure import Skipped, Unavailable, record
from benchmarks.common.plan import MIB, Plan
from benchmarks.common.pools import KIB, new_pool, require_memory
from benchmarks.common.report import Section, Table

WORKERS = 4
ONE, DECODING, HELD, INHERITED = "one image again and again", "decoded each time", "held by each worker", "held by the parent"
COPIES, VIEWS, LATER = "SharedDataset", "SharedDataset, writable=None", "the same, workers of a later job"
PAGE = 64 * KIB  # of the pool: a sample of 192 KiB has whole ones, and there are a quarter as many descriptors as by default
LARGER = 4  # times as many images, or as many pixels in each row, to see which part of the memory is of the images
KEYS = {COPIES: "copies", VIEWS: "views", LATER: "views"}  # of the datasets in the pool


def run(plan: Plan) -> Section:
    section = Section("loader")
    try:
        import PIL
        import torch
        import torch.utils.data
    except ImportError as missing:
        section.found.append(Skipped("DataLoader", f"{missing}: pip install torch pillow"))
        return section
    del PIL, torch
    count, side = plan.of((400, 256), (16, 32))
    found = _measured(count, side, plan.of(2 + plan.rounds, 3), (ONE, DECODING, HELD, INHERITED, *KEYS))
    _table(section, found, count, side)
    for name in KEYS:
        ours, held = found[name], found[HELD]
        section.found += [
            record(
                f"{name}: decodes of all workers in 3 epochs", ours.decodes, "decodes", baseline=float(count), budget="<= 1"
            ),
            record(
                f"{name}: later epochs",
                count / ours.later,
                "images/s",
                against=HELD,
                baseline=count / held.later,
                budget=">= 0.9",
            ),
        ]
    _memory(section, found, count, side, None)
    for larger_count, larger_side in ((LARGER * count, side), (count, LARGER * side)):
        try:
            found = _measured(larger_count, larger_side, 3, (ONE, HELD, *KEYS))
        except Unavailable as error:
            section.found.append(Skipped(_images(larger_count, larger_side), str(error)))
            continue
        _table(section, found, larger_count, larger_side)
        _account(section, found, larger_count, larger_side)
        _memory(section, found, larger_count, larger_side, "<= 0.25")
    return section


def _images(count: int, side: int) -> str:
    return f"{count:,} images of {side} x {side}"


def _measured(count: int, side: int, epochs: int, names: tuple[str, ...]) -> dict[str, _Way]:
    """Load so many images in these ways, and measure each. Raises Unavailable if there is no memory for that."""
    one = count * side * side * 3
    require_memory((WORKERS + len(set(KEYS.values())) + (INHERITED in names)) * one)
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(new_pool(6 * one + 64 * MIB, PAGE))
        log = stack.enter_context(tempfile.NamedTemporaryFile())
        ways = _ways(jpegs(count, side), log.name, pool, names)
        found = {name: _Way(name, ways[name], log.name) for name in names}
        for _ in range(epochs):
            for each in found.values():
                each.epoch()
        for each in found.values():
            each.weigh(pool)
        for each in found.values():
            each.loader = None
    return found


def _memory(section: Section, found: dict[str, _Way], count: int, side: int, budget: str | None) -> None:
    section.found += [
        record(
            f"{name}: memory for {_images(count, side)}",
            _for_images(found, name) / MIB,
            "MiB",
            against=HELD,
            baseline=_for_images(found, HELD) / MIB,
            budget=budget,
        )
        for name in KEYS
    ]


def _for_images(found: dict[str, _Way], name: str) -> int:
    """Return the bytes above the memory of workers that need no memory for images."""
    return found[name].memory - found[ONE].memory


def _account(section: Section, found: dict[str, _Way], count: int, side: int) -> None:
    """What the memory for the images is."""
    one = count * side * side * 3
    held = _for_images(found, HELD)
    table = Table(
        f"MiB for {_images(count, side)}, of all workers together; in parentheses, of what they take in {HELD!r}",
        (
            "way",
            "one copy of the images",
            "rest of their pages",
            "the pool's tables",
            "all else of the workers",
            "together",
        ),
    )
    for name in KEYS:
        way = found[name]
        known = one, way.cached - one, way.tables
        whole = _for_images(found, name)
        table.add(name, *(f"{each / MIB:,.1f} ({each / held:.4f})" for each in (*known, whole - sum(known), whole)))
    own = held - WORKERS * one
    table.add(HELD, *(f"{each / MIB:,.1f} ({each / held:.4f})" for each in (WORKERS * one, 0, 0, own, held)))
    section.tables.append(table)


def _table(section: Section, found: dict[str, _Way], count: int, side: int) -> None:
    table = Table(
        f"{count} JPEGs of {side} x {side}, {WORKERS} workers",
        (
            "way",
            "decodes in 3 epochs",
            "images/s, first epoch",
            "images/s, later",
            "us of the workers' processors per image, later",
            "MiB of all workers",
            "MiB for the images",
        ),
    )
    for each in found.values():
        speed = count / each.took[0], count / each.later, each.busy / count * 1e6
        table.add(each.name, each.decodes, *speed, each.memory / MIB, _for_images(found, each.name) / MIB)
    section.tables.append(table)


def _batch_size(count: int) -> int:
    return min(32, count // WORKERS)


def jpegs(count: int, side: int) -> list[bytes]:
    """Return JPEGs of noise over colors, which compress as photographs do."""
    import numpy
    from PIL import Image

    random, made = numpy.random.default_rng(1), []
    for _ in range(count):
        coarse = random.integers(0, 256, (side // 8, side // 8, 3), dtype="u1")
        smooth = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
        noise = random.integers(0, 24, (side, side, 3), dtype="u1")
        kept = io.BytesIO()
        Image.fromarray(numpy.asarray(smooth) // 2 + noise).save(kept, "JPEG", quality=90)
        made.append(kept.getvalue())
    return made


class Images:
    """A map-style dataset: it decodes an image each time, and notes that in a file.

    All files are one object: of a list of them, each worker would copy the page that each begins in, to count a reference.
    """

    def __init__(self, files: list[bytes], log: str) -> None:
        self.ends, self.log = array("Q", itertools.accumulate(map(len, files))), log
        self.files = b"".join(files)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        import numpy
        import torch
        from PIL import Image

        with open(self.log, "a") as log:
            log.write(".")
        file = memoryview(self.files)[self.ends[index - 1] if index else 0 : self.ends[index]]
        image = numpy.array(Image.open(io.BytesIO(file)))
        return torch.from_numpy(image).permute(2, 0, 1).contiguous(), index


class Held:
    """A dataset that each process decodes whole, at its first use there."""

    def __init__(self, images: Images) -> None:
        self.images = images
        self.owner, self.samples = 0, list[Any]()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        if self.owner != os.getpid():
            self.owner, self.samples = os.getpid(), [self.images[n] for n in range(len(self))]
        return self.samples[index]


def _ways(files: list[bytes], log: str, pool: Any, names: tuple[str, ...]) -> dict[str, Any]:
    from foliocache.torch import SharedDataset

    images = Images(files, log)
    return {
        ONE: [images[0]] * len(files),
        DECODING: images,
        HELD: Held(images),
        INHERITED: [images[n] for n in range(len(files) if INHERITED in names else 0)],
        COPIES: SharedDataset(images, pool, "copies"),
        VIEWS: SharedDataset(images, pool, "views", writable=None),
        LATER: SharedDataset(images, pool, "views", writable=None),
    }


class _Way:
    """One way to load: its loader, and what was measured of it."""

    def __init__(self, name: str, dataset: Any, log: str) -> None:
        import torch

        self.name, self.log = name, log
        with warnings.catch_warnings(action="ignore"):  # of more workers than processors
            self.loader: Any = torch.utils.data.DataLoader(
                dataset,
                batch_size=_batch_size(len(dataset)),
                shuffle=True,
                num_workers=WORKERS,
                persistent_workers=True,
                multiprocessing_context="fork",
                generator=torch.Generator().manual_seed(1),
            )
        self.workers: list[Any] = []
        self.took: list[float] = []
        self.used: list[float] = []
        self.decodes = 0
        self.memory = self.cached = self.tables = 0  # bytes

    def epoch(self) -> None:
        others = multiprocessing.active_children()
        before, begin = os.path.getsize(self.log), time.perf_counter()
        with warnings.catch_warnings(action="ignore"):  # of more workers than processors
            for _ in self.loader:
                pass
        self.took.append(time.perf_counter() - begin)
        self.workers = self.workers or [each for each in multiprocessing.active_children() if each not in others]
        self.used.append(sum(_processor_seconds(each.pid) for each in self.workers))
        if len(self.took) <= 3:
            self.decodes += os.path.getsize(self.log) - before

    @property
    def later(self) -> float:
        """Seconds of an epoch from the second on: the median."""
        return statistics.median(self.took[1:])

    @property
    def busy(self) -> float:
        """Seconds of processors that all workers used in an epoch from the second on: the median."""
        return statistics.median(after - before for before, after in itertools.pairwise(self.used))

    def weigh(self, pool: Any) -> None:
        """Measure the memory of the workers, with what the pool keeps for them. All workers of all ways must live."""
        if key := KEYS.get(self.name):
            self.cached = _cached(pool, key)
            self.tables = _tables(pool) // len(set(KEYS.values()))
        self.memory = sum(_own_memory(each.pid) for each in self.workers) + self.cached + self.tables


def _cached(pool: Any, key: str) -> int:
    """Return the bytes of the pool's pages for the samples of a dataset."""
    return sum(each.cached_bytes for each in pool.mappings() if f"torch:{key}:" in each.key)


def _tables(pool: Any) -> int:
    """Return the bytes of the pool's file besides the pages of all samples: its tables, and pages that are free."""
    return os.stat(pool.stat().path).st_blocks * 512 - sum(each.cached_bytes for each in pool.mappings())


def _processor_seconds(pid: int) -> float:
    """Return the seconds that a process's main thread has run. Other threads of a worker do next to nothing."""
    with open(f"/proc/{pid}/schedstat") as file:
        return int(file.read().split()[0]) / 1e9


def _own_memory(pid: int) -> int:
    """Return the bytes of a process's own memory: pages that it has allocated, or copied since it was forked."""
    total = private = 0
    with open(f"/proc/{pid}/smaps") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name == "Rss":
                private = 0
            elif name in ("Private_Clean", "Private_Dirty"):
                private += int(value.split()[0])
            elif name == "Anonymous":  # the rest of a mapping's private pages is of a file
                total += min(private, int(value.split()[0]))
    return total * 1024
