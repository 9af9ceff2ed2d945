"""This process as a client of a segment: a slot in its client table.

A slot belongs to whoever holds the lock on its byte of the file: an *open file description* lock, taken through a descriptor that
is opened for this alone. The kernel drops it when the process dies, however it dies, so a slot needs no heartbeat and pid reuse,
pid namespaces and containers cannot confuse it. What is written in the slot (pid, times) is for people.

A forked child shares its parent's open file descriptions, so the child closes its copy at once and becomes a client of its own
when it first uses the cache.
"""

import contextlib
import fcntl
import os
import struct
import time

from .errors import SegmentError
from .mm import layout

# Lock bytes lie far behind the end of the file, where nothing else is ever locked.
_LOCK_BYTES = 1 << 46
_FLOCK = struct.Struct("@hhqqi0q")


class ClientSlot:
    """The slot this process holds in a segment; ``number`` is what the core takes as ``me``."""

    def __init__(self, segment):
        self._fd = segment.reopen()
        try:
            self.number = self._claim(segment)
        except BaseException:
            self.close()
            raise
        _write(segment, self.number)

    def _claim(self, segment):
        for number in range(segment.geometry["nclients"]):
            with contextlib.suppress(BlockingIOError, PermissionError):
                fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _LOCK_BYTES + number, 1, 0))
                return number
        raise SegmentError(
            f"segment {segment.name!r} has room for {segment.geometry['nclients']} client processes and all are attached; "
            "stop one, or create it with a larger clients="
        )

    def __del__(self):
        self.close()

    def close(self):
        """Give the slot back. Also right in a forked child, for which it only closes the copy."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def is_alive(segment, number):
    """Whether a process holds slot number now."""
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _LOCK_BYTES + number, 1, 0)
    return _FLOCK.unpack(fcntl.fcntl(segment.fd, fcntl.F_OFD_GETLK, asked))[0] != fcntl.F_UNLCK


def offset(segment, number):
    """Where slot number lies."""
    return segment.geometry["clients"] + number * layout.CLIENT_SIZE


def describe(segment, number):
    """The slot for people and scripts: {"slot", "pid", "attached" (seconds since the epoch), "alive", "counters"}."""
    at, memory = offset(segment, number), segment.memory
    return {
        "slot": number,
        "pid": memory.peek32(at + layout.CLIENT_PID),
        "attached": memory.peek64(at + layout.CLIENT_ATTACHED) / 1e9,
        "alive": is_alive(segment, number),
        "counters": counters(segment, number),
    }


def counters(segment, number):
    """The counters of slot number, over all who have held it: see ``layout.COUNTERS``."""
    at = offset(segment, number) + layout.CLIENT_COUNTERS
    return {name: segment.memory.peek64(at + i * 8) for i, name in enumerate(layout.COUNTERS)}


def used_slots(segment):
    """Numbers of the slots that somebody has ever held."""
    return [
        n for n in range(segment.geometry["nclients"]) if segment.memory.peek32(offset(segment, n) + layout.CLIENT_GENERATION)
    ]


def _write(segment, number):
    at, memory = offset(segment, number), segment.memory
    memory.poke32(at + layout.CLIENT_PID, os.getpid())
    memory.poke64(at + layout.CLIENT_ATTACHED, time.time_ns())
    memory.poke32(at + layout.CLIENT_GENERATION, memory.peek32(at + layout.CLIENT_GENERATION) + 1)
