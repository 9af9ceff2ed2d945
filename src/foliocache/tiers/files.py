"""The files of a disk tier: opened, made if there are none, and removed."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat

from ..errors import PoolError, PoolMismatchError
from ..sizes import format_size
from . import layout
from .layout import PAGE, Shape
from .lock import WriteLock

MAKING_PATIENCE = 60.0  # seconds to wait for another process that makes the tier


class Files:
    """The files in the folder ``path``. ``any_owner``: also another user's."""

    def __init__(self, path: str, any_owner: bool) -> None:
        self.path = path
        self._any_owner = any_owner

    def opened(self, size: int | None, slot: int | None) -> tuple[WriteLock | None, int, Shape]:
        """Return the lock, the index's descriptor and the shape. Without a lock, the tier can be read only."""
        layout.check(size, slot)
        if size is None and not os.path.lexists(self._file("index")):
            raise PoolError(f"there is no tier in {self.path}; give a size, such as disk:{self.path}?size=100GiB")
        made = True
        if os.path.lexists(self.path) and not os.path.isdir(self.path):
            raise PoolError(f"{self.path} is not a folder, and a tier is one")
        try:
            os.makedirs(self.path, 0o700, exist_ok=True)
            self._check_owner(os.stat(self.path))
            lock: WriteLock | None = WriteLock(os.path.join(self.path, "lock"))
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.EACCES):
                raise
            lock, made = None, False
        fd = self._open_index(made)
        if fd is None:
            if lock is None:
                raise OSError(errno.EROFS, f"there is no tier in {self.path}, and none can be made")
            fd = self._make(lock, size, slot)
        try:
            shape = self._checked(fd, size, slot)
        except BaseException:
            os.close(fd)
            raise
        return lock, fd, shape

    def _open_index(self, writable: bool) -> int | None:
        try:
            return os.open(self._file("index"), (os.O_RDWR if writable else os.O_RDONLY) | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None

    def _checked(self, fd: int, size: int | None, slot: int | None) -> Shape:
        found = os.fstat(fd)
        self._check_owner(found)
        shape = layout.unpack_super(os.pread(fd, PAGE, 0))
        advice = f"remove it (foliocache tier rm {self.path})"
        if shape is None:
            raise PoolError(f"{self._file('index')} is not the index of a tier; {advice}")
        if found.st_size < shape.index_bytes:
            raise PoolError(f"{self._file('index')} is cut off; {advice}")
        wanted = shape.slots if size is None else layout.slots_for(size, shape.slot_size)
        if slot not in (None, shape.slot_size) or wanted != shape.slots:
            raise PoolMismatchError(
                f"the tier in {self.path} has {shape.slots} slots of {format_size(shape.slot_size)}; give its size, or leave "
                f"size and slot out, or {advice}"
            )
        return shape

    def _check_owner(self, found: os.stat_result) -> None:
        if found.st_uid != os.geteuid() and not self._any_owner:
            raise PoolError(
                f"the tier in {self.path} belongs to another user, who can change its bytes at any time; any_owner=yes uses it"
            )

    def _make(self, lock: WriteLock, size: int | None, slot: int | None) -> int:
        """Make the files, unless another process has done that meanwhile. The index comes last, by its name."""
        with lock.held(MAKING_PATIENCE) as held:
            if not held:
                raise OSError(errno.EAGAIN, f"another process has been making the tier in {self.path} for too long")
            fd = self._open_index(True)
            if fd is not None:
                return fd
            if size is None:
                raise PoolError(f"the tier in {self.path} has just been removed")
            slot_size = slot or layout.SLOT
            shape = Shape(slot_size, layout.slots_for(size, slot_size), secrets.token_bytes(16))
            draft = self._file("index.new")
            try:
                os.close(_allocated(self._file("slots"), shape.slots_bytes))
                fd = _allocated(draft, shape.index_bytes)
                os.pwrite(fd, layout.pack_state(layout.State(0, 1, 0), shape.seed), layout.STATE_AT)
                os.pwrite(fd, layout.pack_super(shape), 0)
                os.rename(draft, self._file("index"))
            except BaseException:
                for name in ("slots", "index.new"):
                    with contextlib.suppress(OSError):
                        os.unlink(self._file(name))
                if fd is not None:
                    os.close(fd)
                raise
            return fd

    def open_slots(self, direct: bool | None, writable: bool) -> tuple[int, bool]:
        """Open the slots. Return their descriptor, and whether it bypasses the kernel's page cache."""
        flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_NOFOLLOW | os.O_CLOEXEC
        path = self._file("slots")
        try:
            is_file = stat.S_ISREG(os.lstat(path).st_mode)
        except FileNotFoundError:
            is_file = False
        if not is_file:
            raise PoolError(f"{path} is missing, or no file; remove the tier (foliocache tier rm {self.path})")
        if direct is not False:
            try:
                return os.open(path, flags | os.O_DIRECT), True
            except OSError as error:
                if error.errno != errno.EINVAL or direct:
                    raise
        return os.open(path, flags), False

    def _file(self, name: str) -> str:
        return os.path.join(self.path, name)


def remove(path: str) -> None:
    """Remove a tier and its folder. Processes that use it keep its files until they end.

    Raises OSError if it cannot be removed, and PoolError if there is none.
    """
    names = ("index", "index.new", "slots", "lock")
    there = [name for name in names if os.path.lexists(os.path.join(path, name))]
    if not set(there) - {"lock"}:
        raise PoolError(f"there is no tier in {path}")
    if not _is_tier(path):
        raise PoolError(f"what is in {path} is no tier: no file lock without bytes, and no file index that begins as a tier's")
    for name in there:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(path, name))
    with contextlib.suppress(OSError):  # there is something else in it
        os.rmdir(path)


def _is_tier(path: str) -> bool:
    """Return True if what has a tier's names in a folder seems to be one, whatever is damaged. The lock never has a byte."""
    with contextlib.suppress(OSError):
        found = os.lstat(os.path.join(path, "lock"))
        if stat.S_ISREG(found.st_mode) and not found.st_size:
            return True
    with contextlib.suppress(OSError), open(os.path.join(path, "index"), "rb") as index:
        return index.read(len(layout.MAGIC)) == layout.MAGIC
    return False


def _allocated(path: str, size: int) -> int:
    """Return the descriptor of a new file with room for ``size`` bytes."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError as error:
            raise OSError(error.errno, f"{format_size(size)} cannot be allocated: {error.strerror}", path) from None
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, f"{path} is no regular file")
    except BaseException:
        os.close(fd)
        raise
    return fd
