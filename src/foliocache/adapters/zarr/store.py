"""A Zarr store around another store: values that are read are kept in a pool, for all processes of the machine.

A value is an object of the pool (``objects``). Its key is the store's identity and the value's key; its decoded chunk
(``pipeline``) is a version of it. So a write or a deletion through such a store forgets both, and the result of a read that
began before it is not kept. Sharding reads the same ranges each time.

**A writer may die.** Nobody then forgets what was read while it wrote. So a value that is being changed has a *mark*: a
question (``names``) that the writer asks and never answers. A question ends with its process. The writer asks it, forgets the
value, writes, forgets it again, and withdraws the question. A reader that is to make something of the value looks for the mark
after its own question has begun and before it reads, and keeps nothing if there is one. If it finds none, either a writer that
had one has ended, and all that it wrote is read; or the mark of the next one comes later, and so does the forgetting, which
ends the reader's question. Writers of one value wait for each other. A deletion marks its folder, and readers look for the
marks of all folders above the value, also of those above the store's root.

The pool finds all versions of a key together, so a key has room for few of them (``mm.names``). A value has any number of
*parts*: ranges, and inner chunks of a shard. So each part has a key of its own, which has a random word in it. This word is a
version of the value, too: when it has been forgotten, there is another one, and nobody finds the parts from before.

That a store has no such value is kept, too. Nothing is unpickled.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import math
import os
import re
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self, cast

import numpy
from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    Store,
    SuffixByteRequest,
    SupportsDeleteSync,
    SupportsGetSync,
    SupportsSetSync,
)
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.core.config import config
from zarr.storage import WrapperStore

from foliocache.sizes import quoted

from ...filler.awaiting import in_engine
from ...objects.found import MISSING
from ...objects.store import Unkept, check_options, seconds
from ...pool.opening import open as open_pool
from ...pool.pool import Pool
from .held import Held, held_in
from .identity import UNSHARED, is_file, is_folder, may_move, place

if TYPE_CHECKING:
    from types import TracebackType

    from ...objects.found import Found
    from ...objects.host import Known

_Change = Callable[[], Coroutine[Any, Any, None]]  # not a coroutine yet: a task that is cancelled before it begins awaits none
_ABSENT = b""  # bytes, where a value is a memoryview
_LISTINGS = "\0listings"  # no value has this key
_MARK = "\0changing"  # behind the key of a value, or behind that of a folder and a slash: the key of its mark
_NEVER = 1e9  # seconds
_WORD = "word"  # the version of a value that is the word in the keys of its parts


class FolioStore(WrapperStore[Store]):
    """A Zarr store that keeps what it reads from another one in a pool, for all processes of the machine.

    It pickles, and its buffers are views of the pool's pages.

    Parameters
    ----------
    store : zarr.abc.store.Store
        The store that has the data.
    pool : Pool or str
        The pool that keeps them. A name opens it as ``foliocache.open(name)`` does: with the parameters that it has; and if
        there is none, a new one of the default size.
    name : str, optional
        A name for the data, the same in every process. By default it is made of the place that the store says its data are in.
        Stores of folders, or of paths of a file system of fsspec, need none, nor ones of ZIP files that are only read.
    expiry : float, optional
        Seconds after which a value is read again. By default a value is valid until it is written or deleted through a
        `FolioStore` of this pool, or evicted: all writers must then use such a store.
    listings : float
        Seconds for which a listing is kept. By default none is kept.

    Raises
    ------
    TypeError
        ``store`` is no store, ``pool`` no pool, or ``name`` no string.
    ValueError
        The store does not say where its data are, and ``name`` was not given; or a parameter has an invalid value.
    OSError
        A ZIP file cannot be opened, as it is if it is not open yet.
    """

    def __new__(cls, store: Store | None = None, *args: Any, **options: Any) -> Self:
        """Return an instance with synchronous methods if the store has them."""
        return super().__new__(cast("type[Self]", _SyncFolioStore) if cls is FolioStore and _is_synchronous(store) else cls)

    def __init__(
        self, store: Store, pool: Pool | str, *, name: str | None = None, expiry: float | None = None, listings: float = 0
    ) -> None:
        _check_store(store)
        if not isinstance(pool, Pool | str):
            raise TypeError(f"pool must be a pool, from foliocache.open(name), or its name, not {quoted(pool)}")
        check_options("", expiry, "arrays")
        self._expiry, self._listings = expiry, seconds(listings, "listings")
        self._prefix = place(store, name)
        self._may_move = name is None and may_move(store)
        super().__init__(store)
        self._options: dict[str, Any] = {"name": name, "expiry": expiry, "listings": listings}
        self.pool: Pool = open_pool(pool) if isinstance(pool, str) else pool
        self._check_inside()
        self.held: Held = held_in(self.pool)

    def _check_inside(self) -> None:
        """Raise ValueError if a store inside keeps the same values in the same pool: each would wait for the other."""
        inside: Any = self._store
        while isinstance(inside, WrapperStore):
            if isinstance(inside, FolioStore) and (inside.pool.name, inside._prefix) == (self.pool.name, self._prefix):
                raise ValueError(f"the store keeps its values in the pool {quoted(self.pool.name)} already; use it as it is")
            inside = inside._store

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("held", "_prefix", "_may_move")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, held=held_in(state["pool"]))
        name = self._options["name"]
        self._prefix = place(self._store, name)
        self._may_move = name is None and may_move(self._store)

    def _has_left(self, prefix: str) -> bool:
        """Return True if the store has another place now, or the store's path is that of another folder. Another thread or task
        may have found the new place already."""
        return prefix != self._prefix or (self._may_move and place(self._store, None) != prefix)

    def _find_place(self) -> str:
        """Find and return the place of the folder that the store's path is of now: before anything is read or changed there."""
        if self._has_left(self._prefix):
            self._prefix = place(self._store, None)
        return self._prefix

    def _lose_place(self) -> None:
        """Share nothing until the store is open: a file that is opened again may be another one."""
        if self._options["name"] is None and is_file(self._store):
            self._prefix = UNSHARED + os.urandom(8).hex()

    async def _ensure_open(self) -> None:
        await super()._ensure_open()
        if self._prefix.startswith(UNSHARED):
            self._prefix = place(self._store, None)

    @classmethod
    async def open(cls, store: Store, pool: Pool | str, *, read_only: bool | None = None, **options: Any) -> Self:  # type: ignore[override]
        """Open a store, and return a FolioStore around it.

        Parameters
        ----------
        store, pool, options
            As of `FolioStore`.
        read_only : bool, optional
            Whether the store is opened read-only. By default as the store is.

        Returns
        -------
        FolioStore
        """
        _check_store(store)
        if read_only is not None and read_only != store.read_only:
            store = store.with_read_only(read_only)
        await store._ensure_open()
        return cls(store, pool, **options)

    def _with_store(self, store: Store) -> Self:
        """Return a copy around another store; of a derived class, an instance of that, with all that it has."""
        kind = FolioStore if isinstance(self, _SyncFolioStore) else type(self)
        copied = cast("Self", kind.__new__(kind, store))
        copied.__setstate__({**self.__getstate__(), "_store": store})
        return copied

    def __enter__(self) -> Self:
        self._store.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._store.__exit__(kind, error, traceback)
        self._lose_place()

    def close(self) -> None:
        super().close()
        self._lose_place()

    def __eq__(self, value: object) -> bool:
        return (
            isinstance(value, FolioStore)
            and self.pool.name == value.pool.name
            and self._options == value._options
            and self._store == value._store
        )

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return f"folio::{self._store}"

    def __repr__(self) -> str:
        return f"FolioStore({self._store!r}, {self.pool.name!r})"

    @property
    def supports_consolidated_metadata(self) -> bool:
        """Whether the wrapped store supports consolidated metadata."""
        return self._store.supports_consolidated_metadata

    # Reading.

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        found = self._look(key, byte_range)
        if found is MISSING:
            word = await self.word(key) if type(byte_range) is RangeByteRequest else ""
            found = await self.make(*_place(key, byte_range, word), lambda: self._read(key, byte_range))
        return _buffer(found, prototype)

    async def _read(self, key: str, byte_range: ByteRequest | None) -> memoryview | bytes:
        return _content(await self._store.get(key, default_buffer_prototype(), byte_range))

    def _look(self, key: str, byte_range: ByteRequest | None) -> Any:
        """Return a view of the cached value or range; b"" if the store is known to have no such value; MISSING if neither is
        cached."""
        if byte_range is None:
            return self.recall(key, "")
        word = self.known_word(key) if type(byte_range) is RangeByteRequest else ""
        found = MISSING if word is None else self.recall(*_place(key, byte_range, word))
        if found is MISSING:
            found = self.recall(key, "")
            if isinstance(found, memoryview):
                return _cut(found, byte_range)
        return found

    def known_word(self, key: str) -> str | None:
        """Return the word in the keys of a value's parts; None if it has none yet."""
        found = self.recall(key, _WORD)
        return None if found is MISSING else found.hex()

    def found_word(self, key: str) -> tuple[Known, Found, str] | None:
        """Return the word in the keys of a value's parts, behind its name in the pool and what was found there: as long as the
        same is found, it is the same word. None if there is none yet."""
        if self.known_word(key) is None:
            return None
        name, place = self.know(key, _WORD)
        found = name.found
        return (name, found, found.build("arrays", place, None).hex()) if found.exists else None

    async def word(self, key: str) -> str:
        """Return the word in the keys of a value's parts; the first process that asks chooses it."""

        async def choose() -> bytes:
            return os.urandom(8)

        found = self.known_word(key)
        return (await self.make(key, _WORD, choose)).hex() if found is None else found

    def recall(self, key: str, version: str) -> Any:
        return self.pool.get(self._prefix + key, MISSING, version=version, expiry=self._expiry, loads="arrays")

    def recall_rows(self, key: str, version: str, first: int, end: int) -> tuple[int, Any]:
        """Return some of what ``recall`` returns, of which rows first to end are wanted: the number of its first row, and an
        array."""
        return self.pool.objects.get_rows(self._prefix + key, version, self._expiry, first, end)

    def know(self, key: str, version: str) -> tuple[Known, str]:
        """Return the name of what the pool keeps under a key and version, and its key there."""
        return self.pool.objects.know(self._prefix + key, version), self._prefix + key

    @property
    def expiry(self) -> float | None:
        """Seconds for which values are kept; None if they do not expire."""
        return self._expiry

    async def make(self, key: str, version: str, make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Return what the pool keeps under a key and version; the first process that asks makes it with ``make``."""
        prefix = self._find_place()

        async def checked() -> Any:
            is_changing = await in_engine(self.pool.engine, lambda: self._is_changing(prefix, key))
            made = await make()
            return Unkept(made) if is_changing or self._has_left(prefix) else made

        return await self.pool.get_or_create_async(prefix + key, checked, version=version, expiry=self._expiry, loads="arrays")

    def _is_changing(self, prefix: str, key: str) -> bool:
        """Return True if the value with this key, or of which this is the key of a part, is being changed."""
        names, key = self.pool.names, key.partition("\0")[0]
        above = _marks_above(prefix, key[: key.rfind("/") + 1])
        return names.is_asked(prefix + key + _MARK) or any(map(names.is_asked, above))

    def _below(self, prefix: str) -> str:
        """Return what the keys of all values below a prefix begin with in the pool; of all values, for an empty prefix."""
        return self._prefix + (f"{prefix.rstrip('/')}/" if prefix.strip("/") else "")

    async def read_unkept(self, key: str, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return a value, or a range, for a caller that keeps only what it makes of it: from the pool if values do not expire
        and it is there, else from the store, without keeping it."""
        found: Any = self._look(key, byte_range) if self.is_trusted else MISSING
        if found is not MISSING:
            return _buffer(found, None)
        return await self._store.get(key, default_buffer_prototype(), byte_range)

    @property
    def is_trusted(self) -> bool:
        """Whether values that are kept do not expire, because all who write do it through a FolioStore of the pool."""
        return self._expiry is None

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return await asyncio.gather(*[self.get(key, prototype, byte_range) for key, byte_range in key_ranges])

    async def get_ranges(
        self,
        key: str,
        byte_ranges: Sequence[ByteRequest | None],
        *,
        prototype: BufferPrototype,
        max_concurrency: int | None = None,
        max_gap_bytes: int | None = None,
        max_coalesced_bytes: int | None = None,
    ) -> AsyncIterator[Sequence[tuple[int, Buffer | None]]]:
        """Read ranges of one value, each as `get` does. Adjacent ranges are not joined into one read.

        Parameters
        ----------
        key : str
            The value's key.
        byte_ranges : sequence of ByteRequest
            The ranges.
        prototype : BufferPrototype
            The type of the buffers.
        max_concurrency : int, optional
            How many ranges are read at once. By default Zarr's ``async.concurrency``.
        max_gap_bytes, max_coalesced_bytes : int, optional
            Not used.

        Yields
        ------
        list of (int, Buffer)
            The index of a range, and its bytes.

        Raises
        ------
        ExceptionGroup
            With what was raised when a range was read, or with a FileNotFoundError if there is no such value: as by the stores
            of Zarr that read ranges.
        """
        limit = asyncio.Semaphore(max_concurrency or config.get("async.concurrency"))

        async def one(number: int, byte_range: ByteRequest | None) -> tuple[int, Buffer]:
            async with limit:
                found = await self.get(key, prototype, byte_range)
            if found is None:
                raise FileNotFoundError(key)
            return number, found

        tasks = [asyncio.ensure_future(one(number, each)) for number, each in enumerate(byte_ranges)]
        try:
            for task in asyncio.as_completed(tasks):
                try:
                    found = await task
                except Exception as error:
                    raise ExceptionGroup(f"ranges of {quoted(key)} cannot be read", [error]) from None
                yield [found]
        finally:
            for started in tasks:
                started.cancel()
                started.add_done_callback(_ended)

    async def _get_many(self, requests: Iterable[tuple[str, BufferPrototype, ByteRequest | None]]) -> Any:
        for request in requests:
            yield request[0], await self.get(*request)

    async def exists(self, key: str) -> bool:
        found = self.recall(key, "")
        if found is MISSING:
            found = await self.make(key, "exists", lambda: self._ask_exists(key))
        return bool((found is not _ABSENT and found != _ABSENT) or isinstance(found, memoryview))

    async def _ask_exists(self, key: str) -> bytes:
        return b"1" if await self._store.exists(key) else _ABSENT

    async def getsize(self, key: str) -> int:
        found = self.recall(key, "")
        if found is MISSING:
            found = await self.make(key, "size", lambda: self._ask_size(key))
            if found != _ABSENT:
                return int.from_bytes(found, "little")
        if isinstance(found, bytes):
            raise FileNotFoundError(key)
        return len(found)

    async def _ask_size(self, key: str) -> bytes:
        try:
            return (await self._store.getsize(key)).to_bytes(8, "little")
        except FileNotFoundError:
            return _ABSENT

    async def getsize_prefix(self, prefix: str) -> int:
        return await self._store.getsize_prefix(prefix)

    # Writing.

    async def set(self, key: str, value: Buffer) -> None:
        await self._changing([key], lambda: self._store.set(key, value))

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        await self._changing([key], lambda: self._store.set_if_not_exists(key, value))

    async def _set_many(self, values: Iterable[tuple[str, Buffer]]) -> None:
        values = list(values)
        await self._changing([key for key, _ in values], lambda: self._store._set_many(values))

    async def delete(self, key: str) -> None:
        await self._changing(None if is_folder(self._store, key) else [key], lambda: self._store.delete(key), key)

    async def delete_dir(self, prefix: str) -> None:
        await self._changing(None, lambda: self._store.delete_dir(prefix), prefix)

    async def clear(self) -> None:
        await self._changing(None, self._store.clear)

    async def _changing(self, keys: Iterable[str] | None, change: _Change, below: str = "") -> None:
        """Wait for a change of some values, or of all below a prefix, and forget them: also if it fails, because the store may
        have made it.

        If this is cancelled, a change that has begun goes on to its end, as it would in a thread of the store, and is forgotten
        then. One that waits for others is not made: it could undo what the caller does next.
        """
        loop = asyncio.get_running_loop()
        wanted = None if keys is None else sorted(set(keys))
        has_begun = False

        def begin() -> None:
            nonlocal has_begun
            has_begun = True

        task = _quiet(loop.create_task(_tried(lambda: self._changed(wanted, change, below, begin))))
        _changes.add(task)
        # A loop keeps its timers until it is closed, but not its tasks. A change that does not end until then leaves no mark.
        timer = loop.call_later(_NEVER, _ended, task)
        task.add_done_callback(_ended)
        task.add_done_callback(lambda _: timer.cancel())
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            if not has_begun:
                task.cancel()
            raise
        _raise(task)

    async def _changed(self, keys: Sequence[str] | None, change: _Change, below: str, begin: Callable[[], None]) -> None:
        async with contextlib.AsyncExitStack() as marks:
            for each in self._marks(keys, below):
                await marks.enter_async_context(await self.pool.names.ask_async(each, math.inf))
            self._forget_changed(keys, below)
            try:
                begin()
                await _made(change, self.pool.fill_timeout)
            finally:
                self._forget_changed(keys, below)

    def _marks(self, keys: Sequence[str] | None, below: str) -> Sequence[str]:
        """Return the keys of a change's marks, in the order in which all ask for them, or two writers could wait for each
        other."""
        self._find_place()
        if keys is not None:
            return [self._prefix + key + _MARK for key in keys]
        return [*(self._prefix + key + _MARK for key in _value_at(below)), self._below(below) + _MARK]

    def _forget_changed(self, keys: Iterable[str] | None, below: str) -> None:
        if keys is None:
            self._forget_below(below)
        else:
            self.forget(keys)

    def forget(self, keys: Iterable[str]) -> None:
        """Forget values that have changed.

        Parameters
        ----------
        keys : iterable of str
            The values' keys.

        Raises
        ------
        FoliocacheError
            The pool has been closed; or another process has stopped while it holds a lock of the pool.
        """
        self._find_place()
        for key in keys:
            self.pool.delete(self._prefix + key)
        self._forget_listings()

    def _forget_below(self, prefix: str) -> None:
        self._find_place()
        self.pool.objects.delete_below(self._below(prefix))
        self.forget(_value_at(prefix))

    def _forget_listings(self) -> None:
        self.pool.delete(self._prefix + _LISTINGS)  # also if this store keeps none: another one of the pool may

    # Listing.

    def list(self) -> AsyncIterator[str]:
        return self._listed("", self._store.list)

    def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        return self._listed(f"prefix {prefix}", lambda: self._store.list_prefix(prefix))

    def list_dir(self, prefix: str) -> AsyncIterator[str]:
        return self._listed(f"dir {prefix}", lambda: self._store.list_dir(prefix))

    async def _listed(self, version: str, ask: Callable[[], AsyncIterator[str]]) -> AsyncIterator[str]:
        if not self._listings:
            async for each in ask():
                yield each
            return
        prefix = self._find_place()

        async def make() -> Any:
            made = memoryview(json.dumps([each async for each in ask()]).encode())
            return Unkept(made) if self._has_left(prefix) else made

        key = prefix + _LISTINGS
        found = await self.pool.get_or_create_async(key, make, version=version, expiry=self._listings, loads="arrays")
        for each in json.loads(bytes(found)):
            yield each


class _SyncFolioStore(FolioStore):
    """A FolioStore around a store with synchronous methods. It has these methods, too."""

    def __reduce__(self) -> Any:
        return FolioStore.__new__, (FolioStore, self._store), self.__getstate__()

    def get_sync(
        self, key: str, *, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        found = self._look(key, byte_range)
        if found is MISSING:
            store = _synchronous(self._store)
            word = ""
            if type(byte_range) is RangeByteRequest:
                word = self.known_word(key) or self._make_sync(key, _WORD, lambda: os.urandom(8)).hex()
            found = self._make_sync(
                *_place(key, byte_range, word),
                lambda: _content(store.get_sync(key, prototype=default_buffer_prototype(), byte_range=byte_range)),
            )
        return _buffer(found, prototype)

    def _make_sync(self, key: str, version: str, make: Callable[[], Any]) -> Any:
        prefix = self._find_place()

        def checked() -> Any:
            is_changing = self._is_changing(prefix, key)
            made = make()
            return Unkept(made) if is_changing or self._has_left(prefix) else made

        return self.pool.get_or_create(prefix + key, checked, version=version, expiry=self._expiry, loads="arrays")

    def set_sync(self, key: str, value: Buffer) -> None:
        store = _synchronous(self._store)
        with self._changing_sync([key]):
            store.set_sync(key, value)

    def delete_sync(self, key: str) -> None:
        store = _synchronous(self._store)
        with self._changing_sync(None if is_folder(store, key) else [key], key):
            store.delete_sync(key)

    @contextlib.contextmanager
    def _changing_sync(self, keys: Sequence[str] | None, below: str = "") -> Iterator[None]:
        """Do what ``_changing`` does, around a change that this thread makes."""
        with contextlib.ExitStack() as marks:
            for each in self._marks(keys, below):
                marks.enter_context(self.pool.names.ask(each, math.inf))
            self._forget_changed(keys, below)
            try:
                yield
            finally:
                self._forget_changed(keys, below)


if hasattr(WrapperStore, "get_sync"):  # a class that is derived from FolioStore inherits those, which pass the pool by
    for _each in ("get_sync", "set_sync", "delete_sync", "_make_sync", "_changing_sync"):
        setattr(FolioStore, _each, vars(_SyncFolioStore)[_each])


_changes: weakref.WeakSet[asyncio.Task[Exception | None]] = weakref.WeakSet()  # those that are made


async def _made(change: _Change, patience: float) -> None:
    """Wait for a change. If this task is cancelled, the change is not, for so many seconds.

    ``asyncio.run`` cancels all tasks at its end, and waits for them. A thread that makes the change would go on, and make it
    when there is no mark any more.
    """
    loop = asyncio.get_running_loop()
    task = _quiet(loop.create_task(_tried(change)))
    asyncio._unregister_task(task)  # now it is none of all tasks
    task.add_done_callback(_ended)
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        end = loop.time() + patience
        while not task.done() and (left := end - loop.time()) > 0:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([task], timeout=left)
        task.cancel()
        while not task.done():  # it may await what it does at its end
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:
                task.cancel()
        raise
    _raise(task)


async def _tried(change: _Change) -> Exception | None:
    """Wait for a change, and return what it raises. asyncio reports what a task raises if its loop is closed before anybody has
    asked the task, and, from Python 3.14 on, if the one who waits by ``asyncio.shield`` was cancelled."""
    try:
        await change()
    except Exception as error:
        return error
    return None


def _raise(task: asyncio.Task[Exception | None]) -> None:
    """Raise what a task of ``_tried`` that is done returned, if anything."""
    error = task.result()
    if error is not None:
        raise error


def _quiet(task: asyncio.Task[Exception | None]) -> asyncio.Task[Exception | None]:
    """Return a task of which asyncio says nothing if its loop is closed before it has ended, as a second Ctrl-C does: nobody
    has made it, and the one who waits is told."""
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    return task


def _ended(task: asyncio.Task[Any]) -> None:
    _changes.discard(task)
    if not task.cancelled():
        task.exception()  # is told to the caller, unless that was cancelled; asyncio need not report it


_SyncFolioStore.__name__ = _SyncFolioStore.__qualname__ = FolioStore.__name__  # for users, it is the same class


def _check_store(store: object) -> None:
    if not isinstance(store, Store):
        raise TypeError(f"store must be a store of zarr, from zarr.storage or zarr.abc.store.Store, not {quoted(store)}")


def _is_synchronous(store: object) -> bool:
    """Return True if a store has all synchronous methods, or if Zarr's wrappers have them, which then say if they work."""
    return _has_sync(store) or hasattr(WrapperStore, "get_sync")


def _has_sync(store: object) -> bool:
    return all(isinstance(store, kind) for kind in (SupportsGetSync, SupportsSetSync, SupportsDeleteSync))


def _synchronous(store: object) -> Any:
    """Return a store that has all synchronous methods. Raises TypeError, as Zarr's wrappers do, if it has not."""
    if not _has_sync(store):
        raise TypeError(f"{type(store).__name__} has no synchronous methods; await the others")
    return store


@functools.lru_cache(1024)
def _marks_above(prefix: str, folder: str) -> tuple[str, ...]:
    """Return the keys of the marks of a folder, of those above it, and of all values of the place."""
    full = prefix + folder
    first = full.index(":", full.index(":") + 1) + 1  # behind the identity of the file system, or the name
    ends = {first, len(prefix), *(each.end() for each in re.finditer("/", full) if each.end() > first)}
    return tuple(full[:end] + _MARK for end in sorted(ends))


def _value_at(folder: str) -> list[str]:
    """Return the key of the value that may have the path of a folder: file systems of fsspec delete it with the folder."""
    return [folder.rstrip("/")] if folder.strip("/") else []


def part(key: str, word: str, which: str) -> str:
    """Return the key of a part of a value."""
    return f"{key}\0{word} {which}"


def _place(key: str, byte_range: ByteRequest | None, word: str) -> tuple[str, str]:
    """Return the key and the version of a value, or of a range. Raises ValueError."""
    match byte_range:
        case None:
            return key, ""
        case RangeByteRequest(start, end):
            return part(key, word, f"{start}-{end}"), ""
        case OffsetByteRequest(offset):
            return key, f"{offset}-"
        case SuffixByteRequest(suffix):
            return key, f"-{suffix}"
    raise ValueError(f"Unexpected byte_range, got {byte_range}.")


def _cut(view: memoryview, byte_range: ByteRequest) -> memoryview:
    match byte_range:
        case RangeByteRequest(start, end):
            return view[start:end]
        case OffsetByteRequest(offset):
            return view[offset:]
        case SuffixByteRequest(suffix):
            return view[max(len(view) - suffix, 0) :]
    raise AssertionError(byte_range)


def _content(value: Buffer | None) -> memoryview | bytes:
    if value is None:
        return _ABSENT
    array: Any = numpy.ascontiguousarray(value.as_numpy_array()).view(numpy.uint8)
    return memoryview(array) if array.nbytes else memoryview(b"")


def _buffer(found: memoryview | bytes, prototype: BufferPrototype | None) -> Buffer | None:
    if isinstance(found, bytes):
        return None
    return (prototype or default_buffer_prototype()).buffer.from_bytes(cast("bytes", found))
