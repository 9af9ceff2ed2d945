"""Sequences of page numbers, each with a name and how many accesses at its start do not count."""

from __future__ import annotations

import csv
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Trace:
    """``floor``: the hit ratio that a stable part of a shuffled or repeated set gives, pool/data; 0 where that is no aim."""

    name: str
    pages: list[int]
    skip: int
    floor: float = 0.0


def zipf(objects: int, alpha: float, count: int, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    weights = np.cumsum(1 / np.arange(1, objects + 1) ** alpha)
    return rng.permutation(objects)[np.searchsorted(weights / weights[-1], rng.random(count))]


def scans(objects: int, pool: int, count: int, seed: int = 2) -> np.ndarray:
    """Zipf accesses; twelve times a scan of new pages, twice the pool long, comes between."""
    parts, fresh = [], objects
    for part in np.array_split(zipf(objects, 0.9, count, seed), 12):
        parts += [part, np.arange(fresh, fresh + 2 * pool)]
        fresh += 2 * pool
    return np.concatenate(parts)


def moving(objects: int, count: int) -> np.ndarray:
    """Zipf accesses whose popular pages change completely three times."""
    return np.concatenate([zipf(objects, 0.9, count // 4, 10 + n) + n * objects for n in range(4)])


def epochs(objects: int, count: int, seed: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.permutation(objects) for _ in range(count)])


def suite(pool: int, tiny: bool = False) -> Iterator[Trace]:
    """The made ones, for a pool of so many pages."""
    count = 20 * pool if tiny else 150 * pool
    passes = 3 if tiny else 10
    for alpha in (0.9,) if tiny else (0.7, 0.9, 1.1):
        yield Trace(f"Zipf {alpha}, pool 10 %", zipf(10 * pool, alpha, count).tolist(), count // 10)
    if not tiny:
        yield from _more(pool, count)
    for percent in (50,) if tiny else (10, 25, 50, 80):
        objects = pool * 100 // percent
        yield Trace(f"shuffled epochs, pool {percent} %", epochs(objects, passes).tolist(), objects, percent / 100)
    for percent in (80,) if tiny else (25, 80):
        objects = pool * 100 // percent
        yield Trace(f"sequential loop, pool {percent} %", list(range(objects)) * passes, objects, percent / 100)


def _more(pool: int, count: int) -> Iterator[Trace]:
    """Zipf with other pools, with scans, and moving."""
    yield Trace("Zipf 0.9, pool 50 %", zipf(2 * pool, 0.9, count).tolist(), count // 10)
    yield Trace("Zipf 0.9, pool 1 %", zipf(100 * pool, 0.9, count).tolist(), count // 10)
    yield Trace("Zipf 0.9 and scans", scans(10 * pool, pool, count).tolist(), count // 10)
    yield Trace("Zipf 0.9, moving", moving(10 * pool, count).tolist(), count // 10)


def load(path: str) -> Trace:
    """A recorded trace: page numbers, one a line; a CSV with a column named ``lbn``, ``obj_id`` or ``key``; or oracleGeneral."""
    name = Path(path).name
    if name.endswith(".bin"):
        record = struct.Struct("<IQIq")
        data = Path(path).read_bytes()
        return Trace(name, _numbered(key for _, key, _, _ in record.iter_unpack(data[: len(data) // 24 * 24])), 0)
    with open(path, newline="") as file:
        if not name.endswith(".csv"):
            return Trace(name, _numbered(line.strip() for line in file), 0)
        rows = csv.DictReader(file, skipinitialspace=True)
        column = next(each for each in rows.fieldnames or () if each.strip().lower() in ("lbn", "obj_id", "key"))
        return Trace(name, _numbered(row[column] for row in rows), 0)


def _numbered(keys: Iterator[object]) -> list[int]:
    """Keys as small numbers, in order of first use."""
    numbers: dict[object, int] = {}
    return [numbers.setdefault(key, len(numbers)) for key in keys]
