"""Simulated memory: what the core's functions take as ``mem`` when they run under the checker.

:class:`Direct` is a dictionary. It serves the sequential parts of a scenario, before the threads start and after they end.
``machine.Machine`` runs one thread against an execution graph: it answers operations that the graph has already, and adds the
first one that the graph lacks. Threads are ordinary Python calls, one after the other; a thread that must wait for another is
unwound by an exception and run again later, so no call is ever suspended.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, Self

from . import facade_threads

if TYPE_CHECKING:
    from .graph import Event, Loc, Value


NOT_THE_SAME = "a thread may depend on nothing but what it reads through mem, or it cannot be run again"
SWALLOWED = "the thread has caught what the checker raises: `except:` or `except BaseException` in a thread must raise it again"
unwinding: BaseException | None = None  # raised in the thread that runs; no operation may follow
ENGINE = Path(__file__).parent
_tracers: list[Any] = []  # what ``swallowed`` has put another trace function in place of


class Unwind(BaseException):
    """Ends a run of a thread, which must not catch it."""

    def __init__(self, *args: object) -> None:
        global unwinding
        super().__init__(*args)
        unwinding = self


def swallowed(attempt: Callable[..., object]) -> NoReturn:
    """End a thread that has caught what was to end it: its next line, which is in the handler, raises once more."""

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if event == "line" and Path(frame.f_code.co_filename).parent != ENGINE:
            raise Failure("thread", SWALLOWED)
        return trace

    code = attempt.__code__
    _tracers.append(sys.gettrace())
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not code:
        frame.f_trace = trace
        frame = frame.f_back
    sys.settrace(trace)
    raise unwinding if isinstance(unwinding, Failure) else Failure("thread", SWALLOWED)


def begin_run() -> None:
    global unwinding
    unwinding = None


def end_run() -> None:
    """Give back the trace function that ``swallowed`` has replaced."""
    begin_run()
    if _tracers:
        sys.settrace(_tracers[0])
        _tracers.clear()


class Blocked(Unwind):
    """The thread cannot continue in this graph. ``why`` is spin, stutter, futex, await, assume or replay; ``reads`` is what it
    would read again, for a stutter with the writes of the round."""

    why: str
    reads: Sequence[Event]
    detail: tuple[Loc, Value] | None

    def __init__(self, why: str, reads: Sequence[Event] = (), detail: tuple[Loc, Value] | None = None) -> None:
        super().__init__(why)
        self.why, self.reads, self.detail = why, reads, detail


class Abandon(Unwind):
    """This graph has no consistent continuation; its revisits have been queued."""


class Died(Unwind):
    """A mortal thread has chosen to die here."""


class Failure(Exception):
    """An execution that must not happen: what is wrong in it (``kind``, ``message``), and in which thread."""

    kind: str
    message: str
    thread: int | None

    def __init__(self, kind: str, message: str, thread: int | None = None) -> None:
        global unwinding
        super().__init__(message)
        unwinding = self
        self.kind, self.message, self.thread = kind, message, thread


class Mem(facade_threads.Shape, Protocol):
    """What the facade asks of ``mem``."""

    describes: int
    grows: int

    def load(self, loc: Loc, order: str) -> Value: ...
    def store(self, loc: Loc, value: Value, order: str) -> None: ...
    def rmw(self, loc: Loc, order: str, compute: Callable[[Value], Value]) -> Value: ...
    def read(self, loc: Loc) -> Value: ...
    def write(self, loc: Loc, value: Value) -> None: ...
    def write_once(self, loc: Loc, value: Value) -> None: ...
    def read_once(self, loc: Loc) -> Value: ...
    def wide(self, loc: Loc) -> None: ...
    def fence(self, order: str) -> None: ...
    def membarrier(self) -> None: ...
    def asymmetric_fence_light(self) -> None: ...
    def client_alive(self, client: int) -> bool: ...
    def choose(self, n: int) -> int: ...
    def relax(self) -> None: ...
    def wait(self, loc: Loc, expected: int) -> int: ...
    def wake(self, loc: Loc, n: int) -> int: ...


class Geometry:
    """The base class of both memories: the numbers that the facade asks ``mem`` for."""

    memmap: int
    data: int
    clients: int
    buckets: int
    ghosts: int
    backed: int
    npages: int
    page_shift: int
    chunk_shift: int
    populate: int
    nclients: int
    nbuckets: int
    nghosts: int

    def __init__(self, geometry: Mapping[str, int]) -> None:
        for name in facade_threads.GEOMETRY:
            setattr(self, name, geometry.get(name, 0))
        self.size: int = geometry.get("size", 0)
        self.describes: int = geometry.get("describes", 0)  # not 0: the program makes descriptors
        self.grows: int = geometry.get("grows", 0)  # not 0: the program gives client slots memory

    def load(self, loc: Loc, order: str) -> Value:
        raise NotImplementedError

    def store(self, loc: Loc, value: Value, order: str) -> None:
        raise NotImplementedError

    def wide(self, loc: Loc) -> None:
        """The next access stores more than 32 bits."""

    @property
    def handle(self) -> Self:
        return self

    def write_once(self, loc: Loc, value: Value) -> None:
        self.store(loc, value, "relaxed")

    def read_once(self, loc: Loc) -> Value:
        return self.load(loc, "relaxed")


class Direct(Geometry):
    """Sequential memory: ``values`` by location; ``clients`` as in ``Program``."""

    def __init__(
        self, geometry: Mapping[str, int], values: dict[Loc, Value] | None = None, clients: Mapping[int, Hashable] | None = None
    ) -> None:
        super().__init__(geometry)
        self.values: dict[Loc, Value] = {} if values is None else values
        self.processes: Mapping[int, Hashable] = clients or {}

    def load(self, loc: Loc, order: str) -> Value:
        return self.values.get(loc, 0)

    def store(self, loc: Loc, value: Value, order: str) -> None:
        self.values[loc] = value

    def rmw(self, loc: Loc, order: str, compute: Callable[[Value], Value]) -> Value:
        old = self.values.get(loc, 0)
        new = compute(old)
        if new is not None:
            self.values[loc] = new
        return old

    def read(self, loc: Loc) -> Value:
        return self.values.get(loc, 0)

    def write(self, loc: Loc, value: Value) -> None:
        self.values[loc] = value

    def fence(self, order: str) -> None:
        pass

    def membarrier(self) -> None:
        pass

    def asymmetric_fence_light(self) -> None:
        pass

    def client_alive(self, client: int) -> bool:
        return self.values.get(("dead", self.processes.get(client))) != 1

    def choose(self, n: int) -> int:
        return 0

    def relax(self) -> NoReturn:
        raise Failure("spin", "a sequential part of the scenario spins, and there is no other thread to end that")

    def wait(self, loc: Loc, expected: int) -> int:
        raise Failure("sleep", "a sequential part of the scenario sleeps, and there is no other thread to wake it")

    def wake(self, loc: Loc, n: int) -> int:
        return 0
