"""The files that ``folio`` opens: reads come from the pool, writes go to the target and invalidate the cache.

A :class:`FolioFile` reads one version of one object for as long as it is open, whatever happens at the origin meanwhile: it
reads that version's pages, or raises :class:`~foliocache.ChangedError`. It has no buffer of its own, only a position; the pool
is the buffer.

That a server contradicts itself shows only at the first fetch. A file that has not returned any byte before that has not
committed to a version, so it then reads through the target, uncached, as if it had been opened later.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from operator import index
from typing import TYPE_CHECKING, Any, Self

from foliocache import ChangedError
from foliocache.errors import FoliocacheError
from foliocache.filler.awaiting import in_thread
from foliocache.sizes import quoted

if TYPE_CHECKING:
    from .filesystem import FolioFileSystem
    from .target import Identity

_PEEK = io.DEFAULT_BUFFER_SIZE


class FolioFile(io.BufferedIOBase):
    """A cached object, open for reading in binary mode: what ``fs.open`` returns.

    An open file reads one version: it returns that version's bytes or raises ChangedError. It pickles with its file system.

    Attributes
    ----------
    fs : FolioFileSystem
        The filesystem that opened the file.
    path : str
        The object, as the target names it.
    size : int
        The object's size in bytes.
    """

    mode = "rb"

    def __init__(
        self,
        fs: FolioFileSystem,
        path: str,
        identity: Identity,
        position: int = 0,
        is_bound: bool = False,
        block_size: int | None = None,
    ) -> None:
        super().__init__()
        self.fs = fs
        self.path = path
        self.size: int = identity.size or 0
        self.identity = identity
        self._block_size = block_size if isinstance(block_size, int) and block_size > 0 else None  # bytes of one request
        self._mapping = self._map()
        self._position = position
        self._is_bound = is_bound  # to this version: some of its bytes have been returned
        self._uncached: Uncached | None = None

    @property
    def _pages(self) -> Any:
        """The object's mapping; a new one if the pool, which the whole process shares, has been closed."""
        if self._mapping is None:
            raise ValueError("I/O operation on closed file.")
        if self._mapping.pool.closed:
            self._mapping = self._map()
        return self._mapping

    def _map(self) -> Any:
        """Return the filesystem's mapping of the object; a new one if the file has a request size of its own."""
        if self._block_size is None:
            return self.fs._map(self.path, self.identity)
        mapping = self.fs._new_map(self.path, self.identity)
        self._block_size = -(-self._block_size // mapping.unit_size) * mapping.unit_size
        mapping.filler.request_size = self._block_size
        return mapping

    def _load(self, mapping: Any, offset: int, what: Any) -> None:
        """Fetch the blocks of a range that are not wholly cached, each as a whole. what: the length, or a buffer to fill."""
        length = what if isinstance(what, int) else memoryview(what).nbytes
        block_size = self._block_size
        if block_size is None or length <= 0 or offset < 0 or mapping.is_cached(offset, length):
            return
        end = min(offset + length, self.size)
        for block in range(offset - offset % block_size, end, block_size):
            start, stop = block, min(block + block_size, self.size)
            last = min(stop, end)
            while start < last and mapping.is_cached(start, mapping.unit_size):
                start = (start // mapping.unit_size + 1) * mapping.unit_size
            if start < last:
                next(mapping.pieces(start, stop - start)).release()

    def _get(self, method: str, offset: int, what: Any) -> Any:
        """Return what this method of the mapping returns for (offset, what)."""
        if (uncached := self._uncached) is not None:
            return getattr(uncached, method)(offset, what)
        mapping = self._mapping
        try:
            if self._block_size is not None:
                self._load(self._pages, offset, what)
            result = getattr(self._pages, method)(offset, what)
        except ChangedError:
            if self._is_bound or (now := self.fs._identify(self.path)).size is not None:
                raise
            self._is_bound, self._uncached = True, Uncached(self.fs, self.path, now)
            return self._get(method, offset, what)
        except FoliocacheError:
            if mapping is None or (mapping is self._mapping and not mapping.pool.closed):
                raise
            return self._get(method, offset, what)  # the pool was closed meanwhile
        if result:
            self._is_bound = True
        return result

    async def _get_async(self, offset: int, length: int) -> bytes:
        """Return what ``_get`` returns for ``read_bytes``, without blocking the event loop."""
        if self._uncached is not None or (self._block_size is not None and not self._pages.is_cached(offset, length)):
            return await in_thread(self._get, "read_bytes", offset, length)
        mapping = self._mapping
        try:
            data: bytes = await self._pages.read_bytes_async(offset, length)
        except ChangedError:
            if self._is_bound:
                raise
            return await in_thread(self._get, "read_bytes", offset, length)  # _get finds out how the object changed
        except FoliocacheError:
            if mapping is None or (mapping is self._mapping and not mapping.pool.closed):
                raise
            return await self._get_async(offset, length)
        self._is_bound = self._is_bound or bool(data)
        return data

    def __reduce__(self) -> tuple[Any, ...]:
        self._check_open()
        return type(self), (self.fs, self.path, self.identity, self._position, self._is_bound, self._block_size)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {quoted(self.path)} at {self._position} of {self.size}>"

    @property
    def blocksize(self) -> int:
        return self._pages.unit_size

    @property
    def details(self) -> dict[str, Any]:
        return self.info()

    @property
    def full_name(self) -> str:
        return self.fs.unstrip_protocol(self.path)

    def info(self) -> dict[str, Any]:
        """Return the target's current ``info()`` of the path. It may be newer than the version that this file reads."""
        return self.fs.info(self.path)

    def readable(self) -> bool:
        self._check_open()
        return True

    def seekable(self) -> bool:
        self._check_open()
        return True

    def tell(self) -> int:
        self._check_open()
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._check_open()
        if whence not in (os.SEEK_SET, os.SEEK_CUR, os.SEEK_END):
            raise ValueError(f"invalid whence ({whence}, should be 0, 1 or 2)")
        position = index(offset) + (0, self._position, self.size)[whence]
        if position < 0:
            raise ValueError(f"Seek before start of file ({position})")
        self._position = position
        return position

    def read(self, size: int | None = -1, /) -> bytes:
        data = self._get("read_bytes", self._position, self._length(size))
        self._position += len(data)
        return data

    async def read_async(self, size: int | None = -1, /) -> bytes:
        """`read` for event loops.

        Parameters
        ----------
        size : int, optional
            How many bytes. By default, or if negative, all up to the end.

        Returns
        -------
        bytes

        Raises
        ------
        ChangedError
            The origin has another version of the object now, and these bytes are not cached.
        """
        data = await self._get_async(self._position, self._length(size))
        self._position += len(data)
        return data

    def read1(self, size: int = -1, /) -> bytes:
        return self.read(_PEEK if size < 0 else size)

    def read_buffer(self, size: int | None = -1, /) -> memoryview:
        """Like `read`, but return a read-only view: of the pages themselves if one folio has all of the range. pyarrow uses it.

        Parameters
        ----------
        size : int, optional
            How many bytes. By default, or if negative, all up to the end.

        Returns
        -------
        memoryview

        Raises
        ------
        ChangedError
            The origin has another version of the object now, and these bytes are not cached.
        """
        data = self._get("read", self._position, self._length(size))
        self._position += len(data)
        return data

    def readinto(self, buffer: Any, /) -> int:
        count: int = self._get("readinto", self._position, buffer)
        self._position += count
        return count

    readinto1 = readinto

    def peek(self, size: int = 0, /) -> bytes:
        """Return the next bytes without moving the position. ``io`` searches them for newlines, in readline() and iteration."""
        return self._get("read_bytes", self._position, self._length(max(size, _PEEK)))

    def lease(self, offset: int, length: int) -> memoryview:
        """Return a range of the object as a view, without a copy if one folio has all of it. The position does not matter.

        Parameters
        ----------
        offset, length : int
            The first byte, and how many; cut off at the end of the object.

        Returns
        -------
        memoryview
            Read-only. The folio stays pinned while the view exists.

        Raises
        ------
        ChangedError
            The origin has another version of the object now, and these bytes are not cached.
        """
        return self._get("read", index(offset), index(length))

    def pieces(self, offset: int = 0, length: int | None = None) -> Iterator[memoryview]:
        """Return a range of the object as views of the folios that have it, one after the other, without a copy. The position
        does not matter.

        Parameters
        ----------
        offset : int
            The first byte.
        length : int, optional
            How many bytes, cut off at the end of the object. By default all up to the end.

        Returns
        -------
        iterator of memoryview
            Each view is read-only, has the bytes that follow those of the one before, and pins its folio while it exists; the
            iterator keeps none. Missing bytes are fetched when the iterator gets to them, and some bytes ahead.

        Raises
        ------
        ChangedError
            From ``next``: the origin has another version of the object now, and these bytes are not cached.
        ValueError
            The offset or length is negative; or, from ``next``, the file is closed.
        """
        offset, length = index(offset), self.size if length is None else index(length)
        if offset < 0 or length < 0:
            raise ValueError(f"offset and length must not be negative: {offset}, {length}")
        self._check_open()
        return self._each_piece(offset, min(offset + length, self.size))

    def _each_piece(self, place: int, end: int) -> Iterator[memoryview]:
        while place < end:
            most = end - place
            if self._block_size is not None:  # a piece does not wait for other blocks
                most = min(most, self._block_size - place % self._block_size)
            views = [memoryview(self._get("lease", place, most))]
            if not views[0]:  # an object that is not cached has become shorter
                return
            place += len(views[0])
            yield views.pop()

    def close(self) -> None:
        self._mapping = self._uncached = None
        super().close()

    def _length(self, size: int | None) -> int:
        left = max(self.size - self._position, 0)
        return left if size is None or (size := index(size)) < 0 else min(size, left)

    def _check_open(self) -> None:
        if self._mapping is None:
            raise ValueError("I/O operation on closed file.")


class Uncached:
    """The read methods of a mapping, but uncached, through the target: for an object whose bytes cannot be proven after all."""

    def __init__(self, fs: FolioFileSystem, path: str, identity: Identity) -> None:
        self._fs = fs
        self._path = path
        self._identity = identity

    def read_bytes(self, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0:
            raise ValueError(f"offset and length must not be negative: {offset}, {length}")
        return self._fs.target.uncached(self._path, self._identity, offset, offset + length) if length else b""

    def read(self, offset: int, length: int) -> memoryview:
        return memoryview(self.read_bytes(offset, length))

    lease = read

    def readinto(self, offset: int, buffer: Any) -> int:
        with memoryview(buffer) as view:
            if not view.nbytes:  # cast() refuses an array with a zero in its shape
                return 0
            with view.cast("B") as target:
                data = self.read_bytes(offset, len(target))
                target[: len(data)] = data
        return len(data)


class WriteThrough:
    """The target's own file, open for writing. Meanwhile the path's identity is not remembered; at the end its pages are
    dropped.

    The end is close(), or the last reference to the file: it is then closed, as Python closes its own files.
    """

    def __init__(self, fs: FolioFileSystem, path: str, opener: Callable[[], Any]) -> None:
        self.fs = fs
        self.path = path
        self._pid = os.getpid()
        self._writer = fs._identities.begin_writing(path)
        try:
            with fs._changing(path):
                self.file: Any = opener()
        except BaseException:
            self._end()
            raise

    def __del__(self, getpid: Callable[[], int] = os.getpid) -> None:
        if "file" not in self.__dict__ or self._writer is None:
            return
        if self._pid != getpid():  # inherited by fork: the parent closes it
            self._end()
        elif os is None:  # the interpreter ends, and modules are gone
            self.file.close()
        else:
            self.close()

    def __getattr__(self, name: str) -> Any:
        if name in ("file", "fs", "path", "_pid", "_writer"):  # not yet set: during __init__ or unpickling
            raise AttributeError(name)
        return getattr(self.file, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __iter__(self) -> Any:
        return iter(self.file)

    def __next__(self) -> bytes:
        return next(self.file)

    def close(self) -> None:
        try:
            with self.fs._changing(self.path):
                self.file.close()
        finally:
            self._end()

    def commit(self) -> None:
        with self.fs._changing(self.path):
            self.file.commit()

    def discard(self) -> None:
        with self.fs._changing(self.path):  # a mode other than "w" may have written in place
            self.file.discard()

    def _end(self) -> None:
        self.fs._identities.end_writing(self._writer)
        self._writer = None
