"""A word that a thread has read and that has no value yet, and what the thread does on the way: see ``export``."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from .graph import Loc, Value

STEPS = 200  # of one path


class Refused(Exception):
    """The scenario cannot be exported; the message says why."""


@dataclasses.dataclass(frozen=True)
class Op:
    """One operation. ``what`` is load, store, add, sub, or, and, exchange, cmpxchg, read, write or fence; ``values`` are its
    operands, and ``register`` is the number of what it reads."""

    what: str
    loc: Loc | None
    order: str
    values: tuple[Operand, ...] = ()
    register: int | None = None


@dataclasses.dataclass
class Branch:
    """A condition, and what follows if it holds and if not."""

    when: Condition
    yes: list[Step]
    no: list[Step]


@dataclasses.dataclass(frozen=True)
class Wrong:
    """An assertion that failed on this path."""

    message: str


@dataclasses.dataclass(frozen=True)
class Sum:
    """An operand: a register, ``& mask`` if that is not None, ``+ plus``."""

    register: int
    mask: int | None = None
    plus: int = 0


@dataclasses.dataclass(frozen=True)
class Condition:
    """``left relation right``; or, with relation "in", a register that has one of some values."""

    left: Sum
    relation: str
    right: Any


Operand: TypeAlias = "Value | Sum"
Step: TypeAlias = "Op | Branch | Wrong"


@dataclasses.dataclass
class Path:
    """One run of a thread: the answers to its forks, given and then chosen, and what it did."""

    answers: list[bool]
    asked: int = 0
    did: list[Op | Condition | Wrong] = dataclasses.field(default_factory=list)
    known: dict[Condition, bool] = dataclasses.field(default_factory=dict)
    domains: dict[int, frozenset[Value]] = dataclasses.field(default_factory=dict)
    registers: int = 0

    def add(self, op: Op | Wrong) -> None:
        self.did.append(op)
        if len(self.did) > STEPS:
            raise Refused("a loop in one of its threads has no last round")

    def fork(self, when: Condition) -> bool:
        if when not in self.known:
            if self.asked == len(self.answers):
                self.answers.append(True)
            self.known[when] = self.answers[self.asked]
            self.did.append(when)
            self.asked += 1
        return self.known[when]

    def among(self, register: int, holds: Callable[[Value], bool]) -> bool:
        """Fork on a register that has a domain; afterwards its domain is what is left."""
        domain = self.domains[register]
        yes = frozenset(value for value in domain if holds(value))
        if not yes or yes == domain:
            return bool(yes)
        answer = self.fork(Condition(Sum(register), "in", yes))
        self.domains[register] = yes if answer else domain - yes
        return answer


class Word:
    """What a thread has read: the value of a register, after some arithmetic (``of``)."""

    def __hash__(self) -> int:
        raise TypeError("a word that has been read has no hash")

    def __init__(self, path: Path, sum: Sum, of: Callable[[Value], Value] = lambda value: value) -> None:
        self.path: Path = path
        self.sum: Sum = sum
        self.of: Callable[[Value], Value] = of

    def domain(self) -> frozenset[Value] | None:
        return self.path.domains.get(self.sum.register)

    def _then(self, sum: Sum | None, step: Callable[[Value], Value]) -> Any:
        """Return this word after one more step, whose text is ``sum``: a number if it is the same for the whole domain."""
        before = self.of

        def of(value: Value) -> Value:
            return step(before(value))

        domain = self.domain()
        if domain is not None:
            results = {of(value) for value in domain}
            return results.pop() if len(results) == 1 else Word(self.path, self.sum, of)
        if sum is None:
            raise Refused("it computes with a word that it has read")
        return Word(self.path, sum, of)

    def __and__(self, other: int) -> Any:
        plain = self.sum.mask is None and not self.sum.plus
        return self._then(Sum(self.sum.register, other) if plain else None, lambda value: value & other)

    def __add__(self, other: int) -> Any:
        return self._then(dataclasses.replace(self.sum, plus=self.sum.plus + other), lambda value: value + other)

    def __sub__(self, other: int) -> Any:
        return self + -other

    def _value(name: str) -> Callable[..., Any]:  # type: ignore[misc]
        """Return an operator that only a word with a domain has."""

        def compute(self: Word, *others: Any) -> Any:
            return self._then(None, lambda value: getattr(value, name)(*others))

        return compute

    __or__: Callable[..., Any] = _value("__or__")
    __ror__: Callable[..., Any] = _value("__ror__")
    __xor__: Callable[..., Any] = _value("__xor__")
    __invert__: Callable[..., Any] = _value("__invert__")
    __neg__: Callable[..., Any] = _value("__neg__")
    __lshift__: Callable[..., Any] = _value("__lshift__")
    __rlshift__: Callable[..., Any] = _value("__rlshift__")
    __rshift__: Callable[..., Any] = _value("__rshift__")
    __rsub__: Callable[..., Any] = _value("__rsub__")
    __mul__: Callable[..., Any] = _value("__mul__")
    __rmul__: Callable[..., Any] = _value("__rmul__")
    __floordiv__: Callable[..., Any] = _value("__floordiv__")
    __mod__: Callable[..., Any] = _value("__mod__")
    __rand__: Callable[..., Any] = _value("__rand__")
    __radd__: Callable[..., Any] = _value("__radd__")

    def _is(self, relation: str, other: Any) -> bool:
        how = RELATIONS[relation]
        if isinstance(other, Word):
            if other.domain() is None:
                raise Refused("it compares two words that it has read")
            other = other.number()
        if self.domain() is not None:
            return self.path.among(self.sum.register, lambda value: how(self.of(value), other))
        if self.sum.plus or not isinstance(other, int):
            raise Refused("it compares a word that it has read, after arithmetic")
        return self.path.fork(Condition(self.sum, relation, other))

    def __eq__(self, other: object) -> bool:
        return self._is("==", other)

    def __ne__(self, other: object) -> bool:
        return self._is("!=", other)

    def __lt__(self, other: int) -> bool:
        return self._is("<", other)

    def __le__(self, other: int) -> bool:
        return self._is("<=", other)

    def __gt__(self, other: int) -> bool:
        return self._is(">", other)

    def __ge__(self, other: int) -> bool:
        return self._is(">=", other)

    def __bool__(self) -> bool:
        return self._is("!=", 0)

    def number(self) -> Value:
        """Return its value: one fork for each value of the domain but the last."""
        domain = self.domain()
        if domain is None:
            raise Refused("a location, or a number of rounds, depends on a word that it has read")
        for value in sorted(domain, key=repr):
            if self.path.among(self.sum.register, lambda one, value=value: one == value):  # type: ignore[misc]
                return self.of(value)
        raise AssertionError("no value of the domain is left")

    def __index__(self) -> int:
        return int(self.number())

    def __format__(self, spec: str) -> str:
        return "a word"  # in the message of an assertion


RELATIONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
