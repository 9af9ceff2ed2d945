"""The replay string of an execution.

It begins with the number of the thread that fails (``-`` if the final state does). For each thread follow, after a slash, the
tokens of its events: the write that a read takes (``i`` for the initial value, or thread.event), the place of a write in its
location's order (``w3``), the value chosen (``c1``), ``f`` for a fence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .graph import CHOICE, FENCE, READ

if TYPE_CHECKING:
    from .graph import Event, Graph


def encode(graph: Graph, failing: int | None) -> str:
    """Return the replay string of ``graph``, in which thread ``failing`` fails; None for the final state."""
    ranks = {w: rank for writes in graph.mo.values() for rank, w in enumerate(writes)}
    threads = (",".join(_token(e, ranks) for e in events) for events in graph.threads)
    return "/".join(["-" if failing is None else str(failing), *threads])


def _token(e: Event, ranks: dict[Event, int]) -> str:
    if e.kind is READ:
        return "i" if e.rf.thread < 0 else f"{e.rf.thread}.{e.rf.index}"
    if e.kind is FENCE:
        return "f"
    return f"c{e.value}" if e.kind is CHOICE else f"w{ranks[e]}"
