"""The folder of the pools: the files' names, their removal, and the hidden files that creators use.

Creators of one pool take turns, by a record lock on a hidden file, so that two of them do not need room for two pools. Nothing
else depends on that lock: it ends with its holder, fork does not inherit it, and another user's lock file is ignored. A hidden
file that is not a lock is a pool that is being made on a file system without nameless files (``creation``).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import struct
import time
from collections.abc import Iterator

from ..errors import PoolError, PoolNotFoundError
from ..sizes import quoted
from .descriptor import Descriptor, open_file

PREFIX = "foliocache."
OPEN_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_HIDDEN = ".foliocache."
_LOOK_AGAIN = 0.01  # seconds
_RECORD_LOCK = struct.Struct("@hhqqi0q")  # struct flock


def directory() -> str:
    """Return the folder of the pools: FOLIOCACHE_DIR (another tmpfs, for a container or a test), or /dev/shm."""
    return os.path.abspath(os.environ.get("FOLIOCACHE_DIR") or "/dev/shm")


def path_of(name: str) -> str:
    """Return the path of a pool's file. Raises ValueError for a name that could leave the folder."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}", name):
        raise ValueError(f"pool name {quoted(name)}: use 1 to 100 letters, digits, '_', '-' and '.', not starting with '.'")
    return os.path.join(directory(), PREFIX + name)


def pools() -> list[str]:
    """List the pools of this user in the folder of the pools: FOLIOCACHE_DIR, or /dev/shm.

    Returns
    -------
    list of str
        Their names, in alphabetical order.

    Raises
    ------
    PoolError
        The folder cannot be listed.
    """
    try:
        with os.scandir(directory()) as entries:
            mine = [entry.name for entry in entries if entry.name.startswith(PREFIX) and _is_my_entry(entry)]
    except OSError as error:
        raise PoolError(f"{directory()} cannot be listed: {error.strerror}; FOLIOCACHE_DIR says where pools live") from None
    return sorted(name.removeprefix(PREFIX) for name in mine)


def remove(name: str) -> None:
    """Remove a pool. Processes that have it attached keep it until they end; others get a new one.

    Parameters
    ----------
    name : str
        The pool.

    Raises
    ------
    PoolNotFoundError
        There is no pool of that name.
    PoolError
        It belongs to another user, or cannot be removed.
    """
    path = path_of(name)
    _sweep(path)
    try:
        os.unlink(path)
    except FileNotFoundError:
        raise PoolNotFoundError(f"there is no pool {name!r} in {directory()}") from None
    except PermissionError:
        raise PoolError(f"pool {name!r} in {directory()} belongs to another user; its owner has to remove it") from None
    except OSError as error:
        raise PoolError(f"{path} cannot be removed: {error.strerror}") from None
    unlink(hidden(path, "tiers"))


def hidden(path: str, what: str) -> str:
    """Return a path in the folder of ``path`` that no pool can have, and that only this pool's creators use."""
    folder, name = os.path.split(path)
    return os.path.join(folder, f"{_HIDDEN}{name.removeprefix(PREFIX)}~{what}")


def remove_leftovers(path: str) -> None:
    """Remove the hidden files of creators of this pool that were killed. The caller holds the right to create it (``turn``)."""
    for left in list(_leftovers(path)):
        unlink(left)


def unlink(path: str) -> None:
    """Remove a file if that is possible."""
    with contextlib.suppress(OSError):
        os.unlink(path)


@contextlib.contextmanager
def turn(name: str, path: str, patience: float) -> Iterator[bool]:
    """Hold the right to create a pool during a ``with``. Yields False if the pool exists, or the lock cannot be used.

    Raises PoolError if another creator has held it for ``patience`` seconds.
    """
    lock, file = hidden(path, "lock"), None
    try:
        file = _lock(name, path, lock, patience)
        yield file is not None
    finally:
        if file is not None and _is_at(file, lock):
            unlink(lock)
        else:
            _remove_lock(lock)
        del file


def _lock(name: str, path: str, lock: str, patience: float) -> Descriptor | None:
    """Return the lock file, locked; None if that is impossible, or unnecessary because the pool exists."""
    deadline = time.monotonic() + patience
    while not os.path.lexists(path):
        with contextlib.suppress(OSError):
            file = open_file(lock, OPEN_FLAGS | os.O_CREAT)
            if not _is_mine(file):
                return None
            if not _try_lock(file):
                if time.monotonic() > deadline:
                    raise PoolError(
                        f"pool {name!r} has been made for {patience:.0f} s by process {_holder(file)}; is it stopped?"
                    )
                time.sleep(_LOOK_AGAIN)
            elif _is_at(file, lock):
                return file
            continue
        return None
    return None


def _try_lock(file: Descriptor) -> bool:
    """Take the record lock on a file. False if another process has it; OSError where there are no such locks."""
    try:
        fcntl.lockf(file.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        return False
    return True


def _remove_lock(lock: str) -> None:
    """Remove a lock file that no process has locked. A process that waits for the lock checks that the file still exists when
    it gets the lock."""
    with contextlib.suppress(OSError):
        file = open_file(lock, OPEN_FLAGS)
        if _is_mine(file) and _try_lock(file) and _is_at(file, lock):
            os.unlink(lock)


def _sweep(path: str) -> None:
    """Remove the hidden files of creators of this pool that were killed, unless another creator is running."""
    with contextlib.suppress(OSError):
        leftovers = list(_leftovers(path))
        lock = hidden(path, "lock")
        file = open_file(lock, OPEN_FLAGS | (os.O_CREAT if leftovers else 0))
        if _is_mine(file) and _try_lock(file) and _is_at(file, lock):
            remove_leftovers(path)
            os.unlink(lock)


def _leftovers(path: str) -> Iterator[str]:
    folder, prefix = os.path.split(hidden(path, ""))
    with os.scandir(folder) as entries:
        for entry in entries:
            if re.fullmatch(re.escape(prefix) + "[0-9a-f]{16}", entry.name) and _is_my_entry(entry):
                yield entry.path


def _holder(file: Descriptor) -> int:
    """Return the pid of the process that has the record lock on a file."""
    asked = _RECORD_LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    pid: int = _RECORD_LOCK.unpack(fcntl.fcntl(file.fd, fcntl.F_GETLK, asked))[4]
    return pid


def _is_my_entry(entry: os.DirEntry[str]) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return _is_my_file(entry.stat(follow_symlinks=False))
    return False


def _is_mine(file: Descriptor) -> bool:
    return _is_my_file(os.fstat(file.fd))


def _is_my_file(found: os.stat_result) -> bool:
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()


def _is_at(file: Descriptor, path: str) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return inode(os.fstat(file.fd)) == inode(os.lstat(path))
    return False


def inode(found: os.stat_result) -> tuple[int, int]:
    """Return the (device, inode) of an ``os.stat_result``, which identifies a file."""
    return found.st_dev, found.st_ino
