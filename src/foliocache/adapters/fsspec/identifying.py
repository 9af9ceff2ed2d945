"""The identities of paths: what is remembered of them, and the questions to the origin.

A question is written once, as a generator that yields its steps (`Steps`). For calls from threads, each step is a function that
waits. For event loops, the question is asked in the target's own loop, and its steps are awaited there: no thread waits for the
origin, or for another process that asks the same.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Awaitable, Generator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import fsspec

from foliocache.errors import FoliocacheError
from foliocache.sizes import parse_size

from . import fork
from .answers import says_absent
from .identities import Identities, shared, unshared
from .ranges import Want, first_wanted, no_path
from .target import Identity, Target

if TYPE_CHECKING:
    from foliocache.pool.names import Ask, Names

    from .targets.base import First

ATTEMPTS = 3  # to read an object while it changes, or through a pool while it is closed

# Yields (function of this class or of the target, its arguments), and receives what that returns or raises.
Steps = Generator[tuple[Any, ...], Any, Identity]


class Identifying:
    """The part of FolioFileSystem that knows which object a path is now."""

    if TYPE_CHECKING:
        _pool: Any
        _names_of_pool: tuple[Any, Names] | None
        _target: Target
        _trust: float
        _who: str
        _identities: Identities
        _mapping_options: dict[str, Any]

        @property
        def fs(self) -> Any: ...
        @property
        def target(self) -> Target: ...
        @property
        def pool(self) -> Any: ...
        def _existing_pool(self) -> Any: ...

    @property
    def _names(self) -> Names:
        """The names of the pool."""
        pool = self.pool
        names = self._names_of_pool
        if names is None or names[0] is not pool:
            self._names_of_pool = names = pool, pool.names
        return names[1]

    def _identify(self, path: str, want: Want | None = None) -> Identity:
        """Return the identity of the object at the path. want: the range that will be read; it may be fetched by the same
        request, if the identity is not known yet."""
        identity = self._remembered(path)
        if identity is not None:
            return identity
        for attempt in range(1, ATTEMPTS + 1):
            pool = self._pool
            try:
                return self._identify_here(path, want)
            except FoliocacheError:
                if attempt == ATTEMPTS or not self._has_lost(pool):
                    raise
        raise AssertionError("unreachable")

    def _identify_here(self, path: str, want: Want | None) -> Identity:
        """Ask for the identity of a path, in this thread."""
        refuse_at_the_end(self.target.fs)
        steps, answer = self._identifying(path, want), None
        try:
            step = next(steps)
            while True:
                try:
                    answer = self._asked(*step)
                except BaseException as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as end:
            found: Identity = end.value
            return found

    def _asked(self, what: str, *arguments: Any) -> Any:
        """Make one step of a question, in this thread."""
        if what == "name":
            return self._names.ask(*arguments, who=self._who)
        return getattr(self.target, what)(*arguments)

    async def _identify_there(self, path: str, want: Want | None, firsts: list[First] | None) -> Identity:
        """Do what `_identify` does, in the loop of a target that `awaits`."""
        steps, answer = self._identifying(path, want, firsts), None
        try:
            step = next(steps)
            while True:
                try:
                    answer = await self._asked_there(*step)
                except BaseException as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as end:
            found: Identity = end.value
            return found

    def _asked_there(self, what: str, *arguments: Any) -> Awaitable[Any]:
        if what == "name":
            return self._names.ask_async(*arguments, who=self._who)
        answer: Awaitable[Any] = getattr(self.target, f"{what}_async")(*arguments)
        return answer

    async def _identify_async(self, path: str, want: Want | None = None) -> Identity:
        """Do what `_identify` does, in any event loop."""
        return self._remembered(path) or await self._asked_async(path, want)

    async def _asked_async(self, path: str, want: Want | None, firsts: list[First] | None = None) -> Identity:
        """Return the identity of a path of which none is remembered. firsts: gets the first bytes, too, if the same request
        fetched them."""
        if not self.target.awaits:
            from foliocache.filler.awaiting import in_thread

            return await in_thread(self._identify, path, want)
        if self._pool is None or self._pool.closed:
            from foliocache.filler.awaiting import in_thread

            await in_thread(self._has_pool)  # making a pool takes long
        for attempt in range(1, ATTEMPTS + 1):
            pool = self._pool
            try:
                return await self.target.home.call(self._identify_there, path, want, firsts)
            except FoliocacheError:
                if attempt == ATTEMPTS or not self._has_lost(pool):
                    raise
        raise AssertionError("unreachable")

    def _identifying(self, path: str, want: Want | None, firsts: list[First] | None = None) -> Steps:
        asks_with_bytes = want is not None and self.target.tells_with_bytes
        if self._identities.is_written(path) or not (self._trust or (asks_with_bytes and self._has_pool())):
            return (yield from self._asking(path, None))
        key = self.target.key(path)
        last = self._last_here(path) if asks_with_bytes else None
        ask: Ask = yield "name", key, self._trust or (math.inf if last is None else 0.0)
        with ask:
            if ask.known is None:
                if last is None and asks_with_bytes and 0 < self._trust < math.inf:
                    last = self._last_known(path)
                return (yield from self._asking(path, key, ask, want, last, firsts))
            if self._trust:
                return unshared(path, ask.known)
        if not ask.known.exists:
            return (yield from self._asking(path, None))
        last = unshared(path, ask.known)  # pages of it may be cached, so the question is without bytes
        ask = yield "name", key, 0.0
        with ask:
            return (yield from self._asking(path, key, ask, want, last, firsts))

    def _asking(
        self,
        path: str,
        key: str | None,
        ask: Ask | None = None,
        want: Want | None = None,
        last: Identity | None = None,
        firsts: list[First] | None = None,
    ) -> Steps:
        """Ask the origin for the identity. The answer is recorded in the pool if ``ask`` is given and it fits there, else in
        this process. key: of the path in the pool, if bytes are wanted with the answer."""
        question = self._identities.ask(path, self._who)
        try:
            identity = yield from self._answering(path, key, want, last, firsts)
        except FileNotFoundError as error:
            if ask is not None and 0 < self._trust < math.inf and says_absent(error):
                ask.answer_absent()
            raise
        answer = None if self._identities.is_written(path) else shared(identity)
        if ask is None or answer is None or not ask.answer(*answer):
            question.identity = identity
        else:
            self._identities.drop(path, self._who, question)
        return identity

    def _answering(
        self, path: str, key: str | None, want: Want | None, last: Identity | None, firsts: list[First] | None
    ) -> Steps:
        """Return the identity from the origin. If no last identity is known, the same request fetches the first bytes;
        otherwise pages may be cached already."""
        if last is None:
            found = yield from self._first(path, key, want, firsts)
            return found or (yield "identify", path)
        identity: Identity = yield "identify", path
        if identity.etag and identity.etag == last.etag and identity.size != last.size:  # one of them is wrong: ask with bytes
            return (yield from self._first(path, key, want, firsts)) or identity
        return identity

    def _first(
        self, path: str, key: str | None, want: Want | None, firsts: list[First] | None
    ) -> Generator[tuple[Any, ...], Any, Identity | None]:
        """Fetch the first of the wanted bytes, put them into the pool, and return the identity that the response proves; None
        if it proves none."""
        if key is None or want is None or not self.target.tells_with_bytes:
            return None
        pool = self.pool
        wanted = first_wanted(*want, self._least_folio(pool))
        if not wanted or pool.tiers:  # a tier may have the bytes
            return None
        first: First | None = yield "first", path, *wanted
        if not first or not first.identity.cacheable:
            return None
        if firsts is not None:
            firsts.append(first)
        identity = first.identity
        with suppress(FoliocacheError):  # the pool is closed, for example: the read will raise
            options = self._mapping_options | {"read": first.read, "readahead": 0}
            mapping = self.pool.mapping(key, identity.size or 0, identity.version, **options)
            for piece in mapping.pieces(*first.whole(mapping.folio_size or mapping.unit_size)):
                piece.release()
        return identity

    def _has_lost(self, pool: Any) -> bool:
        """Return True if this pool, or the one that was opened since there was none, has been closed: the whole process shares
        them, so a question starts again."""
        used = self._pool if pool is None else pool
        return used is not None and bool(used.closed)

    def _has_pool(self) -> bool:
        """Return True if there is a pool, or one can be made. Uncached reads work without one."""
        try:
            return not self.pool.closed
        except (FoliocacheError, OSError):
            return False

    def _last_known(self, path: str) -> Identity | None:
        """Return the last known identity of the path in the pool, of whatever age, or None: pages of that version may be
        cached."""
        name = self.pool.names.recall(self.target.key(path), math.inf, who=self._who)
        return unshared(path, name) if name is not None and name.exists else None

    def _last_here(self, path: str) -> Identity | None:
        """Return the last identity that this process remembers because the pool does not, or None."""
        identity = self._identities.recall(path, self._who, math.inf)
        return None if identity is None or identity.nonce else identity

    def _remembered(self, path: str) -> Identity | None:
        """Return the remembered identity of the path, without waiting; None if the origin must be asked. Raises
        FileNotFoundError, TypeError."""
        if not isinstance(path, str):  # it would be remembered, and stand in the way of every write
            raise no_path(path)
        identity = self._identities.recall(path, self._who, self._trust)
        if identity is not None or not self._trust or self._identities.is_written(path):
            return identity
        if self._pool is None or self._pool.closed or self._target.pid != fork.pid:
            return None
        try:
            name = self._pool.names.recall(self._target.key(path), self._trust, who=self._who)
        except FoliocacheError:  # another thread has closed the pool
            return None
        return None if name is None else unshared(path, name)

    def _is_remembered(self, path: str, want: Want | None = None) -> bool:
        try:
            return self._remembered(path) is not None
        except FileNotFoundError:
            return True

    def _forget(self, path: str, identity: Identity | None = None) -> None:
        """Forget a path's identity, which was wrong. With ``identity``, this process forgets only that one."""
        self._identities.forget(path, identity)
        with suppress(FoliocacheError, OSError, ValueError):
            self._existing_pool().names.forget(self.target.key(path))

    def _forget_below(self, path: str) -> None:
        """Forget the identities of a path and of all paths below it; all identities, for a root."""
        for seen in self._identities.below(path):
            self._identities.forget(seen)
        with suppress(FoliocacheError, OSError, ValueError):
            self._existing_pool().names.forget_below(self.fs.unstrip_protocol(path).rstrip("/"))

    def _forget_all(self) -> None:
        """Forget all identities of this place, and in the pool those of all places of the same protocol."""
        self._identities.forget_all()
        with suppress(FoliocacheError, OSError, ValueError):
            self._existing_pool().names.forget_below(self.fs.unstrip_protocol("").partition("://")[0])

    def _least_folio(self, pool: Any) -> int:
        """Return the bytes of the smallest folio: the ``folio_size`` option, or a page of the pool."""
        wanted = self._mapping_options.get("folio_size")
        return max(pool.page_size, 0 if wanted is None else parse_size(wanted, "folio_size"))


def refuse_at_the_end(fs: fsspec.AbstractFileSystem) -> None:
    """Raise RuntimeError while modules are torn down: fsspec's loop thread has stopped, and fsspec would wait for ever."""
    if fs.async_impl and sys.is_finalizing():
        raise RuntimeError(f"folio: the interpreter has ended so far that {type(fs).__name__} can't be asked any more")
