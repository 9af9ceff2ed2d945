"""The memory models: which message a read may take, and where a write may go.

All three are one machine with different rules. They have in common: program order and reads-from have no cycle (a read takes a
write that has been executed: no load buffering), every location is coherent (a thread never reads a message older than one
that happens before the read), and nothing comes between the halves of a read-modify-write. The explorer adds one event at a
time and asks :meth:`Model.allows`.

``rc11``  C11 as repaired by Lahav et al. (PLDI 2017), with C++20's release sequences (read-modify-writes only). Acquire,
          release and fences act through the clocks of ``graph``; seq_cst through the acyclicity of ``psc``, exactly as in the
          paper.
``tso``   x86-TSO: every load acquires, every store releases, and the global order (program order except store to load, external
          reads-from, modification order, from-read) has no cycle. A locked instruction is a fence, a cmpxchg that fails, too,
          and so is a seq_cst store. This is herd's x86tso; it equals the machine with store buffers (Owens, Sarkar, Sewell
          2009).
``sc``    The same with all of program order in the global order.

An event that comes last in ``mo``, or reads the last message, has no edge to any other: only the others need a search.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import barriers
from .graph import FENCE, READ, WRITE

if TYPE_CHECKING:
    from .graph import Event, Graph

ACQUIRE = frozenset(("acquire", "acq_rel", "seq_cst"))
RELEASE = frozenset(("release", "acq_rel", "seq_cst"))


class Model:
    strong = False  # every access acquires and releases

    def __init__(self, name: str) -> None:
        self.name = name

    def allows(self, graph: Graph, event: Event) -> bool:
        """Return True if ``graph`` is consistent; it contains the new ``event`` and was consistent without it."""
        raise NotImplementedError


class Interleaving(Model):
    """``sc`` and ``tso``: a global order over all events, searched backwards from the new one."""

    strong = True

    def allows(self, graph: Graph, event: Event) -> bool:
        seen = set()
        todo = self.before(graph, event)
        while todo:
            e = todo.pop()
            if e is event:
                return False
            if e not in seen and e.thread >= 0:
                seen.add(e)
                todo += self.before(graph, e)
        return True

    def before(self, graph: Graph, e: Event) -> list[Event]:
        """Return the events that come immediately before ``e`` in the global order."""
        found = self.program(graph.threads[e.thread], e)
        if e.kind is READ:
            found += self.source(e)
        elif e.kind is WRITE:
            writes = graph.mo[e.loc]
            last = writes[writes.index(e) - 1]
            found.append(last)
            found += [r for r in graph.reads[e.loc] if r.rf is last and r is not e]
        return found

    def program(self, events: list[Event], e: Event) -> list[Event]:
        return [events[e.index - 1]] if e.index else []

    def source(self, e: Event) -> list[Event]:
        return [e.rf]


def locked(e: Event) -> bool:
    """Return True if ``e`` belongs to an x86 instruction that drains the store buffer."""
    if e.kind is FENCE:
        return e.order == "seq_cst"
    return e.ex or (e.kind is WRITE and e.order == "seq_cst")


class StoreBuffers(Interleaving):
    def allows(self, graph: Graph, event: Event) -> bool:
        return super().allows(graph, event) and (not graph.seq_cst or not graph.light or barriers.ordered(self, graph, event))

    def program(self, events: list[Event], e: Event) -> list[Event]:
        """Return the nearest earlier events that ``e`` is ordered after.

        Those are loads and locked ones, and stores unless ``e`` is a plain load.
        """
        found = []
        load = e.kind is READ and not e.ex
        want_load, want_store = True, not load
        for index in range(e.index - 1, -1, -1):
            p = events[index]
            full = locked(p)
            if (want_load and (full or p.kind is READ)) or (want_store and (full or p.kind is WRITE)):
                found.append(p)
            want_load = want_load and not (full or p.kind is READ)
            want_store = want_store and not (full or p.kind is WRITE)
            if not (want_load or want_store):
                break
        return found

    def source(self, e: Event) -> list[Event]:
        return [e.rf] if e.rf.thread != e.thread else []


class Rc11(Model):
    def allows(self, graph: Graph, event: Event) -> bool:
        if graph.seq_cst + graph.light < 2:
            return True
        from .psc import acyclic

        return barriers.acyclic(graph) if graph.light else acyclic(graph)


MODELS: dict[str, Model] = {"sc": Interleaving("sc"), "tso": StoreBuffers("tso"), "rc11": Rc11("rc11")}
