"""Who asks the origin, when several machines miss the same: the first one. The others wait for what it gives to the tier.

A tier that machines share may grant claims to ranges. A machine fetches what was granted to it before it waits for anything, so
two machines never wait for each other. Those who wait look again until the bytes are there, the claim has ended (its holder has
failed, or was killed), or they have waited long enough: then they ask the origin themselves.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import pairwise

from .tier import Part

FIRST_PAUSE, LAST_PAUSE = 0.001, 0.02  # seconds between two looks; a server cannot wake who waits, as a futex does


class Claim:
    """Parts in a row that a tier did not have, until each is full. They are claimed in pieces, since another machine may have
    folios of another size.

    Parameters
    ----------
    parts
        What is missing.
    piece
        Bytes that are claimed at a time: parts are cut at the multiples of it.
    patience
        Seconds that others may take.
    """

    def __init__(self, parts: Sequence[Part], piece: int, patience: float) -> None:
        self._parts = list(parts)
        self._pieces: list[tuple[int, int, int]] = []  # part, and where in its buffer it begins and ends
        self._left: list[int] = []  # pieces of each part that are not there yet
        for number, (offset, buffer) in enumerate(self._parts):
            cuts = [0, *range(piece - offset % piece, len(buffer), piece), len(buffer)]
            self._pieces += [(number, begin, end) for begin, end in pairwise(cuts)]
            self._left.append(len(cuts) - 1)
        self._full = [False] * len(self._pieces)
        self._mine: set[int] = set()  # those that were granted
        self._told = 0
        self._patience = patience
        self._deadline: float | None = None
        self._pause = FIRST_PAUSE

    def waiting(self) -> list[int]:
        """Return the numbers of the pieces that are not there."""
        return [n for n, full in enumerate(self._full) if not full]

    def spans(self, numbers: Sequence[int]) -> list[tuple[int, int]]:
        """Return pieces as (offset in the object, length)."""
        return [(self._parts[part][0] + begin, end - begin) for part, begin, end in (self._pieces[n] for n in numbers)]

    def views(self, groups: Sequence[Sequence[int]]) -> list[Part]:
        """Return for each group of pieces in a row, all of one part, where its bytes belong. To be released by the caller."""
        found = []
        for group in groups:
            part, begin, _ = self._pieces[group[0]]
            offset, buffer = self._parts[part]
            found.append((offset + begin, buffer[begin : self._pieces[group[-1]][2]]))
        return found

    def fill(self, group: Sequence[int]) -> Iterator[None]:
        """Note that pieces are there. Yield once for each part that may be told of now: they are told of in their order."""
        for number in group:
            self._full[number] = True
            self._left[self._pieces[number][0]] -= 1
        while self._told < len(self._left) and not self._left[self._told]:
            self._told += 1
            yield None

    @property
    def is_late(self) -> bool:
        """True if the others have taken too long."""
        return self._deadline is not None and time.monotonic() > self._deadline

    def pause(self) -> float:
        """Return how many seconds to wait before the next look."""
        if self._deadline is None:
            self._deadline = time.monotonic() + self._patience
        pause, self._pause = self._pause, min(2 * self._pause, LAST_PAUSE)
        return pause

    def granted(self, numbers: Sequence[int], granted: Sequence[bool]) -> None:
        """Note which pieces this machine has claimed."""
        self._mine.update(number for number, mine in zip(numbers, granted, strict=True) if mine)

    def owed(self) -> list[int]:
        """Return the numbers of the pieces that were claimed and are not there."""
        return [number for number in sorted(self._mine) if not self._full[number]]

    def runs(self, numbers: Sequence[int], granted: Sequence[bool]) -> Iterator[list[list[int]]]:
        """Yield the pieces that are granted: those in a row together, in groups by their parts."""
        run: list[list[int]] = []
        for number, mine in zip(numbers, granted, strict=True):
            if run and (not mine or number != run[-1][-1] + 1):
                yield run
                run = []
            if mine:
                if run and self._pieces[run[-1][-1]][0] == self._pieces[number][0]:
                    run[-1].append(number)
                else:
                    run.append([number])
        if run:
            yield run
