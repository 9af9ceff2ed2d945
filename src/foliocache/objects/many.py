"""Several objects at once: those that are missing are made in one call."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from .found import MISSING
from .store import PREFIX, Objects, _tell, _Turn

if TYPE_CHECKING:
    from .host import Ask
    from .store import Writable
    from .values import Loads

MakeMany: TypeAlias = "Callable[[list[int]], Sequence[Any]]"  # of positions, in ascending order


def get_or_create_many(
    objects: Objects,
    keys: Sequence[str],
    make: MakeMany,
    version: str,
    expiry: float | None,
    loads: Loads,
    writable: Writable = None,
) -> list[Any]:
    """Return the objects with these keys, in order. ``make(positions)`` makes those at some positions of ``keys``.

    Raises what ``make`` raises here, and SourceError if it raised in another process.
    """
    found = objects.find_each(keys, version, expiry, loads, writable)
    if any(each is MISSING for each in found):
        missing = {key: n for n, key in enumerate(keys) if found[n] is MISSING}
        turns = {n: _turn(objects, key, make, version, expiry, loads, writable) for key, n in sorted(missing.items())}
        for n, value in _make_missing(objects, turns, make).items():
            found[n] = value
    for n, key in enumerate(keys):  # twice in keys, or made by another process meanwhile
        if found[n] is MISSING:
            found[n] = objects.get_or_create(key, functools.partial(_one, make, n), version, expiry, loads, writable)
    return found


def _turn(
    objects: Objects, key: str, make: MakeMany, version: str, expiry: float | None, loads: Loads, writable: Writable
) -> _Turn:
    mine = os.getpid(), threading.get_ident(), key, version
    return objects._turn(_Turn(objects.know(key, version), key, version, expiry, loads, writable, mine), make)


def _one(make: MakeMany, n: int) -> Any:
    return make([n])[0]


def _same(value: Any) -> Any:
    return value


def _make_missing(objects: Objects, turns: dict[int, _Turn], make: MakeMany) -> dict[int, Any]:
    """Make those objects that no other process is making or has made. Return them by their position.

    ``turns`` is in the order of the keys. All processes ask in that order, so no two wait for each other.
    """
    with contextlib.ExitStack() as stack:
        asks: dict[int, Ask] = {}
        for n, turn in turns.items():
            ask = stack.enter_context(objects._names.ask(PREFIX + turn.key, turn.max_age, who=turn.version))
            if ask.known is None:
                asks[n] = ask
        if not asks:
            return {}
        values = _make(objects, [(asks[n], turns[n]) for n in asks], sorted(asks), make)
        return {n: objects._make(asks[n], turns[n], functools.partial(_same, value)) for n, value in values.items()}


def _make(objects: Objects, asked: list[tuple[Ask, _Turn]], positions: list[int], make: MakeMany) -> dict[int, Any]:
    try:
        marked = objects._marked(*[turn for _, turn in asked])
        return marked.call(lambda: dict(zip(positions, make(positions), strict=True)))  # what makes them may be a generator
    except BaseException as error:
        for ask, _ in asked:
            _tell(ask, error)
        raise
