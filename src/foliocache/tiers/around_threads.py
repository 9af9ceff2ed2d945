"""A source around a source that is called by threads."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import closing

from ..filler.source import iterator_of
from .around_base import Around, Asked, grouped, parts_of, released
from .behind import Credit
from .claims import Claim
from .guard import Guard
from .tier import Part


class Blocking(Around):
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
            for had, parts in grouped(run, flags):
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
        try:
            yield from self._claimed(level, guard, claim)
        finally:
            self._unclaim(level, claim)

    def _claimed(self, level: int, guard: Guard, claim: Claim) -> Generator[object, None, None]:
        """Fill parts, each piece from where it can be had: from the tier, if another machine has fetched it."""
        while waiting := claim.waiting():
            granted: Sequence[bool] = [True] * len(waiting)
            if not claim.is_late:
                granted = guard.claim(self._digest, claim.spans(waiting))
                claim.granted(waiting, granted)
            for run in claim.runs(waiting, granted):
                with released(claim.views(run)) as views:
                    for number, _ in enumerate(self._deeper(level, views)):
                        views[number][1].release()
                        yield from claim.fill(run[number])
            if waiting := claim.waiting():
                time.sleep(claim.pause())
                with released(claim.views([[n] for n in waiting])) as views:
                    flags = guard.load(self._digest, views, self._account, again=True)
                for number, had in zip(waiting, flags, strict=True):
                    if had:
                        yield from claim.fill([number])

    def _deeper(self, level: int, parts: Sequence[Part]) -> Generator[object, None, None]:
        offset, buffers = parts[0][0], [buffer for _, buffer in parts]
        length = sum(map(len, buffers))
        count = 0
        credit = Credit(self._guards[level])
        with closing(self._level(level + 1, offset, buffers)) as answer:
            for _ in answer:
                if count == len(parts):
                    break
                credit.fetched()
                at, buffer = parts[count]
                promise = self._offer(level, at, buffer, credit, may_wait=True)
                count += 1
                try:
                    yield None
                finally:  # after the last one there may be no other step
                    if promise is not None:
                        self._keep(promise, buffer)
                credit.go_on()
        if count < len(parts):
            raise self._short(parts[count][0] - offset, offset, length)

    def _origin(self, offset: int, buffers: Sequence[memoryview]) -> Generator[object, None, None]:
        asked = Asked(self._account, self._kind, buffers)
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
            yield from iterator_of(self._source.read_into(offset, buffers))
        elif self._read is not None:
            yield from self._spread(self._read(offset, sum(map(len, buffers))), offset, buffers)
        else:
            self._clear(buffers)
            for at, buffer in parts_of(offset, buffers):
                self._check_count(self._readinto(at, buffer), at, len(buffer))
                yield None
