"""Ranges of objects, in the form of fsspec's ``cat_ranges()``."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from typing import Any, SupportsIndex

from foliocache.errors import FoliocacheError
from foliocache.sizes import integer, quoted

Range = tuple[str, int | None, int | None]  # path, start, end: a Python slice
Want = tuple[int | None, int | None]  # the same without a path

OPENING = 256 << 10  # bytes of an object's first request, if the end of the range to read is not known
_FIRST_MAX = 1 << 20  # the most bytes of a range that are read with the first request; longer ones are read by several
_UNIT_MAX = 64 << 10  # the most bytes of a mapping's unit, unless pages are larger


def no_path(given: Any) -> TypeError:
    """Return the exception for what is not a path."""
    return TypeError(f"folio: a path is a string or an os.PathLike, not {quoted(given)}")


def ranges_of(paths: list[str], starts: Any, ends: Any, max_gap: int | None = None) -> list[Range]:
    if max_gap is not None and integer(max_gap, "max_gap") < 0:
        raise ValueError(f"cat_ranges: max_gap is a number of bytes, 0 or more, or None; not {quoted(max_gap)}")
    if not isinstance(paths, list):
        raise TypeError("cat_ranges: paths is a list")
    for path in paths:
        if not isinstance(path, (str, PathLike)):
            raise no_path(path)
    columns = [list(column) if isinstance(column, Iterable) else [column] * len(paths) for column in (starts, ends)]
    if any(len(column) != len(paths) for column in columns):
        raise ValueError(f"cat_ranges: {len(paths)} paths, {len(columns[0])} starts, {len(columns[1])} ends")
    return [(path, *bounds(start, end)) for path, start, end in zip(paths, *columns, strict=True)]


def bounds(start: SupportsIndex | None, end: SupportsIndex | None) -> Want:
    """Return the bounds of a Python slice as numbers or None. Raises TypeError."""
    if type(start) is type(end) is int:
        return start, end
    return None if start is None else integer(start, "start"), None if end is None else integer(end, "end")


def extent(start: int | None, end: int | None, size: int) -> tuple[int, int]:
    """Return a Python slice of ``size`` bytes as (offset, length)."""
    if type(start) is type(end) is int and 0 <= start <= end <= size:
        return start, end - start
    first, last, _ = slice(start, end).indices(size)
    return first, max(last - first, 0)


def firsts_of(jobs: list[Range]) -> dict[str, Want]:
    """Return for each path the range to ask for its identity with: the first one, but little of it if there are others, which
    have to wait for the answer."""
    found: dict[str, Want] = {}
    for path, start, end in jobs:
        if path not in found:
            found[path] = start, end
        else:
            first, stop = found[path]
            first = first or 0
            if first >= 0 and (stop is None or stop - first > _UNIT_MAX):
                found[path] = first, first + _UNIT_MAX
    return found


def is_cached(mapping: Any, start: int | None, end: int | None) -> bool:
    """Return True if all of a slice is in the pool."""
    try:
        return bool(mapping.is_cached(*extent(start, end, mapping.size)))
    except FoliocacheError:  # the pool was closed, for example: the read will raise
        return False


def first_wanted(start: int | None, end: int | None, folio_size: int) -> tuple[int, int] | None:
    """Return the first bytes of a slice as (start, end), extended to whole folios; None if they depend on the object's size."""
    first = start or 0
    if first < 0 or (end is not None and end <= first):
        return None
    unit = max(_UNIT_MAX, folio_size)
    begin = first - first % unit
    stop = begin + OPENING if end is None or end - begin > _FIRST_MAX else end
    return begin, -(-max(stop, first + 1) // unit) * unit


class Merged:
    """Ranges merged into reads: ranges of one object with at most `max_gap` bytes between them are read as one.

    `reads` has at most as many ranges; those of objects of unknown size (not in `sizes`) are not merged.
    """

    def __init__(self, ranges: list[Range], sizes: dict[str, int], max_gap: int) -> None:
        self.reads: list[Range] = []
        self._parts: dict[int, tuple[int, slice]] = {}  # for each range: the number of its read, and the slice of that
        known = {number: extent(start, end, sizes[path]) for number, (path, start, end) in enumerate(ranges) if path in sizes}
        for number, one in enumerate(ranges):
            if number not in known:
                self._add(number, one, slice(None))
        for number in sorted(known, key=lambda number: (ranges[number][0], known[number])):
            offset, length = known[number]
            self._merge(number, ranges[number][0], offset, offset + length, max_gap)

    def split(self, results: list[Any]) -> list[Any]:
        """Return the result for each range from those of the reads. A read's exception is the result of all its ranges."""
        return [_part(results[read], part) for _, (read, part) in sorted(self._parts.items())]

    def _merge(self, number: int, path: str, first: int, end: int, max_gap: int) -> None:
        last, begin, stop = self.reads[-1] if self.reads else (None, None, None)
        if last != path or begin is None or stop is None or first - stop > max_gap:
            self._add(number, (path, first, end), slice(0, end - first))
        else:
            self.reads[-1] = path, begin, max(stop, end)
            self._parts[number] = len(self.reads) - 1, slice(first - begin, end - begin)

    def _add(self, number: int, read: Range, part: slice) -> None:
        self._parts[number] = len(self.reads), part
        self.reads.append(read)


def _part(result: Any, part: slice) -> Any:
    return result if isinstance(result, BaseException) or part == slice(None) else result[part]
