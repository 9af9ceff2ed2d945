"""Rounds of a retry loop: is the next one the same again?

A round that changed nothing in memory may still have changed the thread itself: a counter of tries, say, after which the loop
gives up. So before a thread is blocked at its ``cpu_relax``, it goes on for a moment in an *echo*: its operations are answered
with what the round just ended has read, and nothing is added to the graph. If it comes back to the same ``cpu_relax`` with the
same local state, it would do so for ever, and is blocked. If it does anything else, the next round is another one, and is
explored.

Local state is what the frames between ``Machine.attempt`` and ``cpu_relax`` hold: local and closure variables, what lists,
dictionaries and plain objects among them contain, how far an iterator is. The iterator of a ``for`` statement cannot be seen;
where a function on the way has such a statement, the echo goes on for ``LONGEST`` rounds before the loop counts as endless.
"""

from __future__ import annotations

import dis
import functools
import operator
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from .graph import WRITE
from .memory import Geometry, Unwind

if TYPE_CHECKING:
    from .graph import Event

LONGEST = 128  # rounds of an echo in which the local state changes, or might
_Look: TypeAlias = "Callable[[Any, int], object]"
_PLAIN = frozenset((int, bool, float, str, bytes, type(None)))
_OPAQUE = (types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType, type, Geometry)


class Echo:
    """An echo under way. The round just ended is ``events``, or what follows from ``start`` on if the loop begins there."""

    def __init__(self, key: object, events: list[Event], start: int, state: object) -> None:
        self.key: object = key
        self.events: list[Event] = events
        self.start: int = start
        self.state: object = state
        self.rounds = 0


class Departs(Unwind):
    """In an echo: the thread does something that the round did not do."""


def changed(e: Event) -> bool:
    """Return True if ``e`` is a write that matters to later rounds.

    A read-modify-write that stores what it has read does not. Without it the others read the same values, and are ordered by
    less: what goes wrong in an execution with it goes wrong in the one without.
    """
    return e.kind is WRITE and not (e.ex and e.value == e.rf.value)


def local_state(frame: types.FrameType | None, until: types.CodeType) -> tuple[object, bool]:
    """Return the local state of the frames from ``frame`` up to the one that runs ``until``, and if a part of it is hidden."""
    found: list[object] = []
    hidden = False
    while frame is not None and frame.f_code is not until:
        hidden = hidden or _has_for(frame.f_code)
        found += (frame.f_code, frame.f_lasti)
        for value in frame.f_locals.values():
            found.append(value if type(value) in _PLAIN else _seen(value, 3))
        frame = frame.f_back
    return tuple(found), hidden


@functools.cache
def _has_for(code: types.CodeType) -> bool:
    return any(instruction.opname == "FOR_ITER" for instruction in dis.get_instructions(code))


def _seen(value: Any, depth: int) -> object:
    """Return something that differs if ``value`` has changed, as far as that can be seen."""
    if type(value) in _PLAIN:
        return value
    if depth == 0:
        return id(value)
    kind = type(value)
    if kind not in _how:
        _how[kind] = _find(kind)
    look = _how[kind]
    return look(value, depth - 1) if look else id(value)


def _find(kind: type) -> _Look | None:
    """Return the function that looks at a value of that type; None if it has no local state."""
    if issubclass(kind, _OPAQUE):
        return None
    for base, look in _LOOKS:
        if issubclass(kind, base):
            return look
    return _iterator if hasattr(kind, "__next__") else _plain_attributes


def _sequence(value: Any, depth: int) -> object:
    return type(value), *(_seen(part, depth) for part in value)


def _mapping(value: Any, depth: int) -> object:
    return tuple((_seen(key, 1), _seen(part, depth)) for key, part in value.items())


def _generator(value: types.GeneratorType[Any, Any, Any], depth: int) -> object:
    frame = value.gi_frame
    return id(value), frame and frame.f_lasti, frame and _seen(frame.f_locals, depth)


def _iterator(value: Any, depth: int) -> object:
    return id(value), operator.length_hint(value, -1)


def _plain_attributes(value: Any, depth: int) -> object:
    """Look at the plain attributes of an object: those that a loop might count in."""
    return id(value), *((name, part) for name, part in getattr(value, "__dict__", {}).items() if type(part) in _PLAIN)


_LOOKS: tuple[tuple[Any, _Look], ...] = (
    (tuple(_PLAIN), lambda value, depth: value),
    (bytearray, lambda value, depth: bytes(value)),
    ((list, tuple, set, frozenset), _sequence),
    (dict, _mapping),
    (types.GeneratorType, _generator),
)
_how: dict[type, _Look | None] = {}
