"""What a thread takes as ``mem`` while ``export`` writes down its operations, and the facade that serves it."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from . import facade_model, facade_threads
from .export_words import Op, Path, Refused, Sum, Word
from .memory import Geometry

if TYPE_CHECKING:
    from .export_words import Operand
    from .graph import Loc, Value
    from .program import Program
    from .scenario import Scenario

WAITS = "it waits for another thread"
RESULTS = "its judgement looks at what the threads have returned"


class Seen:
    """What has been found out about the locations, over all runs of all threads."""

    def __init__(self, start: Mapping[Loc, Value]) -> None:
        self.start = start
        self.kinds: dict[Loc, set[str]] = {}
        self.stored: dict[Loc, set[Value]] = {}
        self.open: set[Loc] = set()  # more than constants are stored
        self.users: dict[Loc, set[int]] = {}
        self.read: set[Loc] = set()
        self.domains: dict[Loc, frozenset[Value] | None] = {}

    def settle(self) -> bool:
        """Before all threads are run again: let the domains be what has been stored so far. True if there is anything new."""
        before = self.domains
        self.domains = {loc: frozenset({self.start.get(loc, 0), *values}) for loc, values in self.stored.items()}
        self.domains |= dict.fromkeys(self.open)
        return self.domains != before

    def domain(self, loc: Loc) -> frozenset[Value] | None:
        return self.domains.get(loc, frozenset({self.start.get(loc, 0)}))


class Recorder(Geometry):
    """What a thread takes as ``mem`` while its operations are written down."""

    def __init__(self, program: Program, seen: Seen, thread: int, path: Path) -> None:
        super().__init__(program.geometry)
        self.seen: Seen = seen
        self.thread: int = thread
        self.path: Path = path
        self.own: dict[Loc, Value] = {}  # the client's own slot: no operation, as in ``Machine``

    @property
    def values(self) -> Finals:
        return Finals(self)

    def touch(self, loc: Any, kind: str) -> None:
        if isinstance(loc, Word):
            loc.number()
        if kind:
            self.seen.kinds.setdefault(loc, set()).add(kind)
        self.seen.users.setdefault(loc, set()).add(self.thread)

    def put(self, loc: Loc, value: Any) -> Operand:
        """Note that a value is stored; return it as an operand."""
        if isinstance(value, Word):
            self.seen.open.add(loc)
            return value.sum
        self.seen.stored.setdefault(loc, set()).add(value)
        return value

    def result(self, what: str, loc: Loc, order: str, *values: Operand) -> Word:
        register = self.path.registers
        self.path.registers += 1
        self.seen.read.add(loc)
        domain = self.seen.domain(loc)
        if domain is not None:
            self.path.domains[register] = domain
        self.path.add(Op(what, loc, order, values, register))
        return Word(self.path, Sum(register))

    def load(self, loc: Loc, order: str) -> Word:
        self.touch(loc, "atomic")
        return self.result("load", loc, order)

    def store(self, loc: Loc, value: Any, order: str) -> None:
        self.touch(loc, "atomic")
        self.path.add(Op("store", loc, order, (self.put(loc, value),)))

    def change(self, what: str, loc: Loc, order: str, value: int) -> Word:
        """Add, sub, or, and."""
        self.touch(loc, "atomic")
        self.seen.open.add(loc)
        if isinstance(value, Word):
            raise Refused("it adds a word that it has read")
        return self.result(what, loc, order, value)

    def exchange(self, loc: Loc, order: str, value: Any) -> Word:
        self.touch(loc, "atomic")
        return self.result("exchange", loc, order, self.put(loc, value))

    def cmpxchg(self, loc: Loc, order: str, expected: Any, new: Any) -> Word:
        self.touch(loc, "atomic")
        new = self.put(loc, new)
        return self.result("cmpxchg", loc, order, expected.sum if isinstance(expected, Word) else expected, new)

    def read(self, loc: Loc) -> Word:
        self.touch(loc, "plain")
        return self.result("read", loc, "")

    def write(self, loc: Loc, value: Any) -> None:
        self.touch(loc, "plain")
        self.path.add(Op("write", loc, "", (self.put(loc, value),)))

    def peek(self, loc: Loc) -> Any:
        """Read the final value, in the judgement."""
        if loc not in self.seen.users and loc not in self.seen.start:
            return None
        self.touch(loc, "")
        return self.result("peek", loc, "relaxed")

    def write_once(self, loc: Loc, value: Any) -> None:
        self.own[loc] = value

    def read_once(self, loc: Loc) -> Any:
        return self.own.get(loc, self.seen.start.get(loc, 0))

    def fence(self, order: str) -> None:
        self.path.add(Op("fence", None, order))

    def asymmetric_fence_light(self) -> None:
        """Has an effect only with its partner, which is refused."""

    def relax(self) -> NoReturn:
        raise Refused(WAITS)

    def wait(self, loc: Loc, expected: int) -> NoReturn:
        raise Refused(WAITS)

    def wake(self, loc: Loc, n: int) -> NoReturn:
        raise Refused(WAITS)

    def membarrier(self) -> NoReturn:
        raise Refused("it has a process-wide barrier")

    def client_alive(self, client: int) -> NoReturn:
        raise Refused("it asks whether a client lives")

    def choose(self, n: int) -> NoReturn:
        raise Refused("it has a choice that is none of the program's")


class Finals:
    """``mem.values`` of the judgement."""

    def __init__(self, mem: Recorder) -> None:
        self.mem = mem

    def get(self, loc: Loc, default: Any = None) -> Any:
        found = self.mem.peek(loc)
        return default if found is None else found

    def __getitem__(self, loc: Loc) -> Any:
        return self.get(loc, 0)


class NoResults:
    """The threads' results, which are not in the exported program."""

    def __getattr__(self, name: str) -> NoReturn:
        raise Refused(RESULTS)

    def __getitem__(self, n: Any) -> NoReturn:
        raise Refused(RESULTS)

    def __iter__(self) -> NoReturn:
        raise Refused(RESULTS)

    def __contains__(self, one: object) -> NoReturn:
        raise Refused(RESULTS)

    def __len__(self) -> NoReturn:
        raise Refused(RESULTS)


def facade(which: Scenario) -> types.ModuleType:
    """Return the facade of a copy that also serves a Recorder."""
    made = which.suite.facade()

    def both(name: str, record: Callable[..., Any]) -> None:
        simulated = getattr(facade_model, name)

        def call(mem: Any, *arguments: Any) -> Any:
            return (record if isinstance(mem, Recorder) else simulated)(mem, *arguments)

        setattr(made, name, call)

    for order in facade_threads.ORDERS:
        for what in ("add", "sub", "or", "and"):
            both(f"fetch_{what}_{order}", lambda mem, off, value, o=order, w=what: mem.change(w, off, o, value))
        both(f"exchange_{order}", lambda mem, off, value, o=order: mem.exchange(off, o, value))
        both(f"cmpxchg_{order}", lambda mem, off, old, new, o=order: mem.cmpxchg(off, o, old, new))
    for order in ("relaxed", "acquire", "seq_cst"):
        both(f"load_{order}", lambda mem, off, o=order: mem.load(off, o))
    for order in ("relaxed", "release", "seq_cst"):
        both(f"store_{order}", lambda mem, off, value, o=order: mem.store(off, value, o))
    for name in ("store_relaxed64", "store_release64"):
        both(name, lambda mem, off, value, o=name[6:13]: mem.store(off, value, o))
    both("record32", lambda mem, off, value: mem.store(off, value, "relaxed"))
    for width in (32, 64):
        both(f"write{width}", lambda mem, off, value: mem.write(off, value))
    both("write_once", lambda mem, off, value: mem.write_once(off, value))
    for name in ("copy_in_relaxed", "copy_out_relaxed", "write_bytes"):
        both(name, _copies)
    return made


def _copies(*_: Any) -> NoReturn:
    raise Refused("it copies bytes")
