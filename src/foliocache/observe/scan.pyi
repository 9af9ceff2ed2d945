from collections.abc import Iterable

from ..mm.atomics import Memory

UNBACKED: int
FREE: int
CACHED: int
FILLING: int
INDEX: int
CHANGING: int
PINNED: int
REFERENCED: int
QUEUE_SHIFT: int
FILLING_MAX: int

def totals(memory: Memory, slots: Iterable[int], counters: int) -> tuple[list[int], list[int]]: ...
def table(
    memory: Memory, limit: int, dots: int, most: int
) -> tuple[bytes, int, list[tuple[int, int, int, int, int, int, int | None]], int]: ...
