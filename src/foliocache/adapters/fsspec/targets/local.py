"""Files of this machine. Caching them is worth it if their disk is slow or remote."""

from __future__ import annotations

import errno
import io
import os
import stat
import time
from collections.abc import Callable
from functools import cache
from typing import Any

from foliocache import ChangedError

from . import place
from .base import UNCACHED, Identity, Target

_TICK_NS = 20_000_000  # the coarsest clock with which Linux stamps files ticks every 10 ms
_COARSE_TICK_NS = 2_000_000_000  # for file systems with stamps in whole seconds, or in steps of 2 s
_SKEW_NS = 60_000_000_000  # how far ahead a file server's clock may be; a later date was set by hand
_CONTENT_IS_CALLED = frozenset(  # file systems whose content is generated at each read, and whose sizes mean nothing
    [
        "sysfs",
        "proc",
        "debugfs",
        "tracefs",
        "configfs",
        "securityfs",
        "cgroup",
        "cgroup2",
        "pstore",
        "bpf",
        "efivarfs",
        "binfmt_misc",
        "fusectl",
        "selinuxfs",
    ]
)


class LocalTarget(Target):
    """Device, inode, size, mtime and ctime are the identity; the proof is ``fstat`` of the descriptor that was read."""

    into = True
    aliases = True

    def identify(self, path: str) -> Identity:
        return UNCACHED if path in self.unsteady else self._identity(os.stat(path), path, time.time_ns())

    def _identity(self, status: os.stat_result, path: str, now: int) -> Identity:
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        return Identity(_size(status), _stamp(status), nonce=place.nonce() if _racy(status, now) else "")

    def local_name(self, path: str) -> str | None:
        return path

    def reader(self, path: str, identity: Identity) -> Callable[[int, Any], int]:
        """Return a function of (offset, buffer) that fills the buffer, in the caller's thread: nothing writes to it later."""

        def readinto(offset: int, buffer: Any) -> int:
            view = memoryview(buffer)
            with io.FileIO(path) as raw:  # not open(), which a finalizer at interpreter exit no longer has
                raw.seek(offset)
                count = _fill(raw, view)
                if identity.stamp != _stamp(os.fstat(raw.fileno())):
                    raise ChangedError(path)
            if count < len(view):  # fewer bytes than its size, without a change: the size cannot be trusted
                self.unsteady.add(path)
                raise ChangedError(path)
            return count

        return readinto

    def uncached(self, path: str, identity: Identity, start: int | None, end: int | None) -> bytes:
        """Read without ``call``: each caller opens its own file, and one that blocks (a FIFO) must not block the others."""
        return self.fs.cat_file(path, start=start, end=end)


def _size(status: os.stat_result) -> int | None:
    """Return the size in bytes; None if there is none, or it means nothing: in sysfs a file of 2 bytes has size 4096."""
    if not stat.S_ISREG(status.st_mode):
        return None
    if status.st_size and not status.st_blocks and _kind_of_device(status.st_dev) in _CONTENT_IS_CALLED:
        return None
    return status.st_size


@cache
def _kind_of_device(device: int) -> str:
    """Return the type of the file system that is mounted from the device; "" if that is not known."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open("/proc/self/mountinfo") as mounts:
            fields = [line.split() for line in mounts]
    except OSError:
        return ""
    return next((line[line.index("-") + 1] for line in fields if line[2] == wanted and "-" in line), "")


def _stamp(status: os.stat_result) -> str:
    return f"{status.st_dev}-{status.st_ino}-{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}"


def _racy(status: os.stat_result, now: int) -> bool:
    """Return True if the file may change again without a new stamp, because it changed within the current clock tick.

    Only ctime counts: every change of the content sets it, and users cannot choose its value.
    """
    tick = _TICK_NS if status.st_ctime_ns % 1_000_000_000 else _COARSE_TICK_NS
    return -_SKEW_NS < now - status.st_ctime_ns < tick


def _fill(raw: Any, view: memoryview) -> int:
    count = 0
    while count < len(view) and (more := raw.readinto(view[count:])):
        count += more
    return count
