"""The source around a source: what a mapping's misses are filled by, if its pool has tiers.

The tiers are asked in their order, each for what those before it did not have, and the source for the rest. What a tier did not
have is offered to it as soon as it is there, before the reader is told: after that the page may be anybody's.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
from contextlib import aclosing, closing
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import SourceError
from ..filler.source import kind_of, way_of
from .behind import Credit, behind
from .claims import Claim
from .guard import Account, Guard
from .threads import in_thread
from .tier import Part

if TYPE_CHECKING:
    from ..filler.engine import Engine

BATCH = 1 << 20  # bytes that are asked of a tier at a time: readers of the first need not wait for the last
_ZEROS = bytes(1 << 20)


def around(
    guards: Sequence[Guard],
    digest: bytes,
    key: str,
    engine: Callable[[], Engine],
    given: _Given,
    account: Account | None = None,
) -> Around:
    """Return the source that asks tiers before it asks the source ``given``: read, readinto, source.

    Parameters
    ----------
    guards
        The tiers, the nearest first.
    digest
        The object at its version.
    key
        Its name, for messages.
    engine
        Returns the threads in which tiers are called for event loops.
    given
        As `Pool.mapping` is given them; one of them is not None.
    account
        Where the pool counts what tiers and source do.
    """
    read, readinto, source = given
    if way_of(read, readinto, source) is None:
        return BlockingAround(guards, digest, key, engine, given, account)
    if source is not None and hasattr(source, "read_into"):
        return EitherAround(guards, digest, key, engine, given, account)
    return AwaitedAround(guards, digest, key, engine, given, account)


_Given = tuple[Any, Any, Any]


class _Asked:
    """A call of the source: how long it takes, and what it brings. ``left``: how many buffers are not full."""

    def __init__(self, account: Account | None, kind: int, buffers: Sequence[memoryview]) -> None:
        self._account, self._kind = account, kind
        self.left = len(buffers)
        self._length = sum(map(len, buffers))  # now, since a buffer is released as soon as it is full
        self._begin = time.monotonic_ns()

    def end(self) -> None:
        """Count it; as a failure if buffers are left."""
        if self._account is not None:
            ns = time.monotonic_ns() - self._begin
            self._account.request(self._kind, ns, 0 if self.left > 0 else self._length, self.left > 0)


class Around:
    """What all have in common. Which methods a source has says how it is called, so there are three classes.

    ``failure`` and ``home_loop`` are those of the source, if it has them.
    """

    is_exact = True  # pages need not be cleared for it
    kind = "tiers"  # what it is made of counts for itself

    def __init__(
        self,
        guards: Sequence[Guard],
        digest: bytes,
        key: str,
        engine: Callable[[], Engine],
        given: _Given,
        account: Account | None = None,
    ) -> None:
        self._account = account
        self._kind = kind_of(*given)
        self._guards, self._digest, self._key, self._engine = tuple(guards), digest, key, engine
        self._read, self._readinto, self._source = given
        self._inner = next(one for one in (self._source, self._read, self._readinto) if one is not None)
        self._must_clear = self._readinto is not None or getattr(self._source, "is_exact", False) is not True

    @property
    def given(self) -> _Given:
        """The source inside: read, readinto, source."""
        return self._read, self._readinto, self._source

    def __getattr__(self, name: str) -> Any:
        if name in ("failure", "home_loop"):
            return getattr(self._inner, name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def _runs(self, guard: Guard, offset: int, buffers: Sequence[memoryview]) -> list[tuple[bool, list[Part]]]:
        """Divide buffers into runs that the tier may have, of at most BATCH bytes, and runs that it has not."""
        parts = _parts(offset, buffers)
        flags = guard.holds(self._digest, [(at, len(buffer)) for at, buffer in parts], self._account)
        runs: list[tuple[bool, list[Part]]] = []
        size = 0
        for part, flag in zip(parts, flags, strict=True):
            size += len(part[1])
            if not runs or runs[-1][0] != bool(flag) or (flag and size > BATCH):
                runs.append((bool(flag), []))
                size = len(part[1])
            runs[-1][1].append(part)
        return runs

    def _clear(self, buffers: Sequence[memoryview]) -> None:
        """Make buffers all zeros, as functions expect them."""
        if self._must_clear:
            for buffer in buffers:
                for at in range(0, len(buffer), len(_ZEROS)):
                    end = min(at + len(_ZEROS), len(buffer))
                    buffer[at:end] = _ZEROS[: end - at]

    def _spread(self, content: Any, offset: int, buffers: Sequence[memoryview]) -> Generator[object, None, None]:
        """Copy what ``read`` has returned into the buffers, and yield after each."""
        length = sum(map(len, buffers))
        at = 0
        with _bytes_of(content, self._key) as view:
            if len(view) != length:
                raise self._short(len(view), offset, length)
            for buffer in buffers:
                with view[at : at + len(buffer)] as piece:
                    buffer[:] = piece
                at += len(buffer)
                yield None

    def _check_count(self, got: Any, offset: int, length: int) -> None:
        try:
            count = got.__index__()
        except AttributeError:
            raise SourceError(
                f"the source of {self._key!r} returned {got!r}; readinto must return how many bytes it has written"
            ) from None
        if count != length:
            raise self._short(count, offset, length)

    def _short(self, got: int, offset: int, length: int) -> SourceError:
        return SourceError(
            f"the source of {self._key!r} gave {got} bytes at offset {offset} instead of {length}; "
            "has it changed since it was opened?"
        )

    def _keep(self, level: int, offset: int, data: memoryview, patience: float = 0.0) -> float:
        """Offer bytes to tier number ``level``. Return the seconds that this has waited, ``patience`` at most."""
        return behind().offer(self._guards[level], self._digest, offset, data, patience, self._account)


class _Blocking(Around):
    """A source for threads."""

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> Generator[object, None, None]:
        """See ``foliocache.sources.Source``."""
        return self._level(0, offset, buffers)

    def _level(self, level: int, offset: int, buffers: Sequence[memoryview]) -> Generator[object, None, None]:
        """Fill the buffers from tier number ``level``, from those after it, and from the source."""
        if level == len(self._guards):
            yield from self._origin(offset, buffers)
            return
        guard = self._guards[level]
        missing: list[Part] = []
        for may_have, run in self._runs(guard, offset, buffers):
            flags = guard.load(self._digest, run, self._account) if may_have else [False] * len(run)
            for had, parts in _grouped(run, flags):
                if not had:
                    missing += parts
                    continue
                if missing:
                    yield from self._missing(level, missing)
                    missing = []
                yield from (None for _ in parts)
        if missing:
            yield from self._missing(level, missing)

    def _missing(self, level: int, parts: Sequence[Part]) -> Generator[object, None, None]:
        """Fill parts in a row that tier number ``level`` has not, unless another machine is doing that: then wait for it."""
        guard = self._guards[level]
        if not guard.lease:
            yield from self._deeper(level, parts)
            return
        claim = Claim(parts, guard.piece, guard.lease)
        while waiting := claim.waiting():
            granted: Sequence[bool] = [True] * len(waiting)
            if not claim.is_late:
                granted = guard.claim(self._digest, claim.spans(waiting))
            for run in claim.runs(waiting, granted):
                with _released(claim.views(run)) as views:
                    for number, _ in enumerate(self._deeper(level, views)):
                        views[number][1].release()
                        yield from claim.fill(run[number])
            if waiting := claim.waiting():
                time.sleep(claim.pause())
                with _released(claim.views([[n] for n in waiting])) as views:
                    flags = guard.load(self._digest, views, self._account, again=True)
                for number, had in zip(waiting, flags, strict=True):
                    if had:
                        yield from claim.fill([number])

    def _deeper(self, level: int, parts: Sequence[Part]) -> Generator[object, None, None]:
        offset, buffers = parts[0][0], [buffer for _, buffer in parts]
        length = sum(map(len, buffers))
        count = 0
        credit = Credit()
        with closing(self._level(level + 1, offset, buffers)) as answer:
            for _ in answer:
                if count == len(parts):
                    break
                credit.fetched()
                credit.spent(self._keep(level, *parts[count], credit.seconds))
                count += 1
                yield None
                credit.go_on()
        if count < len(parts):
            raise self._short(parts[count][0] - offset, offset, length)

    def _origin(self, offset: int, buffers: Sequence[memoryview]) -> Generator[object, None, None]:
        asked = _Asked(self._account, self._kind, buffers)
        try:
            with closing(self._ask(offset, buffers)) as answer:
                for _ in answer:
                    asked.left -= 1
                    yield None
        finally:
            asked.end()

    def _ask(self, offset: int, buffers: Sequence[memoryview]) -> Generator[object, None, None]:
        if self._source is not None:
            self._clear(buffers)
            yield from self._source.read_into(offset, buffers)
        elif self._read is not None:
            yield from self._spread(self._read(offset, sum(map(len, buffers))), offset, buffers)
        else:
            self._clear(buffers)
            for at, buffer in _parts(offset, buffers):
                self._check_count(self._readinto(at, buffer), at, len(buffer))
                yield None


class _Awaited(Around):
    """A source for event loops. Tiers are called in threads of the engine."""

    def read_into_async(self, offset: int, buffers: Sequence[memoryview]) -> AsyncGenerator[object, None]:
        """See ``foliocache.sources.AsyncSource``."""
        return self._level_async(0, offset, buffers)

    async def _level_async(self, level: int, offset: int, buffers: Sequence[memoryview]) -> AsyncGenerator[object, None]:
        if level == len(self._guards):
            async with aclosing(self._origin_async(offset, buffers)) as answer:
                async for _ in answer:
                    yield None
            return
        guard = self._guards[level]
        missing: list[Part] = []
        for may_have, run in self._runs(guard, offset, buffers):
            flags: Sequence[bool] = [False] * len(run)
            if may_have:
                flags = await self._load(guard, run)
            for had, parts in _grouped(run, flags):
                if not had:
                    missing += parts
                    continue
                async with aclosing(self._missing_async(level, missing)) as answer:
                    async for _ in answer:
                        yield None
                missing = []
                for _ in parts:
                    yield None
        async with aclosing(self._missing_async(level, missing)) as answer:
            async for _ in answer:
                yield None

    async def _missing_async(self, level: int, parts: Sequence[Part]) -> AsyncGenerator[object, None]:
        guard = self._guards[level]
        if not parts:
            return
        if not guard.lease:
            async with aclosing(self._deeper_async(level, parts)) as answer:
                async for _ in answer:
                    yield None
            return
        claim = Claim(parts, guard.piece, guard.lease)
        while waiting := claim.waiting():
            granted: Sequence[bool] = [True] * len(waiting)
            if not claim.is_late:
                asked = partial(guard.claim, self._digest, claim.spans(waiting))
                granted = await in_thread(self._engine(), asked, granted)
            for run in claim.runs(waiting, granted):
                with _released(claim.views(run)) as views:
                    following = iter(zip(run, views, strict=True))
                    async with aclosing(self._deeper_async(level, views)) as answer:
                        async for _ in answer:
                            group, (_, view) = next(following)
                            view.release()
                            for each in claim.fill(group):
                                yield each
            if waiting := claim.waiting():
                await asyncio.sleep(claim.pause())
                with _released(claim.views([[n] for n in waiting])) as views:
                    flags = await self._load(guard, views, again=True)
                for number, had in zip(waiting, flags, strict=True):
                    if had:
                        for each in claim.fill([number]):
                            yield each

    async def _load(self, guard: Guard, run: Sequence[Part], *, again: bool = False) -> Sequence[bool]:
        return await in_thread(
            self._engine(), partial(guard.load, self._digest, run, self._account, again=again), [False] * len(run)
        )

    async def _deeper_async(self, level: int, parts: Sequence[Part]) -> AsyncGenerator[object, None]:
        offset, buffers = parts[0][0], [buffer for _, buffer in parts]
        length = sum(map(len, buffers))
        count = 0
        credit = Credit()
        async with aclosing(self._level_async(level + 1, offset, buffers)) as answer:
            async for _ in answer:
                if count == len(parts):
                    break
                credit.fetched()
                if behind().is_full and credit.seconds > 0:
                    keep = partial(self._keep, level, *parts[count], credit.seconds)
                    credit.spent(await in_thread(self._engine(), keep, 0.0))
                else:
                    self._keep(level, *parts[count])
                count += 1
                yield None
                credit.go_on()
        if count < len(parts):
            raise self._short(parts[count][0] - offset, offset, length)

    async def _origin_async(self, offset: int, buffers: Sequence[memoryview]) -> AsyncGenerator[object, None]:
        asked = _Asked(self._account, self._kind, buffers)
        try:
            async with aclosing(self._ask_async(offset, buffers)) as answer:
                async for _ in answer:
                    asked.left -= 1
                    yield None
        finally:
            asked.end()

    async def _ask_async(self, offset: int, buffers: Sequence[memoryview]) -> AsyncGenerator[object, None]:
        if self._source is not None:
            self._clear(buffers)
            answer = self._source.read_into_async(offset, buffers)
            try:
                async for _ in answer:
                    yield None
            finally:
                if hasattr(answer, "aclose"):
                    await answer.aclose()
        elif self._read is not None:
            for _ in self._spread(await self._read(offset, sum(map(len, buffers))), offset, buffers):
                yield None
        else:
            self._clear(buffers)
            for at, buffer in _parts(offset, buffers):
                self._check_count(await self._readinto(at, buffer), at, len(buffer))
                yield None


class BlockingAround(_Blocking):
    """Around a source for threads."""


class AwaitedAround(_Awaited):
    """Around a coroutine source."""


class EitherAround(_Blocking, _Awaited):
    """Around a source for both."""


@contextlib.contextmanager
def _released(views: list[Part]) -> Iterator[list[Part]]:
    """Release views at the end of a ``with``."""
    try:
        yield views
    finally:
        for _, view in views:
            view.release()


def _parts(offset: int, buffers: Sequence[memoryview]) -> list[Part]:
    """Return buffers with their offsets; at once, since a buffer is released as soon as it is full."""
    parts = []
    for buffer in buffers:
        parts.append((offset, buffer))
        offset += len(buffer)
    return parts


def _grouped(run: list[Part], flags: Sequence[bool]) -> Iterator[tuple[bool, list[Part]]]:
    """Divide a run where the flag changes."""
    begin = 0
    for end in range(1, len(run) + 1):
        if end == len(run) or bool(flags[end]) != bool(flags[begin]):
            yield bool(flags[begin]), run[begin:end]
            begin = end


def _bytes_of(content: Any, key: str) -> memoryview:
    """Return the bytes of a source's answer. Raises SourceError if it has none."""
    try:
        view = memoryview(content)
    except TypeError:
        raise SourceError(f"the source of {key!r} returned {type(content).__name__}, not a bytes-like object") from None
    except Exception:  # a format that a memoryview does not have, such as that of NumPy's dates
        try:
            return memoryview(b"".join([content]))
        except Exception as error:
            raise SourceError(
                f"the source of {key!r} returned {type(content).__name__} whose bytes cannot be had: {error}"
            ) from error
    if "O" in view.format:
        raise SourceError(f"the source of {key!r} returned {type(content).__name__} of Python objects, not bytes")
    return view.cast("B") if view.c_contiguous and view.nbytes else memoryview(view.tobytes())
