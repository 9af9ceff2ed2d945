"""How far to read ahead: the window of the kernel's ``mm/readahead.c``, in folios.

A reader that starts at the beginning, or continues where it stopped, is considered sequential. Its first window is a few times
what it asked for; each further one is four times, later twice, as large as the one before, up to ``most``. A folio before the
window's end is marked: a reader that hits the mark reads the next window ahead, in the background if the source allows that.
After a jump, only the requested folios are read.
"""


class Readahead:
    """The state of one sequential stream: the window ``start`` .. ``start + size - 1``, marked ``behind`` folios before its
    end."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.start: int = 0
        self.size: int = 0
        self.behind: int = 0

    def on_miss(self, index: int, wanted: int, previous: int | None) -> tuple[int, int | None]:
        """Decide about a miss of ``wanted`` folios from index on; ``previous`` is the index that was used last, or None.

        Return how many folios to read from index on, and the index to mark, or None.
        """
        if wanted >= self.most:
            return wanted, None
        if self.size and index == self.start + self.size:
            self.start, self.size = index, self._grown()
            self.behind = self.size
        elif index == 0 or (previous is not None and index - previous in (0, 1)):
            self.start, self.size = index, self._initial(wanted)
            self.behind = max(self.size - wanted, 0)
        else:
            return wanted, None
        self.size = max(self.size, wanted)
        return self.size, self._mark()

    def on_mark(self, first: int, end: int, next_missing: int) -> tuple[int, int, int | None]:
        """Decide about a hit on a marked folio; ``next_missing`` is the first index after it that is not cached.

        Return the window to read: its first index, how many folios, and the index to mark.
        """
        known = self.size and first <= self.start + self.size - self.behind < end
        self.start, self.size = next_missing, self._grown() if known else min(2 * max(next_missing - first, 1), self.most)
        self.behind = self.size
        return self.start, self.size, self._mark()

    def _mark(self) -> int | None:
        return self.start + self.size - self.behind if self.behind else None

    def _initial(self, wanted: int) -> int:
        size = 1 << (wanted - 1).bit_length()
        if size <= self.most // 32:
            return size * 4
        return min(size * 2, self.most) if size <= self.most // 4 else self.most

    def _grown(self) -> int:
        return min(self.size * 4 if self.size < self.most // 4 else self.size * 2, self.most)
