"""membarrier(2) and the light barrier that is its partner: fences of which one side costs nothing.

A light barrier is a compiler barrier; a membarrier makes every other thread fence at some point p between its call and its return.
So if p is behind the light barrier L in its thread, all that came before L is visible after the membarrier M; if p is before L, all that
came before M is visible behind L. Either way M and L are ordered as two seq_cst fences would be, and that alone is what counts
here; two light barriers are not ordered with each other. (P1202, "Asymmetric fences", puts it like this into the C++ standard.)
The real thing does more: p may be anywhere. Hence what holds here holds there; and with real fences in the place of light ones
(``HDR_FENCED``) all the more.

A cycle over fences is forbidden if of any two that follow each other one is a membarrier. From fence to fence it goes, under rc11, by
``hb`` or ``hb ; eco ; hb`` (``psc_F`` of the paper, see ``psc``); under tso by any way in the global order.
"""

from .graph import FENCE, READ, WRITE


def fences(graph):
    found = [e for events in graph.threads for e in events if e.kind is FENCE and e.order in ("seq_cst", "light")]
    return [e for e in found if e.order == "seq_cst"], [e for e in found if e.order == "light"]


def acyclic(graph):
    """The condition under rc11."""
    heavy, light = fences(graph)
    every = heavy + light
    first, last = _reach(graph, every)
    number = len(heavy)
    after = [
        [j for j in range(len(every)) if i != j and (i < number or j < number) and _before(every, first, last, i, j)]
        for i in range(len(every))
    ]
    return not _has_cycle(after)


def _before(every, first, last, i, j):
    f, g = every[i], every[j]
    if f.index < g.hb[f.thread]:
        return True
    return any(place < last[j].get(loc, -1) for loc, place in first[i].items())


def _reach(graph, every):
    """For each fence and location: the first place that is reached behind the fence, and the last one before it.

    Places are those of ``eco``: write number n of a location is at 2n, whoever reads from it at 2n + 1.
    """
    first = [{} for _ in every]
    last = [{} for _ in every]
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


def _has_cycle(after):
    left = [len(targets) for targets in after]
    into = [[] for _ in after]
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


def ordered(model, graph, event):
    """The condition under tso, whose global order is known to have no cycle: none through ``event`` and light barriers either.

    Backwards from the event. A way may pass a light barrier as if it were a fence; on the way from one to the next (and from the last
    round to the first) there must be a membarrier, or else nothing is wrong. A state is an event; whether a membarrier has been passed
    since the last light barrier; and the same of the way from the event to its first one (None: there was none yet).
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


def _back(model, graph, e, heavy, start):
    heavy = heavy or (e.kind is FENCE and e.order == "seq_cst")
    found = [(p, heavy, start) for p in model.before(graph, e)]
    if e.thread >= 0 and (start is None or heavy):
        events = graph.threads[e.thread]
        index = next((i for i in range(e.index - 1, -1, -1) if events[i].kind is FENCE and events[i].order == "light"), None)
        if index is not None:
            began = heavy if start is None else start
            found += [(p, False, began) for p in _last(events, index)]
    return found


def _last(events, index):
    """The nearest events before that place in a thread, one of each kind."""
    kinds = [READ, WRITE, FENCE]
    found = []
    for e in reversed(events[:index]):
        if e.kind in kinds and e.order != "light":
            kinds.remove(e.kind)
            found.append(e)
            if not kinds:
                break
    return found
