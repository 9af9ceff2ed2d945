"""Finding, making, keeping and forgetting objects.

An object has a *name* (``pool.names``), which is found by the object's key and the user's version. One process makes the
object, and the others sleep until it is made: names are asked for by one process at a time. The answer to the name is the
object's head (``values``) and the version of the mapping that has its bytes. Each time an object is made, that version is
random, so bytes of two makings are never mixed: if a folio was evicted, the object is gone, and the next call makes it. The
name is answered after all bytes are in the pool. Until then no other process knows the version, so an object that is found is
complete.

A maker that fails answers, too, with the reason and the time. Processes that began to wait before that time raise it; later
ones make the object themselves. A maker that dies leaves folios that no name refers to; they are evicted in time.

A hit looks up the name. If the record is the same, byte for byte, as at the last hit, everything that was computed then is
still valid: the mapping, the function that builds the object, and the window, if something in this process still uses it.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ..errors import FoliocacheError, SourceError
from ..filler import failure
from ..sizes import quoted
from . import values
from .found import MISSING, Found, Gone, Lookup, Members, private
from .values import Loads

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from .host import Ask, Known, Mapping, Name, NewMapping, Pool

Make: TypeAlias = "Callable[[], Any]"
MakeAsync: TypeAlias = "Callable[[], Awaitable[Any]]"
Writable: TypeAlias = Literal["copy"] | None

PREFIX = "object:"  # of the keys of names and mappings
KNOWN_MAX = 8192  # objects that a process remembers
TRIES = 8  # answers of others that may be evicted before they are read; then the object is made for this caller only
_REASON_MAX = 150  # bytes of a failure's text
_KIND_MAX = 40  # bytes of the name of its class


class Unkept:
    """What ``make`` returns if the object is not to be kept: the next call makes it again."""

    def __init__(self, value: Any) -> None:
        self.value = value


class _Turn:
    """One call that did not find its object: its arguments, its process and thread or task, and the last unusable answer."""

    def __init__(
        self,
        known: Known,
        key: str,
        version: str,
        expiry: float | None,
        loads: Loads,
        writable: Writable,
        mine: tuple[int, int, str, str],
    ) -> None:
        self.known, self.key, self.version, self.mine = known, key, version, mine
        self.expiry, self.loads, self.writable = expiry, loads, writable
        self.max_age = float("inf") if expiry is None else seconds(expiry)
        self.start = _now()
        self.previous: Name | None = None
        self.is_refused = False  # another process found no room for the object

    def ages(self) -> Iterator[float]:
        """Yield the greatest acceptable age of an answer, in seconds: always younger than ``previous``."""
        for _ in range(TRIES):
            if self.is_refused:
                return
            yield self.max_age if self.previous is None else min(self.max_age, max(self.previous.age - 1e-6, 1e-9))


def _check_writable(writable: Writable) -> None:
    if writable not in (None, "copy"):
        raise ValueError(f'writable must be "copy" or None, not {quoted(writable)}: cached bytes are read-only')


def _check_names(key: str, version: str) -> None:
    for what, text in (("key", key), ("version", version)):
        if not isinstance(text, str):
            raise ValueError(f"the {what} of an object must be a string, not {quoted(text)}")


def check_options(version: str, expiry: float | None, loads: Loads, writable: Writable = None) -> None:
    """Raise ValueError if an option has an invalid value: where it is given, not where it is used first."""
    _check_names("", version)
    if expiry is not None:
        seconds(expiry)
    values.check_loads(loads)
    _check_writable(writable)


async def _awaited(make: MakeAsync, key: str) -> Any:
    made = make()
    if not inspect.isawaitable(made):
        raise TypeError(
            f"what makes {quoted(key)} returned {type(made).__name__}, which cannot be awaited; "
            "use an async function or get_or_create"
        )
    return await made


_NOTHING = Found(None, 0, 0, None, None)


class Objects(Lookup):
    """The objects of a pool; threads, forked children and signal handlers may use it."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool.names)
        self._pool = pool
        self._finder = pool._finder(_evicted, Gone)
        self._making: set[tuple[int, int, str, str]] = set()  # by process and thread

    def get(self, key: str, default: Any, version: str, expiry: float | None, loads: Loads, writable: Writable = None) -> Any:
        """Return the object, or default if there is none."""
        found = self.find(key, version, expiry, loads, writable)
        if found is MISSING:
            check_options(version, expiry, loads, writable)
            return default
        return found

    def get_rows(self, key: str, version: str, expiry: float | None, first: int, end: int) -> tuple[int, Any]:
        """Return some of an array, of which rows first to end are wanted: the number of its first row, and the array. If there
        is no such object, (0, MISSING). Of another object than an array, all of it."""
        return self.rows_of(self.know(key, version), key, expiry, first, end)

    def get_or_create(
        self, key: str, make: Make, version: str, expiry: float | None, loads: Loads, writable: Writable = None
    ) -> Any:
        """Return the object, made by the first process that asks. Raises what ``make`` raises here, SourceError if it raised in
        another process."""
        found = self.find(key, version, expiry, loads, writable)
        if found is MISSING:
            known = self.know(key, version)
            mine = os.getpid(), threading.get_ident(), key, version
            turn = self._turn(_Turn(known, key, version, expiry, loads, writable, mine), make)
            found = self.find_known(
                known, key, expiry, loads, writable
            )  # again: ``previous`` may be an answer that has just come
            if found is MISSING:
                found = self._ask(turn, make)
        return found

    async def get_or_create_async(
        self, key: str, make: MakeAsync, version: str, expiry: float | None, loads: Loads, writable: Writable = None
    ) -> Any:
        """Do what ``get_or_create`` does, for event loops. ``make`` returns an awaitable."""
        found = self.find(key, version, expiry, loads, writable)
        if found is MISSING:
            known = self.know(key, version)
            from asyncio import current_task

            mine = os.getpid(), -id(current_task()), key, version
            turn = self._turn(_Turn(known, key, version, expiry, loads, writable, mine), make)
            found = self.find_known(known, key, expiry, loads, writable)
            if found is MISSING:
                found = await self._ask_async(turn, make)
        return found

    def _turn(self, turn: _Turn, make: object) -> _Turn:
        """Prepare to make an object that was not found."""
        _check_writable(turn.writable)
        values.check_loads(turn.loads)
        if not callable(make):
            raise TypeError(f"make must be a function of no arguments, not {quoted(make)}")
        if turn.mine in self._making:
            raise FoliocacheError(
                f"what makes {quoted(turn.key)} asks for {quoted(turn.key)} itself, and would wait for itself; make it "
                "from others"
            )
        turn.previous = self._names.recall(PREFIX + turn.key, float("inf"), who=turn.version)
        return turn

    def put(self, key: str, value: Any, version: str, loads: Loads) -> bool:
        """Keep an object. Return False if the pool has no room for it. Raises ValueError for an invalid key or version."""
        _check_names(key, version)
        stored = values.encode(value, loads, key)
        previous = self._names.recall(PREFIX + key, float("inf"), who=version)
        with self._names.ask(PREFIX + key, who=version) as ask:
            is_kept = self._keep(ask, key, stored) is not None
        self._forget(key, previous)
        return is_kept

    def delete(self, key: str) -> None:
        """Forget all versions of an object. Raises FoliocacheError, ValueError for an invalid key."""
        _check_names(key, "")
        self._names.forget(PREFIX + key)
        self._pool.forget(PREFIX + key)

    def delete_below(self, prefix: str) -> None:
        """Forget the objects whose keys begin with prefix, and those whose kept keys were cut before the end of prefix. Raises
        FoliocacheError."""
        self._names.forget_below(PREFIX + prefix)

    # Finding.

    def _remember(self, place: object, key: str, version: str) -> Known:
        known = self._new(key, version)
        while len(self._known) >= KNOWN_MAX:
            with contextlib.suppress(RuntimeError, StopIteration):  # another thread has changed the dict
                self._known.pop(next(iter(self._known)), None)
        return self._known.setdefault(place, known)

    def _new(self, key: str, version: str) -> Known:
        _check_names(key, version)
        known = self._names.known(PREFIX + key, version)
        known.found = _NOTHING
        return known

    def _is_young(self, record: bytes, expiry: float) -> bool:
        name = self._names.read(record)
        return 0 <= (0.0 if name is None else name.age) < seconds(expiry)

    def _lose(self, known: Known, key: str) -> None:
        """Forget an object a part of which was evicted."""
        found, known.found = known.found, _NOTHING
        self._forget(key, None if found.record is None else self._names.read(found.record))

    def _learn(self, key: str, record: bytes) -> Found:
        """Return what a record describes."""
        name = self._names.read(record)
        if name is None or not name.exists or name.extra[:1] == b"!":
            return Found(record, 0, 0, None, None)
        at = len(record) - len(name.extra)
        if name.extra[:1] == b"i":
            head, content = values.split_inline(name.extra)
            at += values.INLINE_START
            return Found(record, at, at + len(head), bytes(content), None)
        return Found(record, at, len(record), None, self._finder.find(PREFIX + key, name.size, name.version))

    def _forget(self, key: str, name: Name | None) -> None:
        """Remove an object that has been replaced, or whose folios were evicted in part, from the pool."""
        if name is not None and name.extra[:1] not in (b"!", b"i"):
            _invalidate(self._pool._object(PREFIX + key, name.size, name.version, _evicted))

    # Making.

    def _ask(self, turn: _Turn, make: Make) -> Any:
        for max_age in turn.ages():
            with self._names.ask(PREFIX + turn.key, max_age, who=turn.version) as ask:
                if ask.known is None:
                    return self._make(ask, turn, make)
            found = self._look(turn, ask.known)
            if found is not MISSING:
                return found
        value = self._marked(turn).call(make)
        return self._built(turn, *self._apart(turn, value))

    def _make(self, ask: Ask, turn: _Turn, make: Make) -> Any:
        try:
            value = self._marked(turn).call(make)
            if isinstance(value, Unkept):
                return self._built(turn, *self._apart(turn, value))
            stored = values.encode(value, turn.loads, turn.key)
        except BaseException as error:
            _tell(ask, error)
            raise
        return self._built(turn, stored, self._kept(ask, turn, stored))

    async def _ask_async(self, turn: _Turn, make: MakeAsync) -> Any:
        for max_age in turn.ages():
            async with await self._names.ask_async(PREFIX + turn.key, max_age, who=turn.version) as ask:
                if ask.known is None:
                    return await self._make_async(ask, turn, make)
            found = self._look(turn, ask.known)
            if found is not MISSING:
                return found
        from ..filler.awaiting import in_engine  # as in `_make_async`

        with self._marked(turn):
            value = await _awaited(make, turn.key)
        return self._built(turn, *await in_engine(self._pool.engine, lambda: self._apart(turn, value)))

    async def _make_async(self, ask: Ask, turn: _Turn, make: MakeAsync) -> Any:
        """Do what ``_make`` does. Calls that may wait for a lock, or copy much, are made in a thread of the engine."""
        from ..filler.awaiting import in_engine  # here, because importing asyncio takes longer than all of foliocache

        engine = self._pool.engine
        try:
            with self._marked(turn):
                value = await _awaited(make, turn.key)
            if isinstance(value, Unkept):
                return self._built(turn, *await in_engine(engine, lambda: self._apart(turn, value)))
            stored = await in_engine(engine, lambda: values.encode(value, turn.loads, turn.key))
        except Exception as error:
            failed = error
            await in_engine(engine, lambda: _tell(ask, failed))
            raise
        content = await in_engine(engine, lambda: self._kept(ask, turn, stored))
        return self._built(turn, stored, content)

    def _marked(self, *turns: _Turn) -> Members:
        """Return a context that remembers what this thread or task is making: ``make`` cannot wait for its own result."""
        return Members(self._making, tuple([turn.mine for turn in turns]))

    def _look(self, turn: _Turn, name: Name) -> Any:
        """Return the object that another process has made; MISSING if it is gone already. Raises SourceError if that process
        failed."""
        found = self.find_known(turn.known, turn.key, turn.expiry, turn.loads, turn.writable)
        if found is MISSING:
            turn.previous = name
            turn.is_refused = name.extra[:1] == b"!" and _is_refused(name, turn.key, turn.start)
        return found

    def _kept(self, ask: Ask, turn: _Turn, stored: values.Stored) -> Buffer:
        content = self._keep(ask, turn.key, stored, turn.writable)
        self._forget(turn.key, turn.previous)
        return stored.copied(turn.writable is not None) if content is None else content

    def _apart(self, turn: _Turn, value: Any) -> tuple[values.Stored, Buffer]:
        """Return an object that is not to be kept as bytes, and a copy of them: like one that is, it is the caller's alone."""
        stored = values.encode(value.value if isinstance(value, Unkept) else value, turn.loads, turn.key)
        return stored, stored.copied(turn.writable is not None)

    def _built(self, turn: _Turn, stored: values.Stored, content: Buffer) -> Any:
        build = values.decoder(stored.head, turn.loads, turn.key)
        try:
            return build(content)
        except Exception as error:
            if values.is_told(stored.head, error):
                raise values.unreadable(turn.key, error) from error
            raise

    def _keep(self, ask: Ask, key: str, stored: values.Stored, writable: Writable = None) -> Buffer | None:
        """Put an object into the pool, and answer its name. Return its bytes; None if the pool has no room."""
        inline = stored.inline
        if inline is not None:
            ask.answer(0, "", inline)
            beside = values.split_inline(inline)[1]
            return bytes(beside) if writable is None else bytearray(beside)  # copies, which are aligned
        version = os.urandom(8).hex()
        mapping = self._pool._object(PREFIX + key, stored.size, version, stored)
        content = self._fill(mapping, key, version, writable)
        if content is None:
            _invalidate(mapping)
            _refuse(ask)
            return None
        if not ask.answer(stored.size, version, stored.head):
            _invalidate(mapping)  # the name was forgotten meanwhile; existing views stay valid
        return content

    def _fill(self, mapping: NewMapping, key: str, version: str, writable: Writable) -> Buffer | None:
        """Write an object into the pool. Return its bytes; None if the pool has no room for all of them at once.

        A window keeps its mapping, and that the value that was put; so the window that is returned is of another mapping."""
        if mapping.size > self._pool.pool_bytes:
            return None
        try:
            mapping.make_room()
            lease = mapping.lease_all()
            if lease is not None and writable is None:
                return lease
            filled = lease or mapping.window()
            found = self._finder.find(PREFIX + key, mapping.size, version)
            content = found.window() if writable is None else private(found, writable)
            del filled  # pinned until here
        except FoliocacheError:
            if self._pool.closed:
                raise
            return None
        return content


class _Evicted:
    """The source of an object that was found: its bytes cannot be fetched again, so it raises Gone."""

    kind = "objects"

    def read_into(self, offset: int, buffers: object) -> Iterator[object]:
        raise Gone("a part of the object was evicted")


_evicted = _Evicted()


def _invalidate(mapping: Mapping) -> None:
    try:
        mapping.invalidate()
    except FoliocacheError:  # a process that has stopped holds a lock: the folios are evicted in time
        return


def _tell(ask: Ask, error: BaseException) -> None:
    """Answer with the reason why the object was not made, unless it concerns only this process."""
    record = failure.record(error)
    reason = None if record is None else failure.read(record)
    if reason is not None:
        text = reason.text.encode("utf-8", "surrogatepass")[:_REASON_MAX].decode("utf-8", "ignore")
        _answer_failed(ask, _short(reason.kind), reason.errno, text)


def _short(kind: str) -> str:
    """Return the name of an exception's class in at most _KIND_MAX bytes of JSON: a name may have any characters."""
    plain = "".join(each if each.isprintable() and each not in '"\\' else "?" for each in kind)
    return plain.encode()[:_KIND_MAX].decode("utf-8", "ignore")


def _refuse(ask: Ask) -> None:
    """Answer that the pool has no room for the object: waiting processes then make it themselves, all at once."""
    _answer_failed(ask, "", None, "")


def _answer_failed(ask: Ask, kind: str, number: int | None, text: str) -> None:
    ask.answer(0, text, b"!" + json.dumps([_now(), kind, number], ensure_ascii=False).encode())


def _is_refused(name: Name, key: str, start: int) -> bool:
    """Return True if another process has found no room for the object since ``start``. Raises SourceError if one has failed to
    make it since then."""
    when, kind, number = json.loads(name.extra[1:])
    if when < start or not kind:
        return bool(when >= start)
    told = f"the process that was making {quoted(key)} failed: {kind}: {name.version}"
    raise SourceError(told) if number is None else SourceError(number, told)


def seconds(value: float, what: str = "expiry") -> float:
    """Return a number of seconds as a float. Raises ValueError, about the parameter ``what``, if it is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        raise ValueError(f"{what} must be a number of seconds, 0 or more, not {quoted(value)}")
    try:
        return float(value)
    except OverflowError:  # an int of more than 10**308
        return float("inf")


def _now() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
