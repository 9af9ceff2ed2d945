"""The locks of a disk tier's writers: of all processes that see its folder, and of the threads of this one.

Byte 0 of the file is locked by who writes to the index, byte 1 + n while a writer writes to slot n. The kernel's locks end with
their holder: with the last write of a process that is killed, not before. They belong to the open file, which a forked child
would share: the child closes its copy. Readers take no lock.
"""

from __future__ import annotations

import _thread
import contextlib
import fcntl
import os
import struct
import time
import weakref
from collections.abc import Callable, Iterator

_RECORD = struct.Struct("@hhqqi0q")  # struct flock
_LOOK_AGAIN = 0.001  # seconds

_locks: weakref.WeakSet[WriteLock] = weakref.WeakSet()


class WriteLock:
    """A lock on a file, made if there is none."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd: int | None = None
        self._threads = _thread.allocate_lock()
        self._written: set[int] = set()  # slots that threads of this process write to: their locks have one owner
        self._open()
        _locks.add(self)

    def _open(self) -> int:
        if self._fd is None:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        return self._fd

    @contextlib.contextmanager
    def held(self, patience: float) -> Iterator[bool]:
        """Hold the lock during a ``with``. Yields False if others have held it for ``patience`` seconds. Raises OSError."""
        deadline = time.monotonic() + patience
        threads = self._threads
        if not threads.acquire(patience > 0, patience if patience > 0 else -1):
            yield False
            return
        taken = False
        try:
            fd = self._open()
            while not (taken := _lock(fd, 0, 1)) and time.monotonic() < deadline:
                time.sleep(_LOOK_AGAIN)
            yield taken
        finally:
            if taken:
                _unlock(fd, 0, 1)
            threads.release()

    def own(self, first: int, count: int) -> list[int]:
        """In a turn: lock slots in a row for writing. Return those that nobody else is writing to."""
        fd = self._open()
        slots = [slot for slot in range(first, first + count) if slot not in self._written]
        if len(slots) < count or not _lock(fd, 1 + first, count):
            slots = [slot for slot in slots if _lock(fd, 1 + slot, 1)]
        self._written.update(slots)
        return slots

    def disown(self, first: int, count: int) -> None:
        """Unlock slots in a row: they have been written, or will not be."""
        self._written.difference_update(range(first, first + count))
        if self._fd is not None:
            _unlock(self._fd, 1 + first, count)

    def close(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None and os is not None:  # at the end of the interpreter, modules are gone
            os.close(fd)

    def forked(self) -> None:
        """In a forked child: give up the parent's file and its threads' lock."""
        self._threads = _thread.allocate_lock()
        self._written = set()
        with contextlib.suppress(OSError):
            self.close()

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if self._fd is not None:  # at the end of the interpreter, modules may be gone
            close(self._fd)
            self._fd = None


def _lock(fd: int, at: int, count: int) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _RECORD.pack(fcntl.F_WRLCK, os.SEEK_SET, at, count, 0))
    except BlockingIOError:
        return False
    return True


def _unlock(fd: int, at: int, count: int) -> None:
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _RECORD.pack(fcntl.F_UNLCK, os.SEEK_SET, at, count, 0))


def _forked() -> None:
    for lock in list(_locks):
        lock.forked()


os.register_at_fork(after_in_child=_forked)
