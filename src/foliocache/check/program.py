"""A program to explore: a sequential setup, threads, and a judgement of the final state."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from . import facade_model
from .explore import Explorer
from .graph import READ, WRITE
from .memory import Direct, Failure
from .model import MODELS
from .parallel import spread
from .sample import Sampling

if TYPE_CHECKING:
    from .explore import Result
    from .graph import Event, Graph, Loc, Value
    from .memory import Blocked


# ``mem`` is a Machine in a thread, a Direct in a setup and a judgement; functions are shared between them.
Thread: TypeAlias = Callable[[Any], Any]
Final: TypeAlias = Callable[[Any, list[Any]], Hashable]


OF_A_THREAD = {"dead": "death of", "woken": "wake-up of"}  # locations called (what, thread, ...)


@dataclasses.dataclass
class Program:
    """``threads`` are functions of ``mem`` that access nothing else; the values they return go to ``final(mem, results)``.

    ``final`` looks at the final memory and raises ``AssertionError`` if it is wrong; the value it returns (or, without
    it, the results) is the execution's *outcome*. A ``mortal`` thread may die before each of its writes; its result is then
    None. With ``timeouts`` every futex_wait may also time out; with ``interrupts`` a signal may end one sleep of each thread.
    ``barriers`` is how often one of the threads calls ``steps.membarrier``. With ``shared_slots`` other threads read a client's
    slot. ``clients`` maps the clients that the core may ask about to threads. ``names`` gives locations names for a reader:
    ``{offset: "slot"}`` or a function; ``show(value, name)`` returns a value as text. ``equal`` has groups of threads that
    differ only by their numbers, see ``symmetry``; of executions that differ only by an exchange of those, one is explored.
    ``own`` are the names of the closure variables that hold such a number; any other difference is refused.
    """

    threads: Sequence[Thread]
    setup: Thread | None = None
    final: Final | None = None
    geometry: dict[str, int] = dataclasses.field(default_factory=dict)
    labels: list[str] | None = None
    names: Mapping[Any, str] | Callable[[Any], str | None] | None = None
    show: Callable[[Value, str], str] | None = None
    mortal: frozenset[Hashable] = frozenset()
    timeouts: bool = False
    interrupts: bool = False
    barriers: int = 0
    shared_slots: bool = False
    clients: Mapping[int, Hashable] = dataclasses.field(default_factory=dict)
    equal: Sequence[tuple[int, ...]] = ()
    own: Collection[str] = ("me",)

    def initial(self) -> dict[Loc, Value]:
        """Return the memory after the setup."""
        mem = Direct(self.geometry)
        facade_model.current = mem
        if self.setup:
            self.setup(mem)
        facade_model.current = None
        return mem.values

    def label(self) -> list[str]:
        return self.labels or [f"T{i + 1}" for i in range(len(self.threads))]

    def name(self, loc: Loc) -> str:
        if isinstance(loc, tuple) and loc[0] in OF_A_THREAD:
            return f"{OF_A_THREAD[loc[0]]} {self.label()[loc[1]] if isinstance(loc[1], int) else loc[1]}"
        known = self.names(loc) if callable(self.names) else self.names.get(loc) if self.names else None
        if known:
            return known
        return "/".join(map(str, loc)) if isinstance(loc, (tuple, str)) else f"[{loc}]"

    def text(self, value: Value, loc: Loc) -> str:
        """Return a value of that location as text."""
        return self.show(value, self.name(loc)) if self.show else str(value)

    def judge(self, graph: Graph) -> Hashable:
        """Return the outcome of a complete execution. Raises Failure."""
        results = [end[1] for end in graph.done if end is not None]
        if self.final is None:
            return tuple(results)
        mem = Direct(self.geometry, dict(self.start), self.clients)
        mem.values.update((loc, writes[-1].value) for loc, writes in graph.mo.items())
        facade_model.current = mem
        try:
            return self.final(mem, results)
        except AssertionError as error:
            raise Failure("final state", str(error) or "assertion failed") from error
        finally:
            facade_model.current = None

    def liveness(self, graph: Graph, blocked: list[Blocked]) -> None:
        """Raise Failure if no thread can ever go on: every blocked thread has seen the last message of what it waits for."""
        for block in blocked:
            if block.why in ("assume", "replay") or not repeats(graph, block.reads):
                return
        self.stuck(graph, blocked)

    def stuck(self, graph: Graph, blocked: list[Blocked]) -> None:
        asleep = [b.detail for b in blocked if b.why == "futex" and b.detail]
        for loc, expected in asleep:
            if graph.mo[loc][-1].value != expected:
                raise Failure("lost wake-up", f"a thread sleeps on {self.name(loc)} == {expected}, which has changed since")
        if asleep:
            raise Failure("deadlock", "every thread that has not ended sleeps")
        raise Failure("livelock", "every thread that has not ended retries for ever and nothing changes")

    start: dict[Loc, Value] = dataclasses.field(default_factory=dict, init=False)

    def explorer(self, model: str = "rc11", **options: Any) -> Explorer:
        self.start = self.initial()
        return Explorer(self, MODELS[model], self.start, self.label(), **options)

    def sampling(self, model: str = "rc11") -> Sampling:
        """Return an explorer by chance, see ``sample``."""
        self.start = self.initial()
        return Sampling(self, MODELS[model], self.start, self.label())


def repeats(graph: Graph, round_: Sequence[Event]) -> bool:
    """Return True if a round, from the final memory on and without other threads, reads the same values, and undoes what it
    stores: then it would do so for ever."""
    now: dict[Loc, Value] = {}
    for e in round_:
        if e.kind is READ and now.setdefault(e.loc, graph.mo[e.loc][-1].value) != e.value:
            return False
        if e.kind is WRITE:
            now[e.loc] = e.value
    return all(graph.mo[loc][-1].value == value for loc, value in now.items())


def explore(
    program: Program,
    model: str = "rc11",
    jobs: int = 1,
    budget: float | None = None,
    stop: bool = True,
    bound: int | None = None,
) -> Result:
    """Explore ``program`` under the model of that name; return a ``Result``.

    ``budget`` is in seconds; ``bound`` leaves out failures whose plainest schedule needs more preemptions. ``stop`` at the
    first failure.
    """
    deadline = time.perf_counter() + budget if budget else None
    explorer = program.explorer(model, deadline=deadline, stop=stop, bound=bound)
    explorer.start()
    if jobs == 1:
        return explorer.run()
    return spread(explorer, jobs)


def litmus(*threads: Thread, model: str = "rc11", **options: Any) -> set[Any]:
    """Return the set of outcomes of a small program: tuples of what the threads return, or what ``final`` returns.

    Raises AssertionError if an execution fails.
    """
    result = explore(Program(list(threads), **options), model, stop=False)
    if result.failure:
        raise AssertionError(f"{result.failure.kind}: {result.failure.message}")
    return result.outcomes
