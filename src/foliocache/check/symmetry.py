"""Equal threads: of the executions that differ only by an exchange of such threads, one is explored.

``Program(equal=[(0, 1, 2)])`` declares that these threads run the same code, and that exchanging them makes no difference: not
to themselves (their numbers, which are the closure variables that ``Program(own=)`` names, may be written and compared for
equality, but not ordered), not to other threads, not to ``final``. The method is that of SPORE (Kokologiannakis, Marmanis,
Vafeiadis, "SPORE: combining symmetry and partial order reduction", PLDI 2024).

*The representative.* Two equal threads do the same until they differ for the first time: one reads an earlier message than the
other (in ``mo``), or its write stands earlier, or it chose a larger number. Of the ways to number the threads, the one is kept
in which that thread always has the lower number. This is a lexicographic order, position by position, so it is enough to
compare each thread with the next lower one, its *twin*; and each execution has a representative.

*Why TruSt still finds them all.* It requires of a memory model that a part of a consistent graph that is closed under causes
is consistent, and that a consistent graph stays so when any thread's next event is added in the plainest way. "Consistent, and
the representative" has both properties, if the twin of an event counts among its causes (``pf``) up to where the two threads
differ: the later event reads the last message, or writes the last, and so cannot come before its twin. The twin's event exists
in time because the lowest thread runs first, and because two threads that did the same end, or block, at the same place.
"""

from __future__ import annotations

import itertools
import types
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from .graph import READ, WRITE

if TYPE_CHECKING:
    from .graph import Clock, Event, Graph
    from .program import Program


def predecessors(program: Program) -> list[int | None]:
    """Return for each thread the next lower one that it is equal to, or None. Raises ValueError if a declaration is wrong."""
    before: list[int | None] = [None] * len(program.threads)
    for group in program.equal:
        for lower, higher in itertools.pairwise(group):
            other = difference(program.threads[lower], program.threads[higher], program.own)
            if lower >= higher or other:
                raise ValueError(f"threads {lower} and {higher} are not equal: {other or 'the lower number comes first'}")
            before[higher] = lower
        # Death and membarrier refer to threads by number.
        if program.barriers or program.mortal.intersection(group):
            raise ValueError("equal threads may not die, nor be in a program with a membarrier")
    return before


def difference(one: Any, other: Any, own: Collection[str]) -> str | None:
    """Return in words how two functions differ, but for the closure variables called in ``own``; None if they do not."""
    one, other = getattr(one, "__func__", one), getattr(other, "__func__", other)
    if one.__code__ is not other.__code__:
        return "they are different functions"
    if (one.__defaults__, one.__kwdefaults__) != (other.__defaults__, other.__kwdefaults__):
        return "their arguments have different defaults"
    cells = zip(one.__code__.co_freevars, one.__closure__ or (), other.__closure__ or (), strict=True)
    for name, mine, theirs in cells:
        a, b = mine.cell_contents, theirs.cell_contents
        if isinstance(a, types.FunctionType) and isinstance(b, types.FunctionType):
            if found := difference(a, b, own):
                return f"{name}: {found}"
        elif name not in own and a is not b and (type(a) is not type(b) or a != b):
            return f"{name} is {a!r} in one and {b!r} in the other (only what Program.own names may differ)"
    return None


def twin(graph: Graph, thread: int, index: int, lower: int) -> Event | None:
    """Return the event that the next one of ``thread`` is compared with; None once the two threads have differed."""
    if index and not same(graph.threads[thread][index - 1]):
        return None
    if index >= len(graph.threads[lower]):
        raise ValueError(f"threads {lower} and {thread} did the same so far, and only one goes on: they are not equal")
    return graph.threads[lower][index]


def causes(graph: Graph, e: Event) -> Clock:
    """Return the clock of what ``e`` depends on because it comes after its twin: of a read-modify-write, both halves."""
    t = e.twin
    assert t is not None
    if t.ex and t.kind is READ:
        for later in graph.threads[t.thread][e.index + 1 : e.index + 2]:
            if later.ex and later.kind is WRITE:
                return later.pf
    return t.pf


def same(e: Event) -> bool:
    """Return True if a thread and its twin have done the same up to and with ``e``. Of two writes one comes first."""
    t = e.twin
    return t is not None and t.kind is e.kind is not WRITE and t.loc == e.loc and t.rf is e.rf and t.value == e.value


def lowest(graph: Graph, e: Event) -> int:
    """Return the position in ``mo`` that ``e`` must not precede: that of its twin, or of the message that its twin reads."""
    t = e.twin
    if t is None or t.kind is not e.kind or t.loc != e.loc:
        return 0
    return graph.mo[e.loc].index(t.rf if e.kind is READ else t)
