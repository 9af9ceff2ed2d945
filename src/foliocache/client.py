"""This process as a client of a segment: a slot in its client table; and what becomes of the slots of the dead.

A slot belongs to whoever holds the lock on its byte of the file: an *open file description* lock, taken through a descriptor that
is opened for this alone. The kernel drops it when the process dies, however it dies and not before its last instruction, so a slot
needs no heartbeat, and pid reuse, pid namespaces and containers that share the folder cannot confuse it. What is written in the slot
(pid, times) is for people.

A forked child shares its parent's open file descriptions, and with them the locks: those of its slot, and of a reaper that another
thread is just then. So it closes its copies at once, and becomes a client of its own when it first uses the cache.

A slot is *clean* when no folio is named in it. One whose lock is free and that is not clean is a dead client's. ``reap`` settles
those (``mm.reap`` says how); it holds one more lock byte, so that one process at a time does, and none of the locks
outlives its holder.
"""

import contextlib
import fcntl
import os
import struct
import threading
import time

from .errors import SegmentError
from .mm import atomics, layout
from .mm import client as core
from .mm import reap as reaper

# Lock bytes lie far behind the end of the file, where nothing else is ever locked. atomics.h asks about the same ones.
_LOCK_BYTES = 1 << 46
_FLOCK = struct.Struct("@hhqqi0q")
STATES = {layout.SLOT_CLEAN: "clean", layout.SLOT_ATTACHED: "attached", layout.SLOT_DEAD: "dead"}


class _Descriptors:
    """Those that this process takes locks through. A forked child closes its copies of all of them."""

    def __init__(self):
        self.lock = (
            threading.RLock()
        )  # held by who opens or closes one, or forks; its holder may come again, to collect garbage
        self.fds = set()

    def open(self, segment):
        with self.lock:
            fd = segment.reopen()
            self.fds.add(fd)
            return fd

    def close(self, fd, close=os.close):
        with self.lock:
            if fd in self.fds:
                self.fds.remove(fd)
                close(fd)

    def disown(self):
        self.lock = threading.RLock()
        for fd in list(self.fds):
            self.close(fd)


_descriptors = _Descriptors()
os.register_at_fork(
    before=lambda: _descriptors.lock.acquire(),
    after_in_parent=lambda: _descriptors.lock.release(),
    after_in_child=_descriptors.disown,
)


class ClientSlot:
    """The slot this process holds in a segment; ``number`` is what the core takes as ``me``."""

    def __init__(self, segment):
        self._segment = segment
        self._fd = _descriptors.open(segment)
        if not segment.geometry["fenced"]:
            atomics.membarrier_errno()  # attaching has asked whether it works; a forked child asks for itself
        try:
            self.number = self._claim()
        except BaseException:
            self.abandon()
            raise
        _write(segment, self.number)

    def _claim(self):
        """A clean slot; or, when there is none, that of a dead client, which is then reaped by its successor.

        The slots of the dead are locked while somebody reaps, so for the second look one has to be the reaper.
        """
        segment = self._segment
        numbers = range(segment.geometry["nclients"])
        for number in numbers:
            if core.state(segment.mem, number) == layout.SLOT_CLEAN and _try_lock(self._fd, number):
                if core.state(segment.mem, number) == layout.SLOT_CLEAN:
                    core.attach(segment.mem, number)
                    return number
                _unlock(self._fd, number)
        with _reaping(segment, wait=True) as reaping:
            for number in numbers:
                if _try_lock(self._fd, number):
                    if core.state(segment.mem, number) == layout.SLOT_CLEAN or self._adopt(number, reaping):
                        core.attach(segment.mem, number)
                        return number
                    _unlock(self._fd, number)
        raise SegmentError(
            f"segment {segment.name!r} has room for {segment.geometry['nclients']} client processes and all are attached; "
            "stop one, or create it with a larger clients="
        )

    def _adopt(self, number, reaping):
        """Settle what the last holder of a slot has left, and all others who are dead, as its successor; whether it can be used then.

        For others the slot is attached from here on, and alive. What it calls itself in an operation is not the vague names of the
        dead one: those are moved out of the way first.
        """
        mem = self._segment.mem
        core.set_aside(mem, number)
        core.attach(mem, number)
        dead = _find_dead(self._segment, reaping, number)
        _settle(mem, number, [*dead, number])
        for other in dead:
            _unlock(reaping, other)
        return core.is_idle(mem, number)

    def __del__(self):
        self.close()

    # The last lease may go when the interpreter has emptied its modules already, so what ``close`` needs is bound here.
    def close(self, is_idle=core.is_idle, detach=core.detach):
        """Give the slot back."""
        if self._fd >= 0:
            if is_idle(self._segment.mem, self.number):
                detach(self._segment.mem, self.number)
            self.abandon()

    def abandon(self, close=_descriptors.close):
        """Close the descriptor alone: in a forked child, whose copy it is."""
        if self._fd >= 0:
            close(self._fd)
            self._fd = -1


def reap(segment, me):
    """Settle what dead clients have left behind: how many of them are settled, and how many wait for a living one's lease.

    Does nothing while another process is at it.
    """
    mem = segment.mem
    with _reaping(segment) as fd:
        if fd is None:
            return 0, 0
        dead = _find_dead(segment, fd, me)
        return (len(dead), _settle(mem, me, dead)) if dead else (0, 0)


def _find_dead(segment, reaping, me):
    """The slots of dead clients besides me. Their locks are the reaper's then, so that nobody adopts them."""
    dead = [n for n in range(segment.geometry["nclients"]) if n != me and _is_dead(segment, reaping, n)]
    for number in dead:
        core.set_state(segment.mem, number, layout.SLOT_DEAD)
    return dead


def _settle(mem, me, dead):
    """Everybody's locks, then everybody's pins, then what is vague; how many slots are not clean then: one, if something has to wait."""
    for number in dead:
        reaper.locks(mem, me, number)
    for number in dead:
        reaper.pins(mem, me, number)
    keepers = []
    for number in dead:
        if reaper.vague(mem, me, number) and not any(reaper.entrust(mem, number, keeper) for keeper in keepers):
            keepers.append(number)
        elif number != me:
            core.detach(mem, number)
    reaper.sweep(mem, me)
    return len(keepers)


def _is_dead(segment, fd, number):
    """Whether a slot is a dead client's; its lock is fd's then."""
    return core.state(segment.mem, number) != layout.SLOT_CLEAN and _try_lock(fd, number)


@contextlib.contextmanager
def _reaping(segment, wait=False):
    """The right to reap: a descriptor whose locks go with it, or None if another process has it."""
    fd = _descriptors.open(segment)
    try:
        yield fd if _try_lock(fd, segment.geometry["nclients"], wait) else None
    finally:
        _descriptors.close(fd)


def _try_lock(fd, number, wait=False):
    how = fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK
    with contextlib.suppress(BlockingIOError, PermissionError):
        fcntl.fcntl(fd, how, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _LOCK_BYTES + number, 1, 0))
        return True
    return False


def _unlock(fd, number):
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, _LOCK_BYTES + number, 1, 0))


def is_alive(segment, number):
    """Whether a process holds slot number now."""
    return core.is_alive(segment.mem, number)


def offset(segment, number):
    """Where slot number lies."""
    return segment.geometry["clients"] + number * layout.CLIENT_SIZE


def describe(segment, number):
    """The slot for people and scripts: {"slot", "pid", "pid_namespace", "attached" (seconds since the epoch), "state", "pins", "counters"}.

    The pid is one of the namespace that has this inode; 0 means that it is not known (there was no /proc).
    The state is "attached"; "dead", for a client that has not been reaped yet (or not completely: a living one still uses a folio
    that it died upon); or "clean", for one that has gone.
    """
    at, memory = offset(segment, number), segment.memory
    state = STATES.get(core.state(segment.mem, number), "dead")
    if state == "attached" and not is_alive(segment, number):
        state = "dead"
    return {
        "slot": number,
        "pid": memory.peek32(at + layout.CLIENT_PID),
        "pid_namespace": memory.peek64(at + layout.CLIENT_PIDNS),
        "attached": memory.peek64(at + layout.CLIENT_ATTACHED) / 1e9,
        "state": state,
        "pins": core.pins(segment.mem, number) if state != "clean" else 0,
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


def pid_namespace():
    """The inode of the namespace that this process's pid is one of; 0 without /proc."""
    with contextlib.suppress(OSError):
        return os.stat("/proc/self/ns/pid").st_ino
    return 0


def _write(segment, number):
    at, memory = offset(segment, number), segment.memory
    memory.poke32(at + layout.CLIENT_PID, os.getpid())
    memory.poke64(at + layout.CLIENT_PIDNS, pid_namespace())
    memory.poke64(at + layout.CLIENT_ATTACHED, time.time_ns())
    memory.poke32(at + layout.CLIENT_GENERATION, memory.peek32(at + layout.CLIENT_GENERATION) + 1)
