"""Filling: a source in memory, read through the cache."""

from __future__ import annotations

import ctypes
import mmap
import time
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.common.measure import Case, Found, interleave, record
from benchmarks.common.plan import MIB, Plan
from benchmarks.common.pools import VALUE, new_pool, one_per_folio


def fill(plan: Plan) -> list[Found]:
    """A source in memory, read through the cache: against memcpy, and with every page taken by eviction.

    Where not said otherwise the source is a ``readinto``, for which pages are cleared first: it may leave some of them as they
    were, and they may have been another object's. An exact source promises to write all of them, and its pages are not cleared.
    What a ``read`` returns is copied. A memcpy in pieces of 64 KiB is the most
    that fills of 64 KiB can reach.
    """
    size, total = VALUE, plan.fill_bytes
    content = bytes(range(256)) * (total // 256)
    target = mmap.mmap(-1, total)
    address = ctypes.addressof(ctypes.c_char.from_buffer(target))

    view = memoryview(content)

    def memcpy() -> float:
        begin = time.perf_counter_ns()
        memoryview(target)[:] = view
        return total / (time.perf_counter_ns() - begin)

    def cleared() -> float:
        """What a source that is not exact costs at least."""
        begin = time.perf_counter_ns()
        into = memoryview(target)
        for at in range(0, total, MIB):
            ctypes.memset(address + at, 0, MIB)
            into[at : at + MIB] = view[at : at + MIB]
        return total / (time.perf_counter_ns() - begin)

    def pieces() -> float:
        begin = time.perf_counter_ns()
        into = memoryview(target)
        for at in range(0, total, size):
            into[at : at + size] = view[at : at + size]
        return total / (time.perf_counter_ns() - begin)

    with new_pool(5 * total) as roomy, new_pool(total) as tight:
        cases = {
            "memcpy": memcpy,
            "memset and memcpy, 1 MiB at a time": cleared,
            "memcpy, 64 KiB at a time": pieces,
            "default folios": _filler(roomy, total, view, None),
            "64 KiB folios": _filler(roomy, total, view, size),
            "default folios, exact source": _cold(roomy.mapping("object of an exact source", total, "1", source=Exact(view))),
            "default folios, read": _reader(roomy, total, view, None),
            "64 KiB folios, read": _reader(roomy, total, view, size),
            "64 KiB folios, evicting": _evicting(tight, total, view, size),
        }
        speed = interleave(cases, plan.rounds, warmup=3)

    def beside_memcpy(metric: str, case: str, budget: str | None = None) -> Found:
        return record(metric, speed[case], "GB/s", against="memcpy", baseline=speed["memcpy"], budget=budget)

    return [
        beside_memcpy("fill, default folios", "default folios", ">= 0.85"),
        beside_memcpy("fill, default folios, exact source", "default folios, exact source", ">= 0.85"),
        beside_memcpy("fill, default folios, read", "default folios, read", ">= 0.85"),
        beside_memcpy("memset and memcpy, 1 MiB at a time", "memset and memcpy, 1 MiB at a time"),
        beside_memcpy("memcpy, 64 KiB at a time", "memcpy, 64 KiB at a time"),
        beside_memcpy("fill, 64 KiB folios", "64 KiB folios"),
        beside_memcpy("fill, 64 KiB folios, read", "64 KiB folios, read", ">= 0.7"),
        record(
            "fill of a 64 KiB folio, evicting",
            size / speed["64 KiB folios, evicting"],
            "ns",
            against="the same without pressure",
            baseline=size / speed["64 KiB folios"],
            budget="<= 1.5",
        ),
    ]


class Exact:
    """A source in memory that writes all of each page."""

    is_exact = True

    def __init__(self, content: memoryview):
        self._content = content

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> Iterator[int]:
        for buffer in buffers:
            buffer[:] = self._content[offset : offset + len(buffer)]
            offset += len(buffer)
            yield len(buffer)


def _filler(pool: Any, total: int, source: memoryview, folio: int | None) -> Case:
    """GB/s of reading an object of which nothing is cached, folio by folio."""
    return _cold(_object(pool, "object", total, source, folio))


def _reader(pool: Any, total: int, source: memoryview, folio: int | None) -> Case:
    """The same of a source that returns its bytes."""

    def read(offset: int, length: int) -> memoryview:
        return source[offset : offset + length]

    return _cold(pool.mapping(f"object that is returned, by {folio}", total, "1", read, folio_size=folio))


def _cold(mapping: Any) -> Case:
    def case() -> float:
        mapping.invalidate()
        return _read_all(mapping)

    return case


def _evicting(pool: Any, total: int, source: memoryview, folio: int) -> Case:
    """The same in a pool that is full of other objects, so that every page comes from an eviction."""
    objects = [_object(pool, f"object {n}", total, source, folio) for n in range(3)]
    turns = iter(range(1 << 30))

    def case() -> float:
        return _read_all(objects[next(turns) % 3])

    return case


def _object(pool: Any, key: str, size: int, source: memoryview, folio: int | None) -> Any:
    def readinto(offset: int, buffer: Any) -> int:
        buffer[:] = source[offset : offset + len(buffer)]
        return len(buffer)

    if folio is None:
        return pool.mapping(key, size, "1", readinto=readinto)
    return one_per_folio(pool, size // folio, folio, key, readinto)


def _read_all(mapping: Any) -> float:
    begin = time.perf_counter_ns()
    for lease in mapping.pieces():
        lease.release()
    return mapping.size / (time.perf_counter_ns() - begin)
