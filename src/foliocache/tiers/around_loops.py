"""A source around a source that event loops await."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import partial

from ..filler.source import async_iterator_of
from .around_base import Around, Asked, grouped, parts_of, released
from .behind import Credit, behind
from .claims import Claim
from .guard import Guard
from .threads import in_thread
from .tier import Part


class Awaited(Around):
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
            for had, parts in grouped(run, flags):
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
        try:
            async with aclosing(self._claimed_async(level, guard, claim)) as answer:
                async for _ in answer:
                    yield None
        finally:
            self._unclaim(level, claim)

    async def _claimed_async(self, level: int, guard: Guard, claim: Claim) -> AsyncGenerator[object, None]:
        """Fill parts, each piece from where it can be had: from the tier, if another machine has fetched it."""
        while waiting := claim.waiting():
            granted: Sequence[bool] = [True] * len(waiting)
            if not claim.is_late:
                asked = partial(guard.claim, self._digest, claim.spans(waiting))
                granted = await in_thread(self._engine(), asked, granted)
                claim.granted(waiting, granted)
            for run in claim.runs(waiting, granted):
                with released(claim.views(run)) as views:
                    following = iter(zip(run, views, strict=True))
                    async with aclosing(self._deeper_async(level, views)) as answer:
                        async for _ in answer:
                            group, (_, view) = next(following)
                            view.release()
                            for each in claim.fill(group):
                                yield each
            if waiting := claim.waiting():
                await asyncio.sleep(claim.pause())
                with released(claim.views([[n] for n in waiting])) as views:
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
        credit = Credit(self._guards[level])
        async with aclosing(self._level_async(level + 1, offset, buffers)) as answer:
            async for _ in answer:
                if count == len(parts):
                    break
                credit.fetched()
                at, buffer = parts[count]
                if behind(self._guards[level]).is_full and credit.seconds > 0:
                    offer = partial(self._offer, level, at, buffer, credit, may_wait=True)
                    promise = await in_thread(self._engine(), offer, None)
                else:
                    promise = self._offer(level, at, buffer, credit, may_wait=False)
                count += 1
                try:
                    yield None
                finally:  # after the last one there may be no other step
                    if promise is not None:
                        self._keep(promise, buffer)
                credit.go_on()
        if count < len(parts):
            raise self._short(parts[count][0] - offset, offset, length)

    async def _origin_async(self, offset: int, buffers: Sequence[memoryview]) -> AsyncGenerator[object, None]:
        asked = Asked(self._account, self._kind, buffers)
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
            answer = async_iterator_of(self._source.read_into_async(offset, buffers))
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
            for at, buffer in parts_of(offset, buffers):
                self._check_count(await self._readinto(at, buffer), at, len(buffer))
                yield None
