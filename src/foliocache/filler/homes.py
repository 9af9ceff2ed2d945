"""Where coroutine sources are called for event loops: each source has a loop that is its home, and no thread waits for a fill.

It is foliocache's own loop (``coroutines``), or the one that the source names (``home_loop``): the sessions of an fsspec
filesystem, for example, belong to fsspec's loop. It is never the reader's loop, unless a source reads other mappings.

The steps of a miss run in the home's thread (``awaited``). They take locks of the pool, for microseconds.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import contextvars
import functools
import os
import threading
import weakref
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from .coroutines import EXIT_PATIENCE, loop_of_process
from .source import async_iterator_of

if TYPE_CHECKING:
    from .flow import Flow

T = TypeVar("T")
FILLS_MAX = 256  # fills of a home at a time; each has its folios locked
ANSWERS_MAX = 8  # answers to a loop that are kept back until those of the same turn are there, too

_homes: dict[int, Home] = {}  # this process's, by the identity of the loop, which they keep
_mail: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Mail] = weakref.WeakKeyDictionary()


def home_of(loop: asyncio.AbstractEventLoop) -> Home:
    """Return the home that a loop is."""
    home = _homes.get(id(loop))
    return home if home is not None else _homes.setdefault(id(loop), Home(loop))


def mail_to(loop: asyncio.AbstractEventLoop) -> Mail:
    """Return the Mail to a loop."""
    found = _mail.get(loop)
    return found if found is not None else _mail.setdefault(loop, Mail(loop))


def is_home(loop: asyncio.AbstractEventLoop | None = None) -> bool:
    """Return True if a loop, by default the running one, is the home of a source."""
    return id(asyncio.get_running_loop() if loop is None else loop) in _homes


class Way:
    """How a coroutine source fills a `filler.flow.Flow`: by which function, at which home."""

    def __init__(self, kind: Callable[[Any, Flow], Coroutine[Any, Any, None]], source: Any, given: Any) -> None:
        loop = getattr(given, "home_loop", None)
        self.home: Home = home_of(loop_of_process() if loop is None else loop)
        self._fill = functools.partial(kind, source)

    def begin(self, step: Callable[[], object]) -> bool:
        """See `Home.begin`."""
        return self.home.begin(step)

    def fill(self, flow: Flow) -> None:
        """In a step: start to fill a flow."""
        self.home.fill(flow, self._fill)

    @property
    def served(self) -> int:
        """How many fills have ended at this home. It grows while its sources make progress."""
        return self.home.served


async def stream(source: Callable[[int, Sequence[memoryview]], AsyncIterator[object]], flow: Flow) -> None:
    answer = async_iterator_of(source(flow.offset, flow.buffers))
    try:
        async for _ in answer:
            if not flow.full():
                break
    finally:
        if hasattr(answer, "aclose"):
            await answer.aclose()


async def read(source: Callable[[int, int], Awaitable[Any]], flow: Flow) -> None:
    flow.put(await source(flow.offset, flow.length))


async def readinto(source: Callable[[int, memoryview], Awaitable[Any]], flow: Flow) -> None:
    offset = flow.offset
    for buffer in flow.buffers:
        length = len(buffer)
        flow.check(await source(offset, buffer))
        flow.full()
        offset += length


class Mail:
    """Functions that other threads send to a loop, to be called there. The loop is woken once for all that are on the way."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._functions: deque[Callable[[], object]] = deque()
        self._is_on_the_way = False

    def send(self, *functions: Callable[[], object]) -> None:
        """Call the functions in the loop soon. Raises RuntimeError if the loop has been closed."""
        loop = self._loop()
        if loop is None or loop.is_closed():
            raise RuntimeError("the event loop has been closed")
        self._functions.extend(functions)  # before the look at the flag, which _deliver clears before it looks here
        if not self._is_on_the_way:
            self._wake(loop)

    def _wake(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            self._is_on_the_way = True
            loop.call_soon_threadsafe(self._deliver, context=contextvars.Context())
        except BaseException:
            self._is_on_the_way = False
            raise

    def _deliver(self) -> None:
        self._is_on_the_way = False
        try:
            for _ in range(len(self._functions)):
                self._functions.popleft()()
        finally:
            loop = self._loop()
            if self._functions and not self._is_on_the_way and loop is not None:  # KeyboardInterrupt, for example
                self._wake(loop)


class Home:
    """A loop, and the coroutines that run there for others. The methods from ``start`` on are called in its thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.fills: int = 0
        self.served: int = 0
        self.is_lasting: bool = False  # True for a loop that is known to run until the process ends
        self._pid = os.getpid()
        self._tasks: set[asyncio.Task[None]] = set()
        self._steps: deque[Callable[[], object]] = deque()  # that wait until there are fewer fills
        self._calls = Mail(loop)
        self._answers: dict[Mail, list[Callable[[], object]]] = {}
        self._ended = threading.Event()
        atexit.register(self.close)

    def begin(self, step: Callable[[], object]) -> bool:
        """Call ``step()`` in the loop as soon as fewer than FILLS_MAX fills are running. Return False if the loop has ended.

        A step that a source waits for does not wait for other fills.
        """
        try:
            if asyncio._get_running_loop() is self.loop:
                self.loop.call_soon(step)
            else:
                self.loop.call_soon_threadsafe(self._admit, step)
        except RuntimeError:
            return False
        return True

    async def call(self, function: Callable[..., Coroutine[Any, Any, T]], *arguments: Any) -> T:
        """Return what a coroutine returns that runs in this loop, for a task of any loop. If that is cancelled, the coroutine
        still runs to its end. Raises RuntimeError if this loop has ended."""
        coroutine = function(*arguments)
        call = _Call(self, coroutine)
        try:
            self._calls.send(call.begin)
        except BaseException:
            coroutine.close()
            raise
        del coroutine
        await call.future
        error, call.error = call.error, None
        try:
            if error is not None:
                raise error
        finally:
            error = None  # its traceback has this frame
        return cast(T, call.result)

    def answer(self, mail: Mail, function: Callable[[], object]) -> None:
        """In this loop: call ``function()`` in another loop, which is woken once for most answers of the same turn."""
        waiting = self._answers.setdefault(mail, [])
        waiting.append(function)
        is_alone = len(waiting) >= ANSWERS_MAX or len(self._tasks) <= 1
        if is_alone or not self.is_lasting or self.loop.is_closed():  # another loop may be stopped before its next turn
            self._deliver(mail)
        elif len(waiting) == 1:
            self.loop.call_soon(self._deliver, mail)

    def _deliver(self, mail: Mail) -> None:
        if functions := self._answers.pop(mail, None):
            with contextlib.suppress(RuntimeError):  # that loop has been closed
                mail.send(*functions)

    def close(self) -> None:
        """At the end of the interpreter: cancel the coroutines, and wait for their end, at most EXIT_PATIENCE seconds."""
        if self._pid == os.getpid() and self._tasks:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self.loop.call_soon_threadsafe(self._end)
                self._ended.wait(EXIT_PATIENCE)

    def start(self, coroutine: Coroutine[Any, Any, None], context: contextvars.Context | None = None) -> None:
        task = self.loop.create_task(coroutine, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def fill(self, flow: Flow, source: Callable[[Flow], Coroutine[Any, Any, None]]) -> None:
        self.fills += 1
        self.start(self._filled(flow, source))

    async def _filled(self, flow: Flow, source: Callable[[Flow], Coroutine[Any, Any, None]]) -> None:
        error: BaseException | None = None
        try:
            await source(flow)
        except BaseException as raised:
            error = raised
        try:
            flow.end_with(error)
        finally:
            error = None  # its traceback has this frame
            self.fills -= 1
            self.served += 1
            while self._steps and self.fills < FILLS_MAX:
                self._steps.popleft()()

    def _admit(self, step: Callable[[], object]) -> None:
        if self.fills < FILLS_MAX:
            step()
        else:
            self._steps.append(step)

    def _end(self) -> None:
        self._steps.clear()
        for task in self._tasks:
            task.cancel()
        self.loop.create_task(self._wait_for_all())

    async def _wait_for_all(self) -> None:
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._ended.set()


class _Call:
    """A coroutine of a home for which another loop waits."""

    def __init__(self, home: Home, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.home = home
        self.coroutine: Coroutine[Any, Any, Any] | None = coroutine
        self.context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        self.answers = mail_to(loop)
        self.future: asyncio.Future[None] = loop.create_future()
        self.result: Any = None
        self.error: BaseException | None = None

    def begin(self) -> None:
        self.home.start(self._run(), self.context)

    async def _run(self) -> None:
        coroutine, self.coroutine = self.coroutine, None  # its waiters must not keep it alive when its loop has been closed
        assert coroutine is not None
        try:
            self.result = await coroutine
        except GeneratorExit:
            self.error = RuntimeError("the event loop of the source has been closed")
        except BaseException as error:
            self.error = error
        self.home.answer(self.answers, self._wake)

    def _wake(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


os.register_at_fork(after_in_child=_homes.clear)
os.register_at_fork(after_in_child=_mail.clear)
