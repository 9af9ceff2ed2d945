"""What a source is: it delivers an object's missing bytes, as one or two functions, or as an object that fills pages."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, SupportsIndex, runtime_checkable

from ..errors import SourceError
from ..mm import layout
from ..sizes import quoted

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from .homes import Way

_CO_COROUTINE = 0x80  # inspect.CO_COROUTINE

# read(offset, length) returns exactly those bytes; readinto(offset, buffer) fills the buffer and returns how many bytes that
# is. Either may be a coroutine function.
Read = Callable[[int, int], "Buffer | Awaitable[Buffer]"]
ReadInto = Callable[[int, memoryview], SupportsIndex | Awaitable[SupportsIndex]]


@runtime_checkable
class Source(Protocol):
    """One object at one version, read by ranges straight into the pool's pages.

    It may have an attribute ``latency``: how many seconds it takes until the origin begins to answer, or None if that is not
    known. Of an origin that answers within 2 ms, smaller ranges are asked for.

    It may have an attribute ``is_exact``, for which True is a promise: each buffer that it reports full has been written from
    end to end. Its buffers then are pages as they were left, perhaps with another object's bytes in them; those of a source
    that does not promise that are all zeros. Clearing them is about a sixth of the time in which a source in memory fills them.

    It may have a method ``read_ranges(ranges, at_once)``, which reads several ranges at a time in the thread that calls it.
    ``ranges`` is an iterator of (offset, buffers), from which each is taken when it is to be requested; at most ``at_once`` of
    them are under way. How many there should be at the moment, ``ranges.at_once`` says: fewer while other threads read, too.
    Of a source that does not look at it, the iterator ends when there are too many. It yields (number, full): so many of the
    buffers of a range are full. Ranges are numbered from 0, as they were taken. ``full`` may be 0 when the range has been
    requested. It is -1 if the source leaves the other buffers of the range to ``read_into``, as it leaves all that it has not
    told to be full when it ends. It may end without taking any.
    """

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> Iterator[object]:
        """Fill the buffers, in order, with the object's bytes from offset on.

        Parameters
        ----------
        offset
            The offset of the first byte, in bytes.
        buffers
            Writable and contiguous. They are the pages themselves: no reference may be kept beyond the yield that reports
            them full.

        Yields
        ------
        object
            Anything, once for each buffer, as soon as that buffer is full: its readers then continue at once.

        Raises
        ------
        Exception
            If the bytes cannot be read, or are of another version than the mapping's.
        """
        ...


@runtime_checkable
class AsyncSource(Protocol):
    """A source that is a coroutine. It is called on an event loop of foliocache's own, one in each process.

    If it has ``read_into`` as well, threads call that, and only reads in event loops are answered by ``read_into_async``.
    It may have ``is_exact``, as a `Source`.
    """

    def read_into_async(self, offset: int, buffers: Sequence[memoryview]) -> AsyncIterator[object]:
        """Fill the buffers, in order, with the object's bytes from offset on: as `Source.read_into`, an asynchronous generator.

        Parameters
        ----------
        offset
            The offset of the first byte, in bytes.
        buffers
            Writable and contiguous. They are the pages themselves: no reference may be kept beyond the yield that reports
            them full.

        Yields
        ------
        object
            Anything, once for each buffer, as soon as that buffer is full: its readers then continue at once.

        Raises
        ------
        Exception
            If the bytes cannot be read, or are of another version than the mapping's.
        """
        ...


def check(read: Any, readinto: Any, source: Any) -> None:
    """Raise TypeError for a source that cannot be called."""
    for name, given, usage in (("read", read, "(offset, length)"), ("readinto", readinto, "(offset, buffer)")):
        if given is not None and not callable(given):
            raise TypeError(f"{name} must be a function that is called with {usage}, not {quoted(given)}")
    if source is not None and not any(callable(getattr(source, name, None)) for name in ("read_into", "read_into_async")):
        raise TypeError(
            f"source must be an object with the method read_into or read_into_async (foliocache.sources), not {quoted(source)}"
        )


def called(function: Any) -> Any:
    """Return a function to call in a thread: ``function`` itself, or None, unless it is a coroutine function."""
    if not _is_coroutine(function):
        return function
    from . import coroutines  # here, because importing asyncio takes longer than all of foliocache

    return coroutines.called(function)


def way_of(read: Any, readinto: Any, source: Any) -> Way | None:
    """Return how event loops call a coroutine source; None for any other source.

    A source for both, with functions for threads, has ``read_into_async`` beside them, and a ``home_loop`` if that must run
    in a certain loop.
    """
    given = _given(read, readinto, source)
    stream = getattr(given, "read_into_async", None)
    if stream is None and not _is_coroutine(given):
        return None
    from . import homes

    if stream is not None:
        return homes.Way(homes.stream, stream, given)
    return homes.Way(homes.read if read is not None else homes.readinto, given, given)


def is_threaded(read: Any, readinto: Any, source: Any) -> bool:
    """Return True if threads read long ranges for event loops, too: the source has no coroutine, or is faster in threads."""
    given = _given(read, readinto, source)
    has_coroutine = hasattr(given, "read_into_async") or _is_coroutine(given)
    return not has_coroutine or getattr(source, "read_ranges", None) is not None


def kind_of(read: Any, readinto: Any, source: Any) -> int:
    """Return which of ``layout.SOURCES`` a source is: what its ``kind`` says, "function" without one.

    The number behind them all is for a source that counts for itself, with the kind "tiers".
    """
    given = _given(read, readinto, source)
    kind = getattr(given, "kind", "function")
    if kind == "tiers":
        return layout.SOURCE_KINDS
    return layout.SOURCES.index(kind if kind in layout.SOURCES else "other")


def _given(read: Any, readinto: Any, source: Any) -> Any:
    """Return what event loops call."""
    if source is not None:
        return source
    return readinto if read is None else read


def _is_coroutine(function: Any) -> bool:
    """Return True for a coroutine function, and for an object whose call is one."""
    if function is None:
        return False
    return _is_coroutine_function(function) or _is_coroutine_function(getattr(function, "__call__", None))  # noqa: B004


def _is_coroutine_function(function: Any) -> bool:
    """As that of inspect, whose import takes a tenth of foliocache's, and fails in a finalizer while the interpreter exits."""
    while isinstance(function, functools.partial):
        function = function.func
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return code is not None and bool(code.co_flags & _CO_COROUTINE)


def iterator_of(answer: Any) -> Iterator[object]:
    """Return the iterator that a source's ``read_into`` has returned. Raises SourceError for anything else."""
    if not hasattr(answer, "__iter__"):
        raise _no_iterator(answer, "read_into must yield once for each buffer, as soon as that is full")
    return iter(answer)


def async_iterator_of(answer: Any) -> AsyncIterator[object]:
    """Return the iterator that a source's ``read_into_async`` has returned. Raises SourceError for anything else."""
    if not hasattr(answer, "__aiter__"):
        raise _no_iterator(answer, "read_into_async must be an async generator that yields once for each buffer")
    return aiter(answer)


def _no_iterator(answer: Any, instead: str) -> SourceError:
    if hasattr(answer, "close"):  # a coroutine would warn that it was not awaited
        answer.close()
    return SourceError(f"the source returned {type(answer).__name__}; {instead}")


def read_into_of(source: Source | AsyncSource | None) -> Any:
    """Return the function that a thread calls for a source's ``read_into``; None without a source."""
    if source is None or hasattr(source, "read_into"):
        return None if source is None else source.read_into
    from . import coroutines

    return coroutines.read_into(source)
