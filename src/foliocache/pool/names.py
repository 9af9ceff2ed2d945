"""Names: which object a key means now. One process of the machine asks the origin, and all use the answer.

The core's part, and what happens when several processes ask at once, is in ``mm.names``. Here a name is found by a key and by
``who``, the account for which it is asked, since the answer may differ between accounts. Forgetting is for all accounts.

Times are those of CLOCK_BOOTTIME. All processes of the machine share this clock, it cannot be set, and it goes on while the
machine sleeps, so an answer's age is right afterwards. It restarts when the machine boots, and so does a pool.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
import struct
import threading
import time
from collections.abc import Callable, Generator, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeAlias, TypeVar

from ..mm import layout
from ..mm.audit import readable
from ..observe.records import NameInfo
from ..sizes import quoted
from .mapping import _cut, _plain
from .question import Known, NameTable, Question

if TYPE_CHECKING:
    from ..filler.awaiting import Tell
    from .pool import Pool

T = TypeVar("T")
_Steps: TypeAlias = "Generator[int | Ask, bool | None, None]"

_WORDS = struct.Struct("<QQQQ")  # key, state, since, size
_RECORD = struct.Struct("<QQQ")  # state, since, size
_DIGEST = struct.Struct("<QQ")
_TEXT = layout.NAME_TEXT - layout.NAME_KEY
_DATA = layout.NAME_DATA - layout.NAME_KEY
_ROUNDS = 8  # how often an answer may be replaced while it is read
_SECOND = 1_000_000_000
EXTRA_MAX = 192  # bytes


class Name(NamedTuple):
    """What a key means.

    Parameters
    ----------
    exists
        False if there is no such object; the rest is empty then.
    size
        Bytes.
    version
        As of :meth:`Pool.mapping`.
    extra
        Bytes that the client that asked has added to the answer.
    asked
        When the question was asked whose answer this is: CLOCK_BOOTTIME, in nanoseconds.
    """

    exists: bool
    size: int = 0
    version: str = ""
    extra: bytes = b""
    asked: int = 0

    @property
    def age(self) -> float:
        """Seconds since the question was asked."""
        return (_now() - self.asked) / _SECOND


class Names:
    """The names of a pool; ``Pool.names``. Threads, forked children and signal handlers may use it."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._attachment = pool._attachment
        self._table = NameTable(self._attachment, pool._asking)

    def recall(self, key: str, max_age: float, *, who: str = "") -> Name | None:
        """Return what the key means, if the question for it was asked less than ``max_age`` seconds ago, else None.

        Raises
        ------
        FoliocacheError
            The pool has been closed.
        """
        return self._recall(_Digest(key, who), _oldest(_now(), max_age))

    def ask(self, key: str, max_age: float = 0.0, *, who: str = "") -> Ask:
        """Return a question. The caller has to answer it, unless its ``known`` has the answer already.

        If another process or thread has been asking for the same name, for less than ``max_age`` seconds, this waits for that
        answer, at most ``fill_timeout`` seconds. If that question fails or the process that asked dies, the caller has to
        answer this one. With a ``max_age`` of 0 the caller always has to answer.

        Use it as a context manager: a question that ends without an answer is withdrawn.

        Raises
        ------
        FoliocacheError
            The pool has been closed.
        """
        name = _Digest(key, who)
        with contextlib.closing(self._steps(name, max_age, threading.get_ident())) as steps:
            step = next(steps)
            while not isinstance(step, Ask):
                step = steps.send(self._table.wait(*name.words, step))
            return step

    async def ask_async(self, key: str, max_age: float = 0.0, *, who: str = "") -> Ask:
        """Return a question as :meth:`ask` does, for event loops. Tasks of one loop wait for each other as processes do.

        Use it as an asynchronous context manager.

        Raises
        ------
        FoliocacheError
            The pool has been closed, also while this waits.
        """
        asyncio, outcome, is_home = _awaiting()
        name = _Digest(key, who)
        loop = asyncio.get_running_loop()  # once: each time, it asks the kernel for the process's number
        at_home = is_home(loop)
        if not at_home and self._attachment.joined:
            known = self._recall(name, _oldest(_now(), max_age))
            if known is not None:
                return Ask(known)
        steps = self._steps(name, max_age, -id(asyncio.current_task(loop)))  # no thread has such a number
        step: Ask | bool | None = None
        try:
            if at_home:
                first = next(steps)  # takes locks of the pool, for microseconds
                if isinstance(first, Ask):
                    return first
                step = await outcome(self._pool.engine, functools.partial(self._doze, name), is_short=True)
            while not isinstance(step, Ask):
                step = await outcome(self._pool.engine, functools.partial(self._step, steps, name, step), is_short=True)
            return step
        finally:
            del steps  # it has the question, and this frame may live long, in the traceback of a task that was cancelled

    def _step(self, steps: _Steps, name: _Digest, has_waited: bool | None, tell: Tell[Ask | bool]) -> None:
        """In another thread: run ``steps`` up to the question, or to the end of a wait, and pass that to ``tell``."""
        step = steps.send(has_waited)
        if isinstance(step, Ask):
            tell(step)
        else:
            self._doze(name, tell)

    def _doze(self, name: _Digest, tell: Tell[Any]) -> None:
        """Pass True to ``tell`` after a wait for another client's question, or False if there is none."""
        if not self._table.doze(*name.words, tell):
            tell(False)

    def _steps(self, name: _Digest, max_age: float, asker: int) -> _Steps:
        """Yield how many nanoseconds to wait for another client's question, and receive True if there was one; at the end,
        yield the Ask. asker: a number of the thread or the task that asks."""
        start = _now()
        oldest = _oldest(start, max_age)
        deadline = start + int(self._pool.fill_timeout * _SECOND)
        mine = self._attachment.epoch, asker, name.digest
        nested = mine in self._pool._asking
        for _ in range(_ROUNDS):
            known = self._recall(name, oldest)
            if known is not None:
                yield Ask(known)
            if nested:  # waiting for its own answer would take the whole timeout
                break
            question = self._table.begin(*name.words, _now(), oldest, name.text, mine)
            while question == layout.NAME_TAKEN:
                now = _now()
                if now >= deadline:
                    oldest = now + 2 * layout.NAME_AHEAD_NS  # later than every answer: this client asks, too
                elif (yield deadline - now):
                    known = self._recall(name, oldest)
                    if known is not None:
                        yield Ask(known)
                question = self._table.begin(*name.words, _now(), oldest, name.text, mine)
            if not isinstance(question, int):
                yield Ask(None, question, self._pool)
            if question != layout.NAME_FRESH:
                break
        yield Ask(None)

    def is_asked(self, key: str, *, who: str = "") -> bool:
        """Return True if a living process asks now what the key means.

        Raises
        ------
        FoliocacheError
            The pool has been closed.
        """
        return self._table.wait(*_words(key, who), 0)

    def known(self, key: str, who: str) -> Known:
        """Return what looks a name up again and again. Raises ValueError if key or who is not a string."""
        return self._table.known(*_Digest(key, who).words)

    def read(self, record: bytes) -> Name | None:
        """Return the answer in a record of :meth:`Known.look`; None if it has none."""
        state, since, size = _RECORD.unpack_from(record)
        return _answer(state, since, size, record[_RECORD.size :])

    def forget(self, key: str) -> None:
        """Forget what the key means, for all accounts. The answer to a question that has been asked already is not recorded.

        A process that changes what the key means calls this after the change.

        Raises
        ------
        FoliocacheError
            The pool has been closed; or the name could not be forgotten, because a process that has stopped holds a lock.
        """
        self._table.forget(_Digest(key, "").key)

    def forget_below(self, prefix: str) -> None:
        """Forget all keys that begin with ``prefix``, and those whose kept text was cut before the end of it. Raises what
        :meth:`forget` raises."""
        wanted = _plain(prefix, "prefix").encode("utf-8", "surrogatepass")
        n = 0
        while (found := self._table.next_below(n, wanted)) is not None:
            self._table.forget(_WORDS.unpack_from(found[1])[0])
            n = found[0] + 1

    def list(self) -> list[NameInfo]:
        """Return all names, in no particular order."""
        now, names = _now(), []
        for found in self._all():
            name, key = _name(found), readable(_text(found, _WORDS.unpack_from(found)[1]))
            if name is None:
                names.append(NameInfo(key, None, 0, "", 0, None))
            else:
                age = max(0, now - name.asked) / _SECOND
                names.append(NameInfo(key, name.exists, name.size, name.version, len(name.extra), age))
        return names

    def _all(self) -> Iterator[bytes]:
        n = 0
        while (found := self._table.next(n)) is not None:
            yield found[1]
            n = found[0] + 1

    def _recall(self, name: _Digest, oldest: int) -> Name | None:
        found = self._table.lookup(*name.words)
        known = None if found is None else _name(found)
        return known if known is not None and oldest <= known.asked <= _now() else None


class Ask:
    """A question for which object a key means. Made by :meth:`Names.ask`.

    ``known`` is the answer, if there is one already. If it is None, the caller asks the origin and passes the answer to
    `answer` or `answer_absent`; it is recorded unless the name was forgotten meanwhile, or the pool has no room.
    """

    def __init__(self, known: Name | None, question: Question | None = None, pool: Pool | None = None) -> None:
        self.known = known
        self._question = question
        self._pool = pool

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.withdraw()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is GeneratorExit:  # the coroutine is being closed, and can await nothing
            self.withdraw()
        else:
            await self._in_engine(self.withdraw)

    async def answer_async(self, size: int, version: str = "", extra: bytes = b"") -> bool:
        """Do what :meth:`answer` does, without blocking the event loop."""
        return await self._in_engine(functools.partial(self.answer, size, version, extra))

    async def answer_absent_async(self) -> bool:
        """Do what :meth:`answer_absent` does, without blocking the event loop."""
        return await self._in_engine(self.answer_absent)

    async def _in_engine(self, function: Callable[[], T]) -> T:
        """Call a function that takes a lock of the pool, in a thread of the engine; here, if there is no question to end."""
        if self._question is None or self._pool is None or self._pool.closed:
            return function()
        from ..filler.awaiting import in_engine

        return await in_engine(self._pool.engine, function)

    def answer(self, size: int, version: str = "", extra: bytes = b"") -> bool:
        """Answer the question: the key means this object. Return True if the answer is recorded.

        An answer whose version and ``extra`` together are too long is not recorded.

        Raises
        ------
        ValueError
            ``extra`` has more than 192 bytes, or the size is negative.
        """
        if len(extra) > EXTRA_MAX:
            raise ValueError(f"extra has {EXTRA_MAX} bytes at most, not {len(extra)}")
        if not 0 <= size < 1 << 64:
            raise ValueError(f"size must be a number of bytes, not {quoted(size)}")
        return self._say(layout.NAME_PRESENT, size, _plain(version, "version").encode("utf-8", "surrogatepass"), bytes(extra))

    def answer_absent(self) -> bool:
        """Answer the question: there is no such object. Return True if the answer is recorded."""
        return self._say(layout.NAME_ABSENT, 0, b"", b"")

    def withdraw(self) -> None:
        """End the question without an answer, unless it has one. A client that waits for the answer then asks the origin
        itself."""
        question, self._question = self._question, None
        if question is not None:
            question.withdraw()

    def _say(self, state: int, size: int, version: bytes, extra: bytes) -> bool:
        data = version + extra
        remembered = False
        if self._question is not None and len(data) <= layout.NAME_DATA_MAX:
            state |= len(version) << layout.NAME_VERSION_SHIFT | len(extra) << layout.NAME_EXTRA_SHIFT
            remembered = self._question.answer(state, size, data + bytes(-len(data) % 8))
        self.withdraw()
        return remembered


class _Digest:
    """The digests by which a name is found: of the key and the account, and of the key alone."""

    __slots__ = ("digest", "key", "text", "words")

    def __init__(self, key: str, who: str) -> None:
        encoded = _plain(key, "key").encode("utf-8", "surrogatepass")
        asker = _plain(who, "who").encode("utf-8", "surrogatepass")
        name = hashlib.blake2b(len(encoded).to_bytes(8, "little") + encoded + asker, digest_size=16)
        self.digest: bytes = name.digest()
        self.key: int = int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest(), "little")
        self.words: tuple[int, int, int] = (self.key, *_DIGEST.unpack(self.digest))
        self.text: bytes = _cut(key, layout.NAME_TEXT_MAX)


@functools.lru_cache(1024)
def _words(key: str, who: str) -> tuple[int, int, int]:
    """Return the digests of a name that is asked about again and again: to compute them takes ten times as long as to look."""
    return _Digest(key, who).words


@functools.cache
def _awaiting() -> tuple[Any, Any, Any]:
    """Return what needs asyncio, whose import takes longer than all of foliocache."""
    import asyncio

    from ..filler.awaiting import outcome
    from ..filler.homes import is_home

    return asyncio, outcome, is_home


def _now() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _oldest(now: int, max_age: float) -> int:
    """Return the time from which on a question must have been asked for its answer to be used. Raises ValueError."""
    if isinstance(max_age, bool) or not isinstance(max_age, (int, float)) or not max_age >= 0:
        raise ValueError(f"max_age must be a number of seconds, 0 or more, not {quoted(max_age)}")
    if max_age == 0:
        return now + 2 * layout.NAME_AHEAD_NS  # later than every question, also one that begins at this moment
    return 0 if math.isinf(max_age) else max(0, now - int(min(max_age, now / _SECOND) * _SECOND) + 1)


def _name(found: bytes) -> Name | None:
    """Return the answer in a copy of a record; None if it has none."""
    _, state, since, size = _WORDS.unpack_from(found)
    return _answer(state, since, size, found[_DATA:])


def _answer(state: int, since: int, size: int, data: bytes) -> Name | None:
    kind = state & layout.NAME_STATE_MASK
    if kind == layout.NAME_ABSENT:
        return Name(False, asked=since)
    if kind != layout.NAME_PRESENT:
        return None
    version = state >> layout.NAME_VERSION_SHIFT & layout.NAME_LENGTH_MASK
    extra = state >> layout.NAME_EXTRA_SHIFT & layout.NAME_LENGTH_MASK
    return Name(True, size, readable(data[:version]), data[version : version + extra], since)


def _text(found: bytes, state: int) -> bytes:
    return found[_TEXT : _TEXT + min(state >> layout.NAME_TEXT_SHIFT, layout.NAME_TEXT_MAX)]
