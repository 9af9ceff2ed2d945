"""What all sources around a source have in common: the tiers, the source inside, and how its answers become full buffers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from ..errors import FoliocacheError, SourceError
from ..filler.buffers import clear, copy
from ..filler.source import kind_of
from ..sizes import quoted
from .behind import Credit, Promise, behind, may_pin
from .claims import Claim
from .guard import Account, Guard
from .tier import Part

if TYPE_CHECKING:
    from ..filler.engine import Engine

BATCH = 1 << 20  # bytes that are asked of a tier at a time: readers of the first need not wait for the last
Given: TypeAlias = tuple[Any, Any, Any]


class Asked:
    """A call of the source: how long it takes, and what it brings. ``left``: how many buffers are not full."""

    def __init__(self, account: Account | None, kind: int, buffers: Sequence[memoryview]) -> None:
        self._account, self._kind = account, kind
        self.left: int = len(buffers)
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
    mapping: Callable[[], Any] = staticmethod(lambda: None)
    """Returns the mapping that it fills, which has it. None: bytes to be stored are copied."""

    def __init__(
        self,
        guards: Sequence[Guard],
        digest: bytes,
        key: str,
        engine: Callable[[], Engine],
        given: Given,
        account: Account | None = None,
    ) -> None:
        self._account = account
        self._kind = kind_of(*given)
        self._guards, self._digest, self._key, self._engine = tuple(guards), digest, key, engine
        self._read, self._readinto, self._source = given
        self._inner = next(one for one in (self._source, self._read, self._readinto) if one is not None)
        self._must_clear = self._readinto is not None or getattr(self._source, "is_exact", False) is not True

    @property
    def given(self) -> Given:
        """The source inside: read, readinto, source."""
        return self._read, self._readinto, self._source

    def __getattr__(self, name: str) -> Any:
        if name in ("failure", "home_loop"):
            return getattr(self._inner, name)
        raise AttributeError(f"{type(self).__name__} has no attribute {quoted(name)}")

    def _runs(self, guard: Guard, offset: int, buffers: Sequence[memoryview]) -> list[tuple[bool, list[Part]]]:
        """Divide buffers into runs that the tier may have, of at most BATCH bytes, and runs that it has not."""
        parts = parts_of(offset, buffers)
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
                clear(buffer)

    def _spread(self, content: Any, offset: int, buffers: Sequence[memoryview]) -> Generator[object, None, None]:
        """Copy what ``read`` has returned into the buffers, and yield after each."""
        length = sum(map(len, buffers))
        at = 0
        with _bytes_of(content, self._key) as view:
            if len(view) != length:
                raise self._short(len(view), offset, length)
            for buffer in buffers:
                with view[at : at + len(buffer)] as piece:
                    copy(buffer, piece)
                at += len(buffer)
                yield None

    def _check_count(self, got: Any, offset: int, length: int) -> None:
        try:
            count = got.__index__()
        except AttributeError:
            raise SourceError(
                f"the source of {quoted(self._key)} returned {quoted(got)}; readinto must return how many bytes it has written"
            ) from None
        if count != length:
            raise self._short(count, offset, length)

    def _short(self, got: int, offset: int, length: int) -> SourceError:
        return SourceError(
            f"the source of {quoted(self._key)} gave {got} bytes at offset {offset} instead of {length}; "
            "has it changed since it was opened?"
        )

    def _offer(self, level: int, offset: int, data: memoryview, credit: Credit, *, may_wait: bool) -> Promise | None:
        """Offer bytes to tier number ``level``, before their reader is told. ``may_wait``: for a place, for what the credit is.

        Return a promise to be kept after that, if they need not be copied.
        """
        guard, promise, waited = self._guards[level], None, 0.0
        patience = credit.lend() if may_wait else 0.0
        try:
            if self._may_stay(level):
                promise, waited = behind(guard).promise(guard, self._digest, offset, len(data), patience, self._account)
            else:
                waited = behind(guard).offer(guard, self._digest, offset, data, patience, self._account)
        finally:
            credit.spent(waited)
        return promise

    def _may_stay(self, level: int) -> bool:
        """Return True if what is offered to a tier can be stored from the pool's pages, without a copy.

        A piece that other machines wait for must not wait for the rest of its folio: that may be theirs.
        """
        mapping = self.mapping()
        return (
            mapping is not None and may_pin(mapping.pool.pool_bytes) and not any(one.lease for one in self._guards[: level + 1])
        )

    def _keep(self, promise: Promise, data: memoryview) -> None:
        """Keep a promise, as soon as the reader has been told: pin the folio. ``data``: the buffer, if it is no page."""
        try:
            held = self.mapping().lease_cached(promise.offset, promise.length)
        except FoliocacheError:  # closed meanwhile
            held = None
        if held is not None and len(held) == promise.length:
            promise.keep(held)
            return
        with contextlib.suppress(ValueError):  # it was a page, and is gone already
            promise.copy(data)

    def _unclaim(self, level: int, claim: Claim) -> None:
        """After a failure: give back what was claimed and did not come."""
        guard = self._guards[level]
        for offset, length in claim.spans(claim.owed()):
            behind(guard).unclaim(guard, self._digest, offset, length)


@contextlib.contextmanager
def released(views: list[Part]) -> Iterator[list[Part]]:
    """Release views at the end of a ``with``."""
    try:
        yield views
    finally:
        for _, view in views:
            view.release()


def parts_of(offset: int, buffers: Sequence[memoryview]) -> list[Part]:
    """Return buffers with their offsets; at once, since a buffer is released as soon as it is full."""
    parts = []
    for buffer in buffers:
        parts.append((offset, buffer))
        offset += len(buffer)
    return parts


def grouped(run: list[Part], flags: Sequence[bool]) -> Iterator[tuple[bool, list[Part]]]:
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
        raise SourceError(f"the source of {quoted(key)} returned {type(content).__name__}, not a bytes-like object") from None
    except Exception:  # a format that a memoryview does not have, such as that of NumPy's dates
        try:
            return memoryview(b"".join([content]))
        except Exception as error:
            raise SourceError(
                f"the source of {quoted(key)} returned {type(content).__name__} whose bytes cannot be had: {error}"
            ) from error
    if "O" in view.format:
        raise SourceError(f"the source of {quoted(key)} returned {type(content).__name__} of Python objects, not bytes")
    return view.cast("B") if view.c_contiguous and view.nbytes else memoryview(view.tobytes())
