"""Who asks the origin, when several machines miss the same: the first one. The others wait for what it gives to the tier.

A tier that machines share may grant claims to ranges. A machine fetches what was granted to it before it waits for anything, so
two machines never wait for each other. Those who wait look again until the bytes are there, the claim has ended (its holder has
failed, or was killed), or they have waited long enough: then they ask the origin themselves.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from .tier import Part

FIRST_PAUSE, LAST_PAUSE = 0.001, 0.02  # seconds between two looks; a server cannot wake who waits, as a futex does


class Claim:
    """Consecutive parts that a tier did not have, until each is full.

    Parameters
    ----------
    parts
        What is missing.
    patience
        Seconds that others may take.
    """

    def __init__(self, parts: Sequence[Part], patience: float) -> None:
        self.parts = list(parts)
        self.spans: list[tuple[int, int]] = [(at, len(buffer)) for at, buffer in parts]  # a full buffer is released
        self._full = [False] * len(self.parts)
        self._told = 0
        self._patience = patience
        self._deadline: float | None = None
        self._pause = FIRST_PAUSE

    def waiting(self) -> list[int]:
        """Return the numbers of the parts that are not full."""
        return [n for n, full in enumerate(self._full) if not full]

    def fill(self, number: int) -> Iterator[None]:
        """Note that a part is full. Yield once for each part that may be told of now: they are told of in their order."""
        self._full[number] = True
        while self._told < len(self._full) and self._full[self._told]:
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

    def runs(self, numbers: Sequence[int], granted: Sequence[bool]) -> Iterator[list[int]]:
        """Yield the numbers that are granted, those of parts in a row together."""
        run: list[int] = []
        for number, mine in zip(numbers, granted, strict=True):
            if run and (not mine or number != run[-1] + 1):
                yield run
                run = []
            if mine:
                run.append(number)
        if run:
            yield run
