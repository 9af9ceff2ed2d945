"""The replay string of an execution.

First the thread that fails (``-`` if it is the final state), then, separated by slashes, for each thread a token for each of
its events: what a read takes (``i``, the initial value, or thread.event), where a write stands in its location's order
(``w3``), what was chosen (``c1``), ``f`` for a fence.
"""

from .graph import CHOICE, FENCE, READ


def encode(graph, failing):
    ranks = {w: rank for writes in graph.mo.values() for rank, w in enumerate(writes)}
    threads = (",".join(_token(e, ranks) for e in events) for events in graph.threads)
    return "/".join(["-" if failing is None else str(failing), *threads])


def _token(e, ranks):
    if e.kind is READ:
        return "i" if e.rf.thread < 0 else f"{e.rf.thread}.{e.rf.index}"
    if e.kind is FENCE:
        return "f"
    return f"c{e.value}" if e.kind is CHOICE else f"w{ranks[e]}"
