"""A tier on a local disk: slots of one size in one preallocated file, shared by all processes that see its folder.

Nothing is synced. After a power failure, a slot has what it should have, or its bytes do not pass the CRC in its header: that
is a miss. The same holds for a slot that is overwritten while it is read.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from .crc import crc32c_function
from .files import Files
from .index import Index, Piece, runs
from .layout import PAGE, Header
from .tier import Part

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ..observe.records import Finding

IOV_MAX = 512
SCRATCH_MAX = 16  # buffers that are kept

_Planned = tuple[int, Piece, int]  # the number of a part, a piece of it, and where in the part's buffer it begins


class DiskTier:
    """A folder with a disk tier, which is made if there is none.

    Parameters
    ----------
    path : str
        The folder. It is made, and belongs to this user.
    size : int, optional
        The most bytes that its files take together; they are preallocated. An existing tier keeps its size.
    slot : int, optional
        Bytes of a slot, a power of two. 64 KiB by default.
    direct : bool, optional
        True to bypass the kernel's page cache, False not to. By default it is bypassed where the file system allows that.
    any_owner : bool
        Use a tier of another user, too, who can change its bytes at any time.

    Raises
    ------
    ImportError
        The package crc32c is not installed.
    PoolMismatchError
        There is a tier with another size of slots, or another size.
    PoolError
        It belongs to another user, is damaged, or has no size.
    OSError
        The folder or the files cannot be made or opened.
    """

    def __init__(
        self,
        path: str,
        size: int | None = None,
        *,
        slot: int | None = None,
        direct: bool | None = None,
        any_owner: bool = False,
    ) -> None:
        self._crc32c = crc32c_function()
        self.path = path
        self.is_direct: bool
        self.bad_slots: int = 0  # that did not pass their CRC, in this process
        files = Files(path, any_owner)
        lock, fd, shape = files.opened(size, slot)
        self.index: Index = Index(fd, shape, lock)
        self.shape = shape
        self._scratch: deque[mmap.mmap] = deque(maxlen=SCRATCH_MAX)
        try:
            self._fd, self.is_direct = files.open_slots(direct, lock is not None)
        except BaseException:
            os.close(fd)
            raise

    def close(self) -> None:
        """Close the files. Nobody may be using it."""
        for fd in (self.index.fd, self._fd):
            with contextlib.suppress(OSError):
                os.close(fd)
        if self.index.lock is not None:
            self.index.lock.close()

    # The tier.

    def holds(self, digest: bytes, spans: Sequence[tuple[int, int]]) -> list[bool]:
        """Return for each span (offset, length) whether the index leads to all of it."""
        return [bool(self.index.cover(digest, *span)) for span in spans]

    def wants(self, digest: bytes, offset: int, length: int) -> bool:
        """Return True while there are slots that were never used, and then for what is missed a second time."""
        return self.index.was_seen(digest, offset, length)

    def load(self, digest: bytes, parts: Sequence[Part]) -> list[bool]:
        """Fill the buffers that are here; see `Tier.load`."""
        filled = [False] * len(parts)
        planned: list[_Planned] = []
        for number, (offset, buffer) in enumerate(parts):
            pieces = self.index.cover(digest, offset, len(buffer))
            filled[number] = bool(pieces)
            at = 0
            for piece in pieces:
                planned.append((number, piece, at))
                at += piece.end - piece.begin
        good: list[int] = []
        for group in self._groups(planned):
            for (number, piece, _), is_good in zip(group, self._read(group, parts), strict=True):
                if is_good:
                    good.append(piece.header.slot)
                else:
                    filled[number] = False
        for first, count in runs(good):
            self.index.mark(first, count)
        return filled

    def store(self, digest: bytes, parts: Sequence[Part]) -> None:
        """Write ranges into slots; see `Tier.store`."""
        views: dict[tuple[int, int], memoryview] = {}  # by offset and length
        wanted = []
        for offset, data in parts:
            for begin, end in self._blocks(offset, len(data)):
                if (begin, end - begin) in views:
                    continue
                view = data[begin - offset : end - offset]
                views[begin, end - begin] = view
                wanted.append((digest, begin, end - begin, self._crc32c(view)))
        try:
            headers = self.index.claim(wanted)
            try:
                for group in self._write_groups(headers):
                    self._write(group[0].slot, [views[one.offset, one.length] for one in group])
                self.index.publish(headers)
            finally:
                self.index.disown(headers)
        finally:
            for view in views.values():
                view.release()

    def pace(self, length: int, rate: int) -> float:
        """Return the seconds to wait after a store of so many bytes; see `Index.pace`."""
        return self.index.pace(length, rate)

    def _blocks(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """Divide a range at the multiples of the size of slots. What does not begin at a page's boundary is left out."""
        end = offset + length
        while offset < end:
            stop = min(end, (offset // self.shape.slot_size + 1) * self.shape.slot_size)
            if offset % PAGE == 0:
                yield offset, stop
            offset = stop

    # Looking after it.

    def check(self, *, repair: bool = False, data: bool = False) -> list[Finding]:
        """Return what is wrong in it; all of it is a miss to readers.

        Parameters
        ----------
        repair : bool
            Drop it, too.
        data : bool
            Read all slots. It takes as long as the disk takes for that.

        Returns
        -------
        list of Finding

        Raises
        ------
        Exception
            The disk does not work, or a writer has stopped while it holds the lock.
        """
        from . import checking

        return checking.check(self, repair, data)

    def has_right_bytes(self, header: Header) -> bool:
        """Return True if the slot of a header has the bytes that the header says."""
        scratch = self._take_scratch()
        try:
            with memoryview(scratch) as whole, whole[: _rounded(header.length)] as view:
                got = os.preadv(self._fd, [view], header.slot * self.shape.slot_size)
                with view[: header.length] as content:
                    return got >= header.length and self._crc32c(content) == header.crc
        finally:
            self._scratch.append(scratch)

    # Input and output.

    def _groups(self, planned: list[_Planned]) -> Iterator[list[_Planned]]:
        """Divide pieces into groups, each of which is read by one call straight into the buffers: full slots in a row."""
        group: list[_Planned] = []
        for one in planned:
            header = one[1].header
            last = group[-1][1].header if group else None
            if last is not None and not (
                header.slot == last.slot + 1
                and last.length == self.shape.slot_size
                and len(group) < IOV_MAX
                and _is_direct(one)
                and _is_direct(group[-1])
            ):
                yield group
                group = []
            group.append(one)
        if group:
            yield group

    def _read(self, group: list[_Planned], parts: Sequence[Part]) -> list[bool]:
        """Read a group. Return for each piece whether its bytes are right."""
        if not _is_direct(group[0]):
            return [self._read_by_copy(one, parts) for one in group]
        views = [parts[number][1][at : at + end] for number, (_, _, end), at in group]
        try:
            try:
                got = os.preadv(self._fd, views, group[0][1].header.slot * self.shape.slot_size)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                return [self._read_by_copy(one, parts) for one in group]  # the buffers are not aligned
            self._uncache(group[0][1].header.slot, got)
            if got != sum(map(len, views)):
                return [False] * len(group)
            return [self._is_right(one[1].header, view) for one, view in zip(group, views, strict=True)]
        finally:
            for view in views:
                view.release()

    def _read_by_copy(self, one: _Planned, parts: Sequence[Part]) -> bool:
        """Read a piece by way of a buffer of our own: it is longer than what is wanted, or not a whole number of pages."""
        number, (header, begin, end), at = one
        scratch = self._take_scratch()
        try:
            with memoryview(scratch) as whole, whole[: _rounded(header.length)] as view:
                got = os.preadv(self._fd, [view], header.slot * self.shape.slot_size)
                self._uncache(header.slot, got)
                with view[: header.length] as content:
                    if got < header.length or not self._is_right(header, content):
                        return False
                    with content[begin:end] as wanted:
                        parts[number][1][at : at + end - begin] = wanted
            return True
        finally:
            self._scratch.append(scratch)

    def _is_right(self, header: Header, content: Buffer) -> bool:
        if self._crc32c(content) == header.crc:
            return True
        self.bad_slots += 1
        self.index.drop(header)
        return False

    def _write_groups(self, headers: Sequence[Header]) -> Iterator[list[Header]]:
        """Divide headers into groups, each of which is written by one call."""
        group: list[Header] = []
        for header in headers:
            last = group[-1] if group else None
            if last is not None and (
                header.slot != last.slot + 1 or last.length != self.shape.slot_size or len(group) == IOV_MAX
            ):
                yield group
                group = []
            group.append(header)
        if group:
            yield group

    def _write(self, slot: int, views: Sequence[memoryview]) -> None:
        """Write pieces to slots in a row. The last may be shorter than a slot."""
        scratches: list[mmap.mmap] = []
        with contextlib.ExitStack() as stack:
            pages: list[memoryview] = []
            for view in views:
                if len(view) % PAGE:
                    scratch = self._take_scratch()
                    scratches.append(scratch)
                    scratch[: len(view)] = view
                    scratch[len(view) : _rounded(len(view))] = bytes(_rounded(len(view)) - len(view))
                    whole = stack.enter_context(memoryview(scratch))
                    view = stack.enter_context(whole[: _rounded(len(view))])
                pages.append(view)
            self._write_pages(slot * self.shape.slot_size, pages)
        self._scratch.extend(scratches)

    def _write_pages(self, at: int, pages: Sequence[memoryview]) -> None:
        total = sum(map(len, pages))
        try:
            done = os.pwritev(self._fd, pages, at)
        except OSError as error:
            if error.errno != errno.EINVAL or not self.is_direct:
                raise
            done = 0  # the buffers are not aligned
            scratch = self._take_scratch()
            for page in pages:
                scratch[: len(page)] = page
                with memoryview(scratch) as whole, whole[: len(page)] as view:
                    done += os.pwrite(self._fd, view, at + done)
            self._scratch.append(scratch)
        if done != total:
            raise OSError(errno.ENOSPC, f"{done} of {total} bytes were written")
        self._uncache(at // self.shape.slot_size, total)

    def _uncache(self, slot: int, length: int) -> None:
        """Without O_DIRECT: the kernel need not keep what the pool has."""
        if not self.is_direct:
            os.posix_fadvise(self._fd, slot * self.shape.slot_size, length, os.POSIX_FADV_DONTNEED)

    def _take_scratch(self) -> mmap.mmap:
        try:
            return self._scratch.pop()
        except IndexError:
            return mmap.mmap(-1, self.shape.slot_size)


def _is_direct(one: _Planned) -> bool:
    """Return True if a piece can be read straight into its buffer: all of it, in whole pages."""
    header, begin, end = one[1]
    return begin == 0 and end == header.length and not end % PAGE


def _rounded(length: int) -> int:
    return -(-length // PAGE) * PAGE
