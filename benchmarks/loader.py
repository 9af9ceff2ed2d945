"""PyTorch's DataLoader over JPEGs: decoded each time, held by every worker, held by the parent, and in a pool.

Four workers live through all epochs. The ways take turns, an epoch each, so that whatever disturbs the machine disturbs all.
Each decode is counted, and so is the memory that is the workers' own.
"""

from __future__ import annotations

import contextlib
import io
import os
import statistics
import tempfile
import time
import warnings
from typing import Any

from benchmarks.common.measure import Skipped, record
from benchmarks.common.plan import MIB, Plan
from benchmarks.common.pools import new_pool
from benchmarks.common.report import Section, Table

WORKERS = 4
DECODING, HELD, INHERITED, POOL = "decoded each time", "held by each worker", "held by the parent", "SharedDataset"


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
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(new_pool(4 * count * side * side * 3 + 64 * MIB))
        log = stack.enter_context(tempfile.NamedTemporaryFile())
        ways = _ways(jpegs(count, side), log.name, pool)
        found = {name: _Way(name, dataset, log.name) for name, dataset in ways.items()}
        for _ in range(plan.of(2 + plan.rounds, 3)):
            for each in found.values():
                each.epoch()
        for each in found.values():
            each.weigh(pool)
        for each in found.values():
            each.loader = None
    _report(section, found, count, side)
    return section


def _report(section: Section, found: dict[str, _Way], count: int, side: int) -> None:
    base = found[DECODING].memory
    table = Table(
        f"{count} JPEGs of {side} x {side}, {WORKERS} workers",
        ("way", "decodes in 3 epochs", "images/s, first epoch", "images/s, later", "MiB of the workers", "MiB for the images"),
    )
    for each in found.values():
        own = (each.memory - base) / MIB
        table.add(each.name, each.decodes, count / each.took[0], count / each.later, each.memory / MIB, own)
    section.tables.append(table)
    ours, held = found[POOL], found[HELD]
    section.found += [
        record("decodes of all workers in 3 epochs", float(ours.decodes), "decodes", baseline=float(count), budget="<= 1"),
        record("later epochs", count / ours.later, "images/s", against=HELD, baseline=count / held.later, budget=">= 0.9"),
        record(
            "memory for the images",
            (ours.memory - base) / MIB,
            "MiB",
            against=HELD,
            baseline=(held.memory - base) / MIB,
            budget="<= 0.3",
        ),
    ]


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
    """A map-style dataset: it decodes an image each time, and notes that in a file."""

    def __init__(self, files: list[bytes], log: str) -> None:
        self.files, self.log = files, log

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        import numpy
        import torch
        from PIL import Image

        with open(self.log, "a") as file:
            file.write(".")
        image = numpy.array(Image.open(io.BytesIO(self.files[index])))
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


def _ways(files: list[bytes], log: str, pool: Any) -> dict[str, Any]:
    from foliocache.torch import SharedDataset

    images = Images(files, log)
    inherited = [images[n] for n in range(len(files))]
    return {DECODING: images, HELD: Held(images), INHERITED: inherited, POOL: SharedDataset(images, pool, "jpegs")}


class _Way:
    """One way to load: its loader, and what was measured of it."""

    def __init__(self, name: str, dataset: Any, log: str) -> None:
        import torch

        self.name, self.log = name, log
        with warnings.catch_warnings(action="ignore"):  # of more workers than processors
            self.loader: Any = torch.utils.data.DataLoader(
                dataset,
                batch_size=min(32, len(dataset) // WORKERS),
                shuffle=True,
                num_workers=WORKERS,
                persistent_workers=True,
                multiprocessing_context="fork",
                generator=torch.Generator().manual_seed(1),
            )
        self.took: list[float] = []
        self.decodes = 0
        self.memory = 0

    def epoch(self) -> None:
        before, begin = os.path.getsize(self.log), time.perf_counter()
        with warnings.catch_warnings(action="ignore"):  # of more workers than processors
            for _ in self.loader:
                pass
        self.took.append(time.perf_counter() - begin)
        if len(self.took) <= 3:
            self.decodes += os.path.getsize(self.log) - before

    @property
    def later(self) -> float:
        """Seconds of an epoch from the second on: the median."""
        return statistics.median(self.took[1:])

    def weigh(self, pool: Any) -> None:
        """Measure the memory of the workers, with that of the pool if they use it. All workers of all ways must live."""
        workers = self.loader._iterator._workers
        self.memory = sum(_own_memory(each.pid) for each in workers) + (pool.stat().cached_bytes if self.name == POOL else 0)


def _own_memory(pid: int) -> int:
    """Return the bytes of a process's own memory; a page that several processes share counts in parts."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        fields = dict(line.split(":", 1) for line in file if ":" in line)
    return int(fields["Pss_Anon"].split()[0]) * 1024
