"""Runs one execution again, from its replay string, with names and source lines for a reader.

The string (see ``replay_string``) is complete, so nothing is searched: a thread that needs another thread's write waits until
that thread has run.
"""

import sys
from pathlib import Path

from . import facade_model, facade_threads
from .graph import READ, Graph
from .machine import Machine
from .memory import Blocked, Failure

FACADES = {facade_model.__file__, facade_threads.__file__}
ENGINE = {str(file) for file in Path(__file__).parent.glob("*.py")} - FACADES


class Replayer(Machine):
    def __init__(self, explorer, geometry, initial, tokens):
        super().__init__(explorer, geometry, initial, len(tokens))
        self.tokens, self.rank, self.free = tokens, {}, False

    def event(self, kind, loc, order):
        e = super().event(kind, loc, order)
        e.op = site()
        return e

    def race(self, e, o):
        return f"{super().race(e, o)}\n      here: {_place(e)}\n      there: {_place(o)}"

    def token(self):
        """Return the next event's token; None if only the thread that fails continues. Raises Blocked if this thread must
        wait."""
        tokens = self.tokens[self.thread]
        if self.n < len(tokens):
            return tokens[self.n]
        if self.free:
            return None
        raise Blocked("replay")

    def new_read(self, loc, order, ex, satisfied=None):
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

    def take(self, choices):
        token = self.token()
        if token is None:
            return super().take(choices)
        if token[0] == "c":
            return self.append(choices[int(token[1:])][0])
        e = choices[0][0]
        rank = self.rank[e] = int(token[1:])
        writes = self.graph.mo[e.loc]
        writes.insert(sum(self.rank.get(w, 0) <= rank for w in writes), e)
        return self.append(e)

    def places(self, graph, e):
        return [None] if self.token() is not None else super().places(graph, e)

    def write(self, loc, value):
        if self.i == self.n and (token := self.token()) is not None:
            super().write(loc, value)
            self.rank[self.log[-1]] = int(token[1:])
        else:
            super().write(loc, value)

    def read(self, loc):
        if self.i == self.n:
            self.token()
        return super().read(loc)

    def fence(self, order):
        if self.i == self.n:
            self.token()
        super().fence(order)


def _place(e):
    _op, function, file, line = e.op
    return f"{function}, {file}:{line}"


class _NoExplorer:
    """A stand-in for the explorer that explores nothing."""

    def __init__(self, explorer):
        self.model, self.timeouts, self.names, self.name = explorer.model, explorer.timeouts, explorer.names, explorer.name
        self.lower = [None] * len(explorer.lower)

    def push(self, graph, choices):
        pass

    def revisit(self, machine, graph, write):
        pass


def site():
    """Return (facade function, module.function, file, line) of the operation that is being performed."""
    frame, op = sys._getframe(2), None
    while frame.f_code.co_filename in ENGINE:
        op, frame = frame.f_code.co_name, frame.f_back
    while frame.f_code.co_filename in FACADES:
        op, frame = frame.f_code.co_name, frame.f_back
    code = frame.f_code
    file = Path(code.co_filename)
    return op, f"{file.stem}.{code.co_name}", f"{file.parent.name}/{file.name}", frame.f_lineno


def replay(program, model, text):
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
