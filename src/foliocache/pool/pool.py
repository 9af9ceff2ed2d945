"""A pool as one process uses it: mappings of its objects, Python objects, statistics and repair."""

from __future__ import annotations

import contextlib
import html
import os
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, Self, SupportsFloat, SupportsIndex, TypeAlias, TypeVar, cast, overload

from ..errors import FoliocacheError
from ..filler.engine import Engine
from ..mm import audit, layout, page_alloc
from ..observe import look, notices
from ..observe.records import Counters, Finding, FoliosByType, LockInfo, ObjectInfo, PagesByState, Stat
from ..sizes import format_size, parse_count, parse_size, quoted
from . import client, machine, repair, shrink, strays, view
from . import segment as segments
from . import tiers as records
from .attachment import Attachment, Scan
from .geometry import pool_size
from .mapping import Mapping, key_digest
from .names import Names
from .objects import Finder, ObjectMapping
from .pressure import Pressure

if TYPE_CHECKING:
    from ..filler.source import AsyncSource, Read, ReadInto, Source
    from ..mm.atomics import Memory
    from ..objects import Loads, Memoized, Objects, Writable
    from ..observe.statistics import Picture, Statistics
    from ..tiers import TierStat
    from ..tiers.guard import Guard

Seconds: TypeAlias = SupportsFloat | SupportsIndex
P = ParamSpec("P")
R = TypeVar("R")

FILL_TIMEOUT = 60.0
FILL_TIMEOUT_MAX = 1e9  # seconds; the core counts nanoseconds in 64 bits


def _count(value: int, what: str) -> int:
    """Return a number, 0 or more. Raises ValueError."""
    number = parse_count(value, what)
    if number < 0:
        raise ValueError(f"{what} must not be negative: {quoted(value)}")
    return number


def _seconds(value: Seconds, what: str = "fill_timeout") -> float:
    try:
        if isinstance(value, (bool, str, bytes, bytearray)):
            raise TypeError
        seconds = float(value)
    except OverflowError:
        seconds = FILL_TIMEOUT_MAX if value > 0 else -1.0  # type: ignore[operator]  # a huge int or fraction
    except (TypeError, ValueError):
        seconds = -1.0
    if not seconds >= 0:
        raise ValueError(f"{what} must be a number of seconds from 0 on, not {quoted(value)}")
    return min(seconds, FILL_TIMEOUT_MAX)


class Pool:
    """A pool of shared pages, made by `open` and `attach`.

    It pickles by its name, and may be used by several threads and after a fork. As a context manager it closes itself.

    Attributes
    ----------
    name : str
        The pool.
    path : str
        Its file.
    page_size : int
        Bytes of a page.
    max_bytes : int
        The most bytes that `resize` can give it.
    """

    def __init__(self, segment: segments.Segment, any_owner: bool = False) -> None:
        self._attachment = Attachment(segment)
        self._pressure = Pressure(self._attachment)
        self._attachment.pressure = self._pressure.start
        self._any_owner = any_owner
        self.name: str = segment.name
        self.path: str = segment.path
        self.page_size: int = segment.page_size
        self.max_bytes: int = segment.max_bytes
        self._fill_timeout = FILL_TIMEOUT
        self._engines: dict[int, Engine] = {}  # by pid; a forked child starts its own
        self._objects: dict[None, Objects] = {}  # the only one, for `setdefault`
        self._tiers: tuple[Guard, ...] = ()
        self._tiers_known_at = 0.0  # when it was looked for them last
        self._asking: set[tuple[int, int, bytes]] = set()  # the questions of its names that are under way in this process

    def __repr__(self) -> str:
        return f"<foliocache.Pool {self.name!r}, {self.pool_bytes} bytes in pages of {self.page_size}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: its statistics; the same text as ``repr`` if it is closed."""
        if self.closed:
            return html.escape(repr(self))
        from ..observe import html as pictures  # here: only notebooks need it

        return pictures.stat(self.stat())

    def __reduce__(self) -> tuple[object, ...]:
        pressure = None if self._attachment.pressure else False
        from .opening import reopen

        return reopen, (self.name, self.pool_bytes, self.page_size, self._any_owner, self.fill_timeout, pressure)

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        self._check_open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close_async()

    @property
    def pool_bytes(self) -> int:
        """The most bytes that its pages may take together: its size. `resize` changes it."""
        return self._attachment.segment.pool_bytes

    @property
    def fill_timeout(self) -> float:
        """Seconds to wait for another process that is reading a folio from the source, see `open`; may be set."""
        return self._fill_timeout

    @fill_timeout.setter
    def fill_timeout(self, seconds: Seconds) -> None:
        self._fill_timeout = _seconds(seconds)

    @property
    def closed(self) -> bool:
        """True if it has been closed in this process."""
        return self._attachment.closed

    def close(self) -> None:
        """Stop using the pool in this process: its methods and those of its mappings raise FoliocacheError from now on.

        Calls that have begun continue. This waits for reads ahead that have begun, at most `fill_timeout` seconds. Tasks of
        event loops that await a read get a FoliocacheError. Existing leases, windows and views stay valid. The client slot and
        three descriptors are released with the last of them, of the pool's mappings and of this object itself: let go of it,
        too. Closing twice is harmless; `open` then returns another Pool.
        """
        self._attachment.close()
        self._pressure.stop()
        for engine in list(self._engines.values()):
            engine.close(self.fill_timeout)

    async def close_async(self) -> None:
        """`close` for event loops: another thread waits for the reads ahead that have begun.

        Tasks that await a read get a FoliocacheError at once.
        """
        from ..filler.awaiting import in_engine

        self._attachment.close()
        closing = Engine()
        try:
            await in_engine(closing, self.close)
        finally:
            closing.close(0)

    def mapping(
        self,
        key: str,
        size: SupportsIndex,
        version: str = "",
        read: Read | None = None,
        readinto: ReadInto | None = None,
        *,
        source: Source | AsyncSource | None = None,
        concurrent: bool = False,
        folio_size: SupportsIndex | str | None = None,
        readahead: SupportsIndex | str | None = None,
    ) -> Mapping:
        """Return a mapping of an object at one version, whether any of it is cached or not.

        Parameters
        ----------
        key : str
            The object's name, the same in all processes that use this pool.
        size : int
            The object's size in bytes.
        version : str
            A string that changes when the object's bytes change, such as an ETag. The pool treats each version as an object of
            its own.
        read : callable, optional
            ``read(offset, length)`` returns exactly those bytes of the source, as a bytes-like object.
        readinto : callable, optional
            ``readinto(offset, buffer)`` fills the writable buffer, which is all zeros, from the source, and returns the
            number of bytes. It saves a copy. Without ``read``, ``readinto`` and ``source``, only cached folios can be read.
            Either may be a coroutine function (``async def``): foliocache calls it on an event loop of its own, one in each
            process.
        source : foliocache.sources.Source or AsyncSource, optional
            Instead of ``read`` and ``readinto``: ``read_into(offset, buffers)`` fills the pages, in order, and each can be read
            as soon as it is full; or ``read_into_async(offset, buffers)``, on foliocache's event loop.
        concurrent : bool
            True if several threads may call the source at once, including threads of this library. Otherwise its calls for
            this mapping are made one at a time, by threads that wait for the data.
        folio_size : int or str, optional
            Bytes of every folio that is added through this mapping, or a string such as ``"256KiB"``: a power of two, at least
            the pool's page size, at most 1 MiB and 1/4 of the pool. Folios at the object's end, between existing folios, or in
            a full pool are smaller, and none has more than 16 units, which are half of a small object. By default a folio is as
            large as the read that missed it. Give the same value wherever an object is opened: with a value below the object's
            usual unit, the pool treats it as another object.
        readahead : int or str, optional
            The most bytes to read ahead of a sequential reader, or a string such as ``"8MiB"``; never more than 1/8 of the
            pool. With 0, only the requested bytes are read. By default the readahead grows as the reader continues, up to
            64 MiB, or 4 MiB without ``concurrent``.

        Returns
        -------
        Mapping

        Raises
        ------
        ValueError
            The size is negative, not an integer, or too large for the index; the key or version is not a string; or the
            folio_size or readahead is invalid.
        TypeError
            ``read`` or ``readinto`` cannot be called, or ``source`` has none of its methods.
        FoliocacheError
            The pool has been closed.
        """
        self._check_open()
        return Mapping(self, key, size, version, read, readinto, source, concurrent, folio_size, readahead)

    def forget(self, key: str) -> int:
        """Remove every version of an object from the cache. Existing leases stay valid.

        Parameters
        ----------
        key : str
            The object.

        Returns
        -------
        int
            The number of versions that were removed.

        Raises
        ------
        FoliocacheError
            The pool has been closed; or another process has stopped while it holds a lock of the pool.
        """
        self._check_open()
        if not isinstance(key, str):
            raise ValueError(f"key must be a string, not {quoted(key)}")
        return self._attachment.forget(key_digest(key))

    @property
    def names(self) -> Names:
        """The pool's names: which object each key means now. Internal, for adapters."""
        self._check_open()
        return Names(self)

    def mappings(self) -> list[ObjectInfo]:
        """List the cached objects.

        Returns
        -------
        list of ObjectInfo
            One for each object and version, in no particular order.

        Raises
        ------
        FoliocacheError
            The pool has been closed.
        """
        self._check_open()
        with Scan(self._attachment):
            return look.objects(self._memory)

    def audit(self) -> list[Finding]:
        """Settle what dead processes have left, and check every invariant of the pool.

        Returns
        -------
        list of Finding
            The violations; empty if the pool is sound. It is exact only while no other process uses the pool: an unfinished
            operation may appear as a finding. Threads of this process may use it meanwhile.

        Raises
        ------
        FoliocacheError
            The pool has been closed.
        """
        self._check_open()
        with contextlib.suppress(FoliocacheError):
            self._attachment.reap()  # what a process was doing when it was killed would be found, too
        with Scan(self._attachment):
            segment = self._attachment.segment
            return self._attachment.audit() + segment.unbacked() + strays.findings(segment)

    def repair(self) -> list[Finding]:
        """Settle what dead processes have left, and repair what is proven to be damaged.

        Other processes may use the pool meanwhile; a sound pool is not changed. Folios that are dropped are fetched again when
        they are read. A page that is still pinned leaves the cache at once, but becomes free only after its pins are dropped,
        by another repair or when this process has ended.

        Returns
        -------
        list of Finding
            The findings that remain, including those that could not be proven while other processes used the pool; another
            repair looks at them again.

        Raises
        ------
        FoliocacheError
            The pool has been closed.
        """
        self._check_open()
        with Scan(self._attachment):
            found = repair.repair(self._attachment)
        strays.give_back(self._attachment)
        with Scan(self._attachment):
            return found + strays.findings(self._attachment.segment)

    def resize(self, size: SupportsIndex | str) -> int:
        """Change the most bytes that the pool's pages may take together, for all processes.

        A smaller pool evicts what is too much, and gives that memory back. The file keeps its length.

        Parameters
        ----------
        size : int or str
            As for `open`; at most `max_bytes`.

        Returns
        -------
        int
            The bytes that the pool still has above the new size, because they are in use; 0 as a rule. They are given back by
            another call, when they are not in use any more.

        Raises
        ------
        ValueError
            The size is not between 64 pages and `max_bytes`.
        FoliocacheError
            The pool has been closed; or another process has stopped while it holds a lock of the pool.
        """
        self._check_open()
        wanted = pool_size(size, self.page_size)
        if wanted > self.max_bytes:
            raise ValueError(
                f"size must be at most {format_size(self.max_bytes)}, the max_size with which pool {self.name!r} was made, not "
                f"{format_size(wanted)}; remove the pool and make it with a larger max_size"
            )
        self._attachment.set_limit(wanted // self.page_size)
        return shrink.to_limit(self._attachment) * self.page_size

    def trim(self, bytes: SupportsIndex | str | None = None, idle: Seconds | None = None) -> int:
        """Give memory back to the kernel. The pool takes it again when it needs it.

        Free pages are given back first, then those of the objects that have not been used for the longest time.

        Parameters
        ----------
        bytes : int or str, optional
            How many to give back, or a string such as ``"1GiB"``. By default all that is free, and no object.
        idle : float, optional
            Seconds, at most 72 hours. Give back what is free, and what of objects was not used for so long; at most ``bytes``,
            if that is given. A pool does not know when something was used, only that it was since the last look, which is the
            last ``trim(idle=)`` of any process, or an eviction that considered it. So the first call gives back no more than
            what was read ahead so long ago and never used: what was used counts as used at that moment. Called every minute
            with ``idle=60``, it gives back, from the second call on, what was not used since the call before. A sixteenth and
            3 seconds less are long enough, so that a call that comes a little early does so, too.

        Returns
        -------
        int
            The bytes that were given back. They may be fewer than asked for, because the rest is in use; or some more, because
            memory is given back in pieces of 64 KiB.

        Raises
        ------
        ValueError
            It is no number of bytes, or of seconds.
        FoliocacheError
            The pool has been closed; or another process scans it all the time, or has stopped in the middle of an operation.
        """
        self._check_open()
        pages = None if bytes is None else -(-parse_size(bytes, "bytes") // self.page_size)
        if idle is not None:
            seconds = _seconds(idle, "idle")
            if not 0 < seconds <= shrink.IDLE_MAX:
                raise ValueError(f"idle must be more than 0 seconds, and at most {shrink.IDLE_MAX:.0f}, not {quoted(idle)}")
            given = shrink.give_back_idle(self._attachment, seconds, pages)
        elif pages is None:
            given = shrink.free_blocks(self._attachment)
        else:
            given = shrink.give_back(self._attachment, pages)
        if strays.come_with_others(self._attachment.segment):
            strays.give_back(self._attachment)
        return given * self.page_size

    def stat(self) -> Stat:
        """Return the state of the pool, and the processes that use it.

        What dead processes have left is settled first, unless another process is doing that, or this one cannot. So a client
        whose state is "dead" has left something that must wait for a living client, which still uses a folio of an operation
        that the dead client had not finished.

        Returns
        -------
        Stat

        Raises
        ------
        FoliocacheError
            The pool has been closed.
        """
        self._check_open()
        with contextlib.suppress(FoliocacheError):
            self._attachment.reap()
        segment = self._attachment.segment
        census = audit.census(self._memory)
        slots = client.used_slots(segment)
        clients = [client.describe(segment, number) for number in slots]
        pids = {found.slot: found.pid for found in clients}
        return Stat(
            name=self.name,
            path=self.path,
            pool_bytes=self.pool_bytes,
            page_size=self.page_size,
            max_bytes=self.max_bytes,
            pages=segment.pages,
            metadata_bytes=segment.metadata_bytes,
            metadata_ratio=segment.metadata_bytes / (self.pool_bytes or self.max_bytes),
            free_bytes=(census["pages_by_state"]["free"] + census["pages_by_state"]["hole"]) * self.page_size,
            backed_bytes=page_alloc.backed_pages(segment.mem) * self.page_size,
            cached_bytes=census["pages_by_state"]["file"] * self.page_size,
            bound_by=segment.bound_by(),
            pages_by_state=PagesByState(**census["pages_by_state"]),
            folios_by_type=FoliosByType(**census["folios_by_type"]),
            pins=census["pins"],
            mappings=segment.memory.peek32(layout.TABLE_COUNT),
            max_clients=segment.geometry["nclients"],
            locks=tuple(LockInfo(**held, pid=pids.get(held["slot"])) for held in audit.held_locks(self._memory)),
            clients=tuple(found for found in clients if found.state != "clean"),
            counters=Counters(
                **{name: sum(client.counter(segment, slot, n) for slot in slots) for n, name in enumerate(layout.COUNTERS)}
            ),
        )

    def check_tiers(self, *, repair: bool = False) -> list[Finding]:
        """Check the pool's tiers on disks. To readers, everything that is found is a miss.

        Parameters
        ----------
        repair : bool
            Drop what is damaged.

        Returns
        -------
        list of Finding
            What is wrong; with ``repair``, what was wrong. A tier that does not work is one finding.

        Raises
        ------
        FoliocacheError
            The pool has been closed.
        """
        self._check_open()
        return [finding for guard in self._agreed_tiers() for finding in guard.check(repair)]

    @property
    def tiers(self) -> tuple[TierStat, ...]:
        """What this process has had from each of the pool's tiers, the nearest first: a tuple of `foliocache.tiers.TierStat`.

        A tier that several pools use counts for all of them together.
        """
        return tuple(guard.stat() for guard in self._agreed_tiers())

    def _settle_tiers(self, wanted: str | Sequence[str] | None) -> None:
        """Give the pool tiers, or take those that it has. Raises what ``records.settle`` raises."""
        self._tiers_known_at = time.monotonic()
        self._tiers = records.settle(self.name, self.path, wanted)

    def _agreed_tiers(self) -> tuple[Guard, ...]:
        """Return the pool's tiers. Another process may have given it some since this one has opened it."""
        if not self._tiers and time.monotonic() - self._tiers_known_at >= records.LOOK_AGAIN:
            try:
                self._settle_tiers(None)
            except Exception as error:
                self._tiers_known_at += records.PAUSE
                notices.logger().warning("pool %r has tiers now, which cannot be used here: %s", self.name, error)
        return self._tiers

    def statistics(self) -> Statistics:
        """Return what the pool does and has done: rates of hits, durations, sources, evictions.

        It costs far less than `stat`, whatever the size of the pool, and takes no lock. Each look leaves a sample for the hit
        ratios of later ones.

        Returns
        -------
        Statistics

        Raises
        ------
        FoliocacheError
            The pool has been closed.
        """
        self._check_open()
        return view.statistics(self._attachment.segment)

    def picture(self, dots: int = 0, objects: int = 50) -> Picture:
        """Return the state of the pool's pages, and its largest objects, by one pass over the folio table.

        Parameters
        ----------
        dots : int
            The most dots of the picture; 0 for none.
        objects : int
            How many objects to describe, besides those that are being filled.

        Returns
        -------
        Picture

        Raises
        ------
        ValueError
            A number is negative, or no whole number.
        FoliocacheError
            The pool has been closed; or another process has stopped while it gives memory back.
        """
        self._check_open()
        return view.picture(self._attachment, *map(_count, (dots, objects), ("dots", "objects")))

    @property
    def _memory(self) -> Memory:
        return self._attachment.segment.memory

    def _check_open(self) -> None:
        self._attachment.check_open()

    def _watch(self, pressure: bool) -> None:
        """Give memory back under pressure from now on, in this process, or do not."""
        self._attachment.pressure = self._pressure.start if pressure else None
        if not pressure:
            self._pressure.stop()
        elif self._attachment.watching:
            self._pressure.start()

    @property
    def engine(self) -> Engine:
        """The threads in which this process calls its sources, an :class:`Engine`."""
        pid = os.getpid()
        return self._engines.get(pid) or self._engines.setdefault(pid, Engine(machine.processors()))

    # Python objects.

    def get_or_create(
        self,
        key: str,
        make: Callable[[], R],
        *,
        version: str = "",
        expiry: float | None = None,
        loads: Loads = "any",
        writable: Writable = None,
    ) -> R:
        """Return a Python object that is made by the first process that asks for it, and shared by all.

        Parameters
        ----------
        key : str
            The object's name, the same in all processes that use this pool.
        make : callable
            ``make()`` returns the object. It is called if the pool does not have the object: by one process, while the others
            wait.
        version : str
            Each version is an object of its own.
        expiry : float, optional
            Seconds after which the object expires, and is made by the next call. By default it never expires.
        loads : {"any", "arrays"}
            "arrays" keeps and reads only arrays, tensors, bytes and memoryviews, and unpickles nothing. Unpickling trusts every
            process that may write to the pool.
        writable : {"copy"}, optional
            The object's arrays, tensors and memoryviews may be written to. Only this process sees what it writes.

        Returns
        -------
        object
            A copy that equals the object, also in the process that made it. Its arrays are read-only views of the pool's pages,
            which stay pinned while one of them exists. Bytes are copied; a memoryview is a view.

        Raises
        ------
        Exception
            Whatever ``make`` raises.
        SourceError
            Another process was making the object, and failed; the next call makes it here.
        TypeError
            The object cannot be kept: it cannot be pickled, or ``loads`` does not allow it.
        ValueError
            A parameter has an invalid value; or the pool has a pickle, and ``loads`` is "arrays".
        FoliocacheError
            ``make`` asks for the same object; or the pool has been closed.
        """
        return cast("R", self.objects.get_or_create(key, make, version, expiry, loads, writable))

    async def get_or_create_async(
        self,
        key: str,
        make: Callable[[], Awaitable[R]],
        *,
        version: str = "",
        expiry: float | None = None,
        loads: Loads = "any",
        writable: Writable = None,
    ) -> R:
        """`get_or_create` for event loops. An object that the pool has is returned at once, without another thread.

        Parameters
        ----------
        key, version, expiry, loads, writable
            As in `get_or_create`.
        make : callable
            ``await make()`` returns the object.

        Returns
        -------
        object
            As of `get_or_create`.

        Raises
        ------
        Exception
            As in `get_or_create`.
        """
        return cast("R", await self.objects.get_or_create_async(key, make, version, expiry, loads, writable))

    def put(self, key: str, value: object, *, version: str = "", loads: Loads = "any") -> bool:
        """Keep a Python object. It replaces the one that the pool has.

        Parameters
        ----------
        key, version : str
            As in `get_or_create`.
        value : object
            The object to keep.
        loads : {"any", "arrays"}
            As in `get_or_create`.

        Returns
        -------
        bool
            False if the pool has no room for the object.

        Raises
        ------
        TypeError
            The object cannot be kept.
        ValueError
            A parameter has an invalid value.
        FoliocacheError
            The pool has been closed.
        """
        return self.objects.put(key, value, version, loads)

    def get(
        self,
        key: str,
        default: object = None,
        *,
        version: str = "",
        expiry: float | None = None,
        loads: Loads = "any",
        writable: Writable = None,
    ) -> Any:
        """Return a Python object if the pool has it.

        Parameters
        ----------
        key, version, expiry, loads, writable
            As in `get_or_create`.
        default : object
            What to return if the pool does not have the object.

        Returns
        -------
        object
            As of `get_or_create`, or ``default``.

        Raises
        ------
        ValueError
            A parameter has an invalid value; or the pool has a pickle, and ``loads`` is "arrays".
        FoliocacheError
            The pool has been closed.
        """
        return self.objects.get(key, default, version, expiry, loads, writable)

    def delete(self, key: str) -> None:
        """Remove all versions of a Python object. Objects that were returned before stay valid.

        Parameters
        ----------
        key : str
            The object.

        Raises
        ------
        ValueError
            The key is not a string.
        FoliocacheError
            The pool has been closed; or another process has stopped while it holds a lock of the pool.
        """
        self.objects.delete(key)

    @overload
    def memoize(self, function: Callable[P, R], /) -> Memoized[P, R]: ...

    @overload
    def memoize(
        self,
        function: None = None,
        /,
        *,
        key: Callable[..., str] | None = None,
        version: str | None = None,
        expiry: float | None = None,
        ignore: str | Collection[str] = (),
        loads: Loads = "any",
    ) -> Callable[[Callable[P, R]], Memoized[P, R]]: ...

    def memoize(
        self,
        function: Callable[P, R] | None = None,
        /,
        *,
        key: Callable[..., str] | None = None,
        version: str | None = None,
        expiry: float | None = None,
        ignore: str | Collection[str] = (),
        loads: Loads = "any",
    ) -> Memoized[P, R] | Callable[[Callable[P, R]], Memoized[P, R]]:
        """Return a decorator that keeps a function's results in the pool, by its arguments.

        Parameters
        ----------
        function : callable, optional
            What to decorate: ``@pool.memoize`` is ``@pool.memoize()``.
        key : callable, optional
            ``key(*args, **kwargs)`` returns the key of a call, unique among the calls of all functions of that name: it has to
            tell apart what is bound to them and what they have closed over, too. By default a digest of the arguments, of the
            variables of enclosing functions that the function uses, and of what is bound to it: the arguments of ``partial``,
            the ``self`` of a method, the object that is called.
        version : str, optional
            By default a digest of the function's bytecode, without the functions that it calls and the globals that it reads.
            The function is that inside a ``partial``, a bound method or a decorator; ``__call__`` of an object.
        expiry : float, optional
            As in `get_or_create`.
        ignore : str or collection of str
            A name, or names, of parameters on which the result does not depend.
        loads : {"any", "arrays"}
            As in `get_or_create`.

        Returns
        -------
        callable
            The decorator; if ``function`` is given, the decorated function. That calls the original one if the pool has no
            result. Its ``.key(...)`` returns the key of a call, and ``.delete(...)`` removes the call's result.

        Raises
        ------
        TypeError
            What is decorated, or ``key``, is not callable.
        ValueError
            ``ignore`` has a name that is not a parameter of the function.
        """

        def decorate(function: Callable[P, R]) -> Memoized[P, R]:
            from ..objects import Memo  # as in `objects`

            return Memo(lambda: self.objects, function, key, version, expiry, ignore, loads).wrapped()

        return decorate if function is None else decorate(function)

    @property
    def objects(self) -> Objects:
        """The Python objects of the pool: internal."""
        self._attachment.check_open()
        found = self._objects.get(None)
        if found is not None:
            return found
        from ..objects import Objects  # here: few need it, and it takes 1/3 of our import time

        return self._objects.setdefault(None, Objects(self))

    def _object(self, key: str, size: int, version: str, source: Source) -> ObjectMapping:
        return ObjectMapping(self, key, size, version, source=source)

    def _finder(self, source: Source, gone: Callable[[str], Exception]) -> Finder:
        return Finder(self, source, gone)
