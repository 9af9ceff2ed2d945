"""Sequences of page numbers, each with a name and how many accesses at its start do not count."""

from __future__ import annotations

import csv
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

COLUMNS = ("lbn", "obj_id", "object", "key")


@dataclass(frozen=True)
class Trace:
    """``floor``: the hit ratio that a stable part of a shuffled or repeated set gives, pool/data; 0 where that is no aim."""

    name: str
    pages: list[int]
    skip: int
    floor: float = 0.0


def zipf(objects: int, alpha: float, count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    weights = np.cumsum(1 / np.arange(1, objects + 1) ** alpha)
    return rng.permutation(objects)[np.searchsorted(weights / weights[-1], rng.random(count))]


def scans(objects: int, length: int, number: int, count: int, seed: int) -> np.ndarray:
    """Zipf accesses; so many times a scan of new pages comes between."""
    parts, fresh = [], objects
    for part in np.array_split(zipf(objects, 0.9, count, seed), number):
        parts += [part, np.arange(fresh, fresh + length)]
        fresh += length
    return np.concatenate(parts)


def moving(objects: int, times: int, count: int, seed: int) -> np.ndarray:
    """Zipf accesses whose popular pages change completely."""
    return np.concatenate([zipf(objects, 0.9, count // times, seed * 100 + n) + n * objects for n in range(times)])


def wonders(objects: int, share: float, count: int, seed: int) -> np.ndarray:
    """Zipf accesses among pages that are read once and never again."""
    rng = np.random.default_rng(seed)
    pages, once = zipf(objects, 0.9, count, seed + 1), rng.random(count) < share
    pages[once] = objects + np.arange(once.sum())
    return pages


def recency(pool: int, count: int, seed: int) -> np.ndarray:
    """Pages that are used a few times within about a pool's worth of others, and then no more."""
    rng = np.random.default_rng(seed)
    pages = np.arange(count) // 40 - rng.geometric(1 / (pool * 0.4), count)
    return pages - pages.min()


def epochs(objects: int, count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.permutation(objects) for _ in range(count)])


def phases(pool: int, seed: int) -> np.ndarray:
    """Zipf, then epochs, then another Zipf, then a loop."""
    parts = (
        zipf(10 * pool, 0.9, 60 * pool, seed),
        epochs(2 * pool, 6, seed) + 10 * pool,
        zipf(10 * pool, 0.8, 60 * pool, seed + 1) + 20 * pool,
        np.tile(np.arange(2 * pool), 6) + 40 * pool,
    )
    return np.concatenate(parts)


def suite(pool: int, seed: int, tiny: bool = False) -> Iterator[Trace]:
    """The made ones, for a pool of so many pages."""
    count = 20 * pool if tiny else 150 * pool
    passes = 3 if tiny else 10
    for alpha in (0.9,) if tiny else (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2):
        yield _mixed(f"Zipf {alpha}, pool 10 %", zipf(10 * pool, alpha, count, seed))
    if not tiny:
        yield from _more(pool, count, seed)
    for percent in (50,) if tiny else (10, 25, 50, 80):
        objects = pool * 100 // percent
        yield Trace(f"shuffled epochs, pool {percent} %", epochs(objects, passes, seed).tolist(), objects, percent / 100)
    for percent in (80,) if tiny else (25, 50, 80):
        objects = pool * 100 // percent
        yield Trace(f"sequential loop, pool {percent} %", list(range(objects)) * passes, objects, percent / 100)


def _more(pool: int, count: int, seed: int) -> Iterator[Trace]:
    """Zipf with other pools, with scans, and moving; recency; and all kinds in turn."""
    yield _mixed("Zipf 0.7, pool 50 %", zipf(2 * pool, 0.7, count, seed))
    yield _mixed("Zipf 0.9, pool 50 %", zipf(2 * pool, 0.9, count, seed))
    yield _mixed("Zipf 0.9, pool 1 %", zipf(100 * pool, 0.9, count, seed))
    yield _mixed("Zipf 0.9 and 12 scans of two pools", scans(10 * pool, 2 * pool, 12, count, seed))
    yield _mixed("Zipf 0.9 and 30 scans of a pool", scans(5 * pool, pool, 30, count, seed))
    yield _mixed("Zipf 0.9 and 30 % read once", wonders(10 * pool, 0.3, count, seed))
    yield _mixed("Zipf 0.9 and 70 % read once", wonders(10 * pool, 0.7, count, seed))
    yield _mixed("Zipf 0.9, changed 3 times", moving(10 * pool, 4, count, seed))
    yield _mixed("Zipf 0.9, changed 9 times", moving(10 * pool, 10, count, seed))
    yield _mixed("recency", recency(pool, count, seed))
    yield _mixed("Zipf, epochs, Zipf, loop", phases(pool, seed), 0)


def _mixed(name: str, pages: np.ndarray, skipped: int = 10) -> Trace:
    """A trace whose first part, a tenth, does not count."""
    return Trace(name, pages.tolist(), len(pages) // skipped if skipped else 0)


def load(path: str) -> Trace:
    """A recorded trace: page numbers, one a line; a CSV with a column named as in ``COLUMNS``; or oracleGeneral."""
    name = Path(path).name
    if name.endswith(".bin"):
        record = struct.Struct("<IQIq")
        data = Path(path).read_bytes()
        return Trace(name, _numbered(key for _, key, _, _ in record.iter_unpack(data[: len(data) // 24 * 24])), 0)
    with open(path, newline="") as file:
        if not name.endswith(".csv"):
            return Trace(name, _numbered(line.strip() for line in file), 0)
        rows = csv.DictReader(file, skipinitialspace=True)
        column = next(each for each in rows.fieldnames or () if each.strip().lower() in COLUMNS)
        return Trace(name, _numbered(row[column] for row in rows), 0)


def _numbered(keys: Iterator[object]) -> list[int]:
    """Keys as small numbers, in order of first use."""
    numbers: dict[object, int] = {}
    return [numbers.setdefault(key, len(numbers)) for key in keys]
