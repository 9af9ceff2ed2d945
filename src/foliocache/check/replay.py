"""Runs one execution again, from its replay string, with names and source lines for a reader.

The string (see ``replay_string``) is complete, so nothing is searched: a thread that needs another thread's write waits until
that thread has run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from . import facade_model, facade_threads
from .graph import READ, Graph
from .machine import Machine
from .memory import Blocked, Failure

if TYPE_CHECKING:
    from .explore import Explorer
    from .graph import Event, Loc, Value
    from .machine import Choices
    from .model import Model
    from .program import Program

Site: TypeAlias = tuple[str | None, str, str, int]  # facade function, module.function, file, line
FACADES = {facade_model.__file__, facade_threads.__file__}
COMPREHENSIONS = {"<listcomp>", "<setcomp>", "<dictcomp>"}  # functions of their own until CPython 3.12
ENGINE = {str(file) for file in Path(__file__).parent.glob("*.py")} - FACADES


class Replayer(Machine):
    def __init__(
        self, explorer: _NoExplorer, geometry: Mapping[str, int], initial: Mapping[Loc, Value], tokens: list[list[str]]
    ) -> None:
        super().__init__(explorer, geometry, initial, len(tokens))  # type: ignore[arg-type]
        self.tokens: list[list[str]] = tokens
        self.free: bool = False
        self.rank: dict[Event, int] = {}

    def event(self, kind: str, loc: Loc, order: str) -> Event:
        e = super().event(kind, loc, order)
        e.op = site()
        return e

    def race(self, e: Event, o: Event) -> str:
        return f"{super().race(e, o)}\n      here: {_place(e)}\n      there: {_place(o)}"

    def token(self) -> str | None:
        """Return the next event's token; None if only the thread that fails continues. Raises Blocked if this thread must
        wait."""
        tokens = self.tokens[self.thread]
        if self.n < len(tokens):
            return tokens[self.n]
        if self.free:
            return None
        raise Blocked("replay")

    def decided(self) -> bool:
        return self.i < self.n or self.n < len(self.tokens[self.thread])

    def new_read(self, loc: Loc, order: str, ex: bool, satisfied: Callable[[Value], object] | None = None) -> Event:
        token = self.token()
        if token is None:
            return super().new_read(loc, order, ex, satisfied)
        writes = self.messages(loc)
        if token == "i":
            source = writes[0]
        else:
            t, index = map(int, token.split("."))
            if index >= len(self.graph.threads[t]):
                raise Blocked("replay")
            source = self.graph.threads[t][index]
        e = self.event(READ, loc, order)
        e.ex = ex
        return self.append(self.reading(e, source))

    def take(self, choices: Choices) -> Event:
        token = self.token()
        if token is None:
            return super().take(choices)
        if token[0] == "c":
            return self.append(choices[int(token[1:])][0])
        e = choices[0][0]
        rank = self.rank[e] = int(token[1:])
        self.graph.insert(e, sum(self.rank.get(w, 0) <= rank for w in self.graph.mo[e.loc]))
        return self.append(e)

    def places(self, graph: Graph, e: Event) -> list[Any]:
        return [None] if self.token() is not None else super().places(graph, e)

    def write(self, loc: Loc, value: Value) -> None:
        if self.i == self.n and (token := self.token()) is not None:
            super().write(loc, value)
            self.rank[self.log[-1]] = int(token[1:])
        else:
            super().write(loc, value)

    def read(self, loc: Loc) -> Value:
        if self.i == self.n:
            self.token()
        return super().read(loc)

    def fence(self, order: str) -> None:
        if self.i == self.n:
            self.token()
        super().fence(order)


def _place(e: Event) -> str:
    _op, function, file, line = e.op
    return f"{function}, {file}:{line}"


class _NoExplorer:
    """A stand-in for the explorer that explores nothing."""

    def __init__(self, explorer: Explorer) -> None:
        self.model: Model = explorer.model
        self.timeouts: bool = explorer.timeouts
        self.names: list[str] = explorer.names
        self.name: Callable[[Loc], str] = explorer.name
        self.lower: list[int | None] = [None] * len(explorer.lower)

    def push(self, graph: Graph, choices: Choices) -> None:
        pass

    def revisit(self, machine: Machine, graph: Graph, write: Event) -> None:
        pass


def site() -> Site:
    """Return (facade function, module.function, file, line) of the operation that is being performed."""
    frame: Any = sys._getframe(2)
    op = None
    while frame.f_code.co_filename in ENGINE:
        op, frame = frame.f_code.co_name, frame.f_back
    while frame.f_code.co_filename in FACADES:
        op, frame = frame.f_code.co_name, frame.f_back
    line = frame.f_lineno
    while frame.f_code.co_name in COMPREHENSIONS:
        frame = frame.f_back
    code = frame.f_code
    file = Path(code.co_filename)
    return op, f"{file.stem}.{code.co_name}", f"{file.parent.name}/{file.name}", line


def replay(program: Program, model: str, text: str) -> tuple[Graph, Failure | None]:
    """Run that execution; return its graph, whose events have their place in the source, and the failure that it ends in, or
    None."""
    failing, *threads = text.split("/")
    explorer = program.explorer(model)
    tokens = [thread.split(",") if thread else [] for thread in threads]
    machine = Replayer(_NoExplorer(explorer), program.geometry, program.start, tokens)
    graph = Graph(len(program.threads))
    size, failed = -1, None
    while size < graph.stamp:
        size = graph.stamp
        for t in range(len(program.threads)):
            try:
                machine.run(graph, t, program)
            except Failure as failure:  # the end of the thread that fails; the others go on to where they were
                failed = failure
    if failed:
        return graph, failed
    try:
        if failing != "-":
            machine.free = True
            machine.run(graph, int(failing), program)
        else:
            explorer.complete(graph)
    except Failure as failure:
        return graph, failure
    return graph, None
