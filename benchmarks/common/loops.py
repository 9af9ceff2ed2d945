"""The timed loops: one hit each round, its first byte read, and what it holds released.

All of them take the same list of value numbers. Each is a function of its own, so that names are local and the loops differ in
nothing but the hit.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

Loop = Callable[[], int]


def anywhere(hot: int, count: int) -> list[int]:
    """Return ``hot`` random numbers below count: at even distances their first bytes would share fewer cache sets."""
    return random.Random(hot).sample(range(count), hot)


def order(values: int | Sequence[int], length: int, seed: int = 1) -> list[int]:
    """``length`` numbers of values (those below an int), each as often as any other, shuffled.

    Equal numbers are the same object, so that a loop does not wait for the memory of its own list.
    """
    each = list(range(values) if isinstance(values, int) else values)
    numbers = [each[n % len(each)] for n in range(length)]
    random.Random(seed).shuffle(numbers)
    return numbers


def nothing(numbers: list[int]) -> Loop:
    def loop() -> int:
        for _ in numbers:
            pass
        return len(numbers)

    return loop


def dictionary(held: dict[int, bytes], numbers: list[int]) -> Loop:
    def loop() -> int:
        for n in numbers:
            held[n][0]
        return len(numbers)

    return loop


def method(get: Callable[[Any], Any], keys: list[Any]) -> Loop:
    """Anything with a get(key) that returns a buffer: a dict of tuples, cachetools, LMDB in an open transaction, Redis ..."""

    def loop() -> int:
        for key in keys:
            get(key)[0]
        return len(keys)

    return loop


def slices(buffer: memoryview, size: int, numbers: list[int]) -> Loop:
    """A slice of shared memory or of an mmap: never evicts, checks or fetches anything."""

    def loop() -> int:
        for n in numbers:
            buffer[n * size : n * size + size][0]
        return len(numbers)

    return loop


def _places(mapping: Any, numbers: list[int]) -> list[int]:
    """Return where these values of a mapping begin, each of which is a folio; equal places are the same object."""
    place = {n: n * mapping.folio_size for n in numbers}
    return [place[n] for n in numbers]


def leases(mapping: Any, numbers: list[int]) -> Loop:
    """The hit to which the budgets apply: a lease."""
    lease, places = mapping.lease, _places(mapping, numbers)

    def loop() -> int:
        for place in places:
            lease(place)[0]
        return len(numbers)

    return loop


def with_leases(mapping: Any, numbers: list[int]) -> Loop:
    lease, places = mapping.lease, _places(mapping, numbers)

    def loop() -> int:
        for place in places:
            with lease(place) as held:
                memoryview(held)[0]
        return len(numbers)

    return loop


def views(mapping: Any, numbers: list[int]) -> Loop:
    lease, places = mapping.lease, _places(mapping, numbers)

    def loop() -> int:
        for place in places:
            memoryview(lease(place))[0]
        return len(numbers)

    return loop


def reads(mapping: Any, size: int, numbers: list[int]) -> Loop:
    """Mapping.read: any range of an object."""
    read = mapping.read

    def loop() -> int:
        for n in numbers:
            read(n * size, size)[0]
        return len(numbers)

    return loop


def file_reads(file: Any, size: int, numbers: list[int]) -> Loop:
    """seek and read of a file-like object."""
    seek, read = file.seek, file.read

    def loop() -> int:
        for n in numbers:
            seek(n * size)
            read(size)[0]
        return len(numbers)

    return loop


def file_leases(file: Any, size: int, numbers: list[int]) -> Loop:
    lease = file.lease

    def loop() -> int:
        for n in numbers:
            lease(n * size, size)[0]
        return len(numbers)

    return loop


def transactions(environment: Any, keys: list[bytes]) -> Loop:
    """LMDB with a transaction per get, which corresponds to pin and release."""
    begin = environment.begin

    def loop() -> int:
        for key in keys:
            with begin(buffers=True) as transaction:
                transaction.get(key)[0]
        return len(keys)

    return loop


def sums(get: Callable[[int], Any], numbers: list[int]) -> Loop:
    """Read all of each value: numpy's sum of its 64-bit words."""
    import numpy as np

    def loop() -> int:
        for n in numbers:
            np.frombuffer(get(n), dtype=np.uint64).sum()
        return len(numbers)

    return loop
