"""The pool's counters of the last minutes, from which a process that looks now learns the hit ratio of then.

Nothing samples in the background: each look at the statistics writes a sample, unless there is one of the same interval
(``layout.HISTORY_STEP_NS``). A sample has a place that follows from its time, and a check over its words. So there is no lock
and no order: a sample that two processes wrote at once, that a process did not finish, or that is read while it is written,
fails its check, and is as good as none. Whatever the samples hold, it is wrong ratios at worst.
"""

from __future__ import annotations

import struct
import time
import zlib
from typing import TYPE_CHECKING, NamedTuple

from ..mm import layout

if TYPE_CHECKING:
    from ..mm.atomics import Memory

_WORDS = struct.Struct("<6Q")
_SECOND = 1_000_000_000


class Sample(NamedTuple):
    """The sums of all clients' counters at a time, which is in ns of CLOCK_BOOTTIME."""

    time: int
    hits: int
    misses: int
    fill_bytes: int
    evictions: int


def now() -> int:
    """Return the time of samples."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def note(memory: Memory, sample: Sample) -> None:
    """Write a sample, unless there is one of its interval."""
    interval = sample.time // layout.HISTORY_STEP_NS
    found = _read(memory, interval % layout.HISTORY_SAMPLES)
    if found is not None and found.time // layout.HISTORY_STEP_NS == interval:
        return
    at = _place(interval % layout.HISTORY_SAMPLES)
    memory.poke64(at + layout.HISTORY_CHECK, 0)
    for n, word in enumerate(sample):
        memory.poke64(at + 8 * n, word)
    memory.poke64(at + layout.HISTORY_CHECK, _check(sample))


def samples(memory: Memory, until: int) -> list[Sample]:
    """Return the sound samples that are not later than ``until``, the oldest first."""
    found = (_read(memory, n) for n in range(layout.HISTORY_SAMPLES))
    return sorted(sample for sample in found if sample is not None and sample.time <= until)


def hit_ratio(now: Sample, before: list[Sample], seconds: int, born: int) -> float | None:
    """Return hits in all lookups of about the last ``seconds``; None if there were none, or no one looked then.

    The window begins at the latest sample that is as old, and is at most half as long again and an interval longer. ``born``:
    when the pool was made, with counters of 0.
    """
    begin = now.time - seconds * _SECOND
    earliest = begin - seconds * _SECOND // 2 - layout.HISTORY_STEP_NS
    old = [sample for sample in before if earliest <= sample.time <= begin]
    base = old[-1] if old else Sample(born, 0, 0, 0, 0) if born > earliest else None
    if base is None:
        return None
    hits, misses = now.hits - base.hits, now.misses - base.misses
    return hits / (hits + misses) if hits >= 0 and misses >= 0 and hits + misses else None


def _read(memory: Memory, n: int) -> Sample | None:
    *words, check = _WORDS.unpack(memory.peek_bytes(_place(n), _WORDS.size))
    sample = Sample(*words)
    return sample if check and check == _check(sample) else None


def _place(n: int) -> int:
    return layout.HISTORY + n * layout.HISTORY_SIZE


def _check(sample: Sample) -> int:
    """Return a sample's check, which is never 0."""
    words = struct.pack("<5Q", *sample)
    return zlib.crc32(words) << 32 | zlib.adler32(words) | 1
