"""membarrier(2) and its partner, the light barrier: a pair of fences of which one side costs nothing.

A light barrier is a compiler barrier; a membarrier makes every other thread fence at some point p between its call and its
return. If p is behind the light barrier L in its thread, everything before L is visible after the membarrier M; if p is before
L, everything before M is visible behind L. Either way M and L are ordered as two seq_cst fences would be, and only that is
modelled here; two light barriers are not ordered with each other. (P1202, "Asymmetric fences", proposes the same rule for the
C++ standard.) The system call does more, since p may be anywhere. So a program that is correct here is correct with the system
call, and also with real fences in place of light ones (``HDR_FENCED``).

A cycle over fences is forbidden if of any two neighbours in it one is a membarrier. Under rc11 an edge from fence to fence is
``hb`` or ``hb ; eco ; hb`` (``psc_F`` of the paper, see ``psc``); under tso it is any path in the global order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from .graph import FENCE, READ, WRITE

if TYPE_CHECKING:
    from .graph import Event, Graph, Loc
    from .model import Interleaving


_Places: TypeAlias = "list[dict[Loc, int]]"
_State: TypeAlias = "tuple[Event, bool, bool | None]"


def fences(graph: Graph) -> tuple[list[Event], list[Event]]:
    """Return the seq_cst fences and the light ones."""
    found = [e for events in graph.threads for e in events if e.kind is FENCE and e.order in ("seq_cst", "light")]
    return [e for e in found if e.order == "seq_cst"], [e for e in found if e.order == "light"]


def acyclic(graph: Graph) -> bool:
    """Return True if the condition under rc11 holds."""
    heavy, light = fences(graph)
    every = heavy + light
    first, last = _reach(graph, every)
    number = len(heavy)
    after = [
        [j for j in range(len(every)) if i != j and (i < number or j < number) and _before(every, first, last, i, j)]
        for i in range(len(every))
    ]
    return not _has_cycle(after)


def _before(every: list[Event], first: _Places, last: _Places, i: int, j: int) -> bool:
    f, g = every[i], every[j]
    if f.index < g.hb[f.thread]:
        return True
    return any(place < last[j].get(loc, -1) for loc, place in first[i].items())


def _reach(graph: Graph, every: list[Event]) -> tuple[_Places, _Places]:
    """Return for each fence, by location, the first place that is reached behind the fence, and the last one before it.

    Places are those of ``eco``: write number n of a location is at 2n, a read from it at 2n + 1.
    """
    first: _Places = [{} for _ in every]
    last: _Places = [{} for _ in every]
    for loc, writes in graph.mo.items():
        if len(writes) > 1:
            rank = {w: 2 * n for n, w in enumerate(writes)}
            events = [(w, n) for w, n in rank.items() if w.thread >= 0]
            events += [(r, rank[r.rf] + 1) for r in graph.reads[loc]]
            for i, f in enumerate(every):
                t, index, hb = f.thread, f.index, f.hb
                behind = [place for e, place in events if index < e.hb[t]]
                before = [place for e, place in events if e.index < hb[e.thread]]
                if behind:
                    first[i][loc] = min(behind)
                if before:
                    last[i][loc] = max(before)
    return first, last


def _has_cycle(after: list[list[int]]) -> bool:
    left = [len(targets) for targets in after]
    into: list[list[int]] = [[] for _ in after]
    for i, targets in enumerate(after):
        for j in targets:
            into[j].append(i)
    ends = [i for i, n in enumerate(left) if n == 0]
    gone = 0
    while ends:
        gone += 1
        for i in into[ends.pop()]:
            left[i] -= 1
            if left[i] == 0:
                ends.append(i)
    return gone < len(after)


def ordered(model: Interleaving, graph: Graph, event: Event) -> bool:
    """Return True if the condition under tso holds: no cycle through ``event`` and light barriers. (The global order has none.)

    The search goes backwards from the event. A path may pass a light barrier as if it were a fence; it is a forbidden cycle if
    there is a membarrier between each light barrier and the next, and between the last and the first. A state is an event,
    whether a membarrier was passed since the last light barrier, and the same for the path from the event to its first one
    (None: none was passed yet).
    """
    seen = set()
    todo = _back(model, graph, event, False, None)
    while todo:
        state = todo.pop()
        e, heavy, start = state
        if e is event:
            if start is not None and (heavy or start):
                return False
            continue
        if e.thread >= 0 and state not in seen:
            seen.add(state)
            todo += _back(model, graph, e, heavy, start)
    return True


def _back(model: Interleaving, graph: Graph, e: Event, heavy: bool, start: bool | None) -> list[_State]:
    heavy = heavy or (e.kind is FENCE and e.order == "seq_cst")
    found = [(p, heavy, start) for p in model.before(graph, e)]
    if e.thread >= 0 and (start is None or heavy):
        events = graph.threads[e.thread]
        index = next((i for i in range(e.index - 1, -1, -1) if events[i].kind is FENCE and events[i].order == "light"), None)
        if index is not None:
            began = heavy if start is None else start
            found += [(p, False, began) for p in _last(events, index)]
    return found


def _last(events: list[Event], index: int) -> list[Event]:
    """Return the nearest events before that place in a thread, one of each kind."""
    kinds = [READ, WRITE, FENCE]
    found = []
    for e in reversed(events[:index]):
        if e.kind in kinds and e.order != "light":
            kinds.remove(e.kind)
            found.append(e)
            if not kinds:
                break
    return found
