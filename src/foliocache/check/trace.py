"""Shows an execution as a schedule: its steps in one order, a column for each thread.

A graph is not a schedule. Of its schedules, the one is shown that needs the fewest oddities (a load of a message that is no
longer the newest, a store that takes effect before an earlier one), and among those the one with the fewest preemptions. Under
``sc`` there are no oddities.
"""

from __future__ import annotations

import dataclasses
import heapq
import re
import textwrap
from typing import TYPE_CHECKING, TypeAlias

from .graph import CHOICE, FENCE, READ, WRITE
from .machine import Held
from .steps import DEAD

if TYPE_CHECKING:
    from .graph import End, Event, Graph, Loc
    from .memory import Failure
    from .program import Program

_State: TypeAlias = tuple[tuple[int, ...], int]  # how many steps of each thread are behind, and whose was the last (-1: none)

ODD, SWITCH, CHANGE = 1000, 10, 1
STATES = 300_000
WIDTH = 40


@dataclasses.dataclass
class Step:
    thread: int
    events: list[Event]
    number: int = 0
    text: str = ""
    note: str = ""
    source: int | None = None  # the step whose message a stale load took, and its thread
    origin: int = 0
    where: str = ""


def _same_writer(before: Event, e: Event) -> bool:
    return before.plain and before.kind is WRITE and before.op is not None and before.op[1] == e.op[1]


def _continues(step: Step, e: Event) -> bool:
    """Return True if ``e`` belongs to the step before it in its thread."""
    last = step.events[-1]
    if any(isinstance(other.value, Held) for other in step.events if other.kind is WRITE):
        return last.kind is READ or isinstance(last.value, Held)
    return e.kind is WRITE and ((e.ex and last.ex and last.loc == e.loc) or (e.plain and _same_writer(last, e)))


def steps(graph: Graph) -> list[list[Step]]:
    """Return each thread's steps: a read-modify-write is one step, and so are plain stores of a function in a row, and what a
    futex_wait does while it has the lock of its queue, which no thread sees from without."""
    columns = []
    for t, events in enumerate(graph.threads):
        column: list[Step] = []
        for e in events:
            if e.kind is CHOICE and e.order == "life":  # shown by what follows
                continue
            if column and _continues(column[-1], e):
                column[-1].events.append(e)
            else:
                column.append(Step(t, [e]))
        columns.append(column)
    return columns


def order(graph: Graph) -> tuple[list[Step], int | None]:
    """Return the steps in the order in which they are shown, and the number of preemptions; None if the search was given up."""
    columns = steps(graph)
    rank = {w: i for writes in graph.mo.values() for i, w in enumerate(writes)}
    home = {e: (s.thread, i) for column in columns for i, s in enumerate(column) for e in s.events}
    start = (0,) * len(columns)
    end = tuple(map(len, columns))
    best: dict[_State, int] = {(start, -1): 0}
    came: dict[_State, tuple[tuple[int, ...], int]] = {}
    heap = [(0, start, -1)]
    while heap:
        cost, at, last = heapq.heappop(heap)
        if at == end:
            return _walk(columns, came, (at, last)), cost // SWITCH % (ODD // SWITCH)
        if len(best) > STATES:
            break
        for t, column in enumerate(columns):
            if at[t] == len(column) or not _ready(column[at[t]], home, at):
                continue
            price = cost + ODD * _odd(column[at[t]], graph, rank, home, at)
            if last not in (-1, t):
                price += SWITCH if at[last] < len(columns[last]) or _unfinished(graph.done[last]) else CHANGE
            state = ((*at[:t], at[t] + 1, *at[t + 1 :]), t)
            if price < best.get(state, price + 1):
                best[state] = price
                came[state] = (at, last)
                heapq.heappush(heap, (price, *state))
    flat = sorted((s for column in columns for s in column), key=lambda s: s.events[0].stamp)
    return flat, None


def _unfinished(end: End | None) -> bool:
    """Return True if a thread could still go on after its last event here."""
    return end is None or (end[0] == "blocked" and end[1].why == "replay")


def preemptions(graph: Graph) -> int:
    """Return how many preemptions the plainest schedule of this execution needs; ``ODD`` if the search was given up."""
    count = order(graph)[1]
    return ODD if count is None else count


def _walk(columns: list[list[Step]], came: dict[_State, tuple[tuple[int, ...], int]], state: _State) -> list[Step]:
    told = []
    while state in came:
        before = came[state]
        told.append(columns[state[1]][before[0][state[1]]])
        state = before
    return told[::-1]


def _ready(step: Step, home: dict[Event, tuple[int, int]], at: tuple[int, ...]) -> bool:
    return all(e.rf is None or e.rf.thread < 0 or e.rf in step.events or _done(e.rf, home, at) for e in step.events)


def _done(e: Event, home: dict[Event, tuple[int, int]], at: tuple[int, ...]) -> bool:
    t, i = home[e]
    return i < at[t]


def _odd(step: Step, graph: Graph, rank: dict[Event, int], home: dict[Event, tuple[int, int]], at: tuple[int, ...]) -> int:
    count = 0
    for e in step.events:
        if e.kind is READ or e.kind is WRITE:
            place = rank[e.rf if e.kind is READ else e]
            count += any(_done(w, home, at) for w in graph.mo[e.loc][place + 1 :] if w not in step.events)
    return count


def tell(graph: Graph, program: Program) -> tuple[list[Step], int | None]:
    """Return the steps with their texts, in order, and the number of preemptions."""
    told, preemptions = order(graph)
    number: dict[Event, int] = {}
    newest: dict[Loc, Event] = {}
    for count, step in enumerate(told, 1):
        step.number = count
        _describe(step, program, number, newest, graph)
        for e in step.events:
            number[e] = count
    return told, preemptions


OPERATION = re.compile(r"(?:fetch_)?(\w+?)(?:_(?:relaxed|acquire|release|acq_rel|seq_cst))?(?:32|64)?")


def _describe(step: Step, program: Program, number: dict[Event, int], newest: dict[Loc, Event], graph: Graph) -> None:
    e, last = step.events[0], step.events[-1]
    op, function, file, line = e.op
    step.where = f"{file}:{line}"
    found = OPERATION.fullmatch(op)
    verb = found[1] if found else op
    if e.kind is WRITE and isinstance(e.loc, tuple) and e.loc[0] == "dead":
        step.text, step.where = "dies" if e.value == DEAD else "ends", ""
    elif e.kind is FENCE:
        step.text = f"{function}  fence ({e.order})"
    elif e.kind is CHOICE:
        step.text = f"{function}  chooses {e.value}" if op != "step" else ("steps in" if e.value else "goes on")
    elif e.plain and len(step.events) > 1:
        step.text = f"{function}  write " + ", ".join(program.name(w.loc) for w in step.events)
    else:
        name, value = program.name(e.loc), program.text(e.value, e.loc)
        shown = f"[{value}]" if last is e else f"[{value} -> {program.text(last.value, e.loc)}]"
        if e.kind is READ and e.ex and last is e:
            shown += " fails"
        step.text = f"{function}  {verb} {name} {shown}"
        step.note = _staleness(e, last, number, newest, graph, program)
        if step.note and e.kind is READ and e.rf in number:
            step.source, step.origin = number[e.rf], e.rf.thread
        for w in step.events:
            if w.kind is WRITE and (w.loc not in newest or graph.mo[w.loc].index(w) > graph.mo[w.loc].index(newest[w.loc])):
                newest[w.loc] = w


def _staleness(
    e: Event, last: Event, number: dict[Event, int], newest: dict[Loc, Event], graph: Graph, program: Program
) -> str:
    top = newest.get(e.loc)
    if top is None:
        return ""
    writes = graph.mo[e.loc]
    if e.kind is READ and writes.index(e.rf) < writes.index(top):
        source = f"step {number[e.rf]}" if e.rf in number else "the start"
        return f"stale: reads from {source}, though step {number[top]} has stored {program.text(top.value, e.loc)}"
    if last.kind is WRITE and writes.index(last) < writes.index(top):
        return f"lands before the store of step {number[top]}"
    return ""


def text(graph: Graph, program: Program, failure: Failure | None) -> str:
    """Return the columns, for a terminal."""
    told, preemptions = tell(graph, program)
    labels = program.label()
    cells = {s.number: textwrap.wrap(s.text, WIDTH, subsequent_indent="    ") for s in told}
    widths = [
        max([len(line) for s in told if s.thread == t for line in cells[s.number]] + [len(label)])
        for t, label in enumerate(labels)
    ]
    lines = [("     " + "   ".join(label.ljust(w) for label, w in zip(labels, widths, strict=True))).rstrip()]
    for s in told:
        left = " " * (sum(widths[: s.thread]) + 3 * s.thread)
        first, *rest = cells[s.number]
        lines.append(f"{s.number:3}  {(left + first).ljust(sum(widths) + 3 * len(widths))}{s.where}")
        lines += [f"     {left}{line}" for line in rest]
        if s.note:
            lines.append(f"     {left}  ^ {s.note}")
    thread = f"{labels[failure.thread]}: " if failure is not None and failure.thread is not None else ""
    lines += ["", f"{failure.kind}: {thread}{failure.message}" if failure else "no failure"]
    if preemptions is not None:
        lines.append(f"{preemptions} preemption{'s' * (preemptions != 1)} in this schedule")
    return "\n".join(lines)
