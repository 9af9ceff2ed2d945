"""Pressure: a thread that watches how much memory is left, and gives some of the pool's back where others need it.

**Who watches.** Each process that has taken memory for a pool has a thread for it; one that only reads has none. Of the threads
whose processes are in one cgroup, one at a time has the *turn* (``mm.trim.take_turn``), looks at the memory and gives back. The
others look at one word. A turn is not a lock: a watcher that dies, is stopped, or does not get the GIL loses it, and another
takes it. If the first goes on then, both watch for one look, which is harmless: what they give back is decided piece by piece,
after a look of its own.

**When.** ``headroom.short`` says how much is missing from the floor. The time between two looks is the one in which the fastest
program could take what is left above it (RATE), within bounds. While the floor has to last until the next look, and until the
memory has been given back, ``min_free`` has to be RATE x that time: the default is enough.

**What.** First memory that came with huge pages and that nobody can use (``strays``); then the pool's free blocks; then the
folios that have not been used for longest, at most PIECE in a step, until nothing is missing. No lock is held between steps, so
fills go on beside it; while nothing may be taken, they reuse the memory of folios that they evict.

The kernel's pressure stall information (PSI) is not used: it told of pressure after the first process had been killed.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import os
import sys
import weakref
from typing import TYPE_CHECKING

from ..errors import FoliocacheError
from ..mm import layout
from ..observe import notices
from . import headroom, shrink, strays

if TYPE_CHECKING:
    from .attachment import Attachment

RATE = 2 << 30  # bytes a second, that others may take
LOOK_MIN = 0.01  # seconds between two looks
LOOK_MAX = 0.05
STANDBY = 0.05  # of one who has not the turn
PIECE = 1 << 20  # bytes that are given back between two looks
EXIT_PATIENCE = 1.0  # seconds that the interpreter waits at its exit for a watcher

_exiting = False


class Pressure:
    """The watcher of one attachment in this process; ``start`` begins, ``stop`` ends it. A forked child begins its own."""

    def __init__(self, attachment: Attachment) -> None:
        self._attachment = weakref.ref(attachment)
        self._watch: _Watch | None = None

    def start(self) -> None:
        """Start the thread. Callable from a signal handler or a finalizer: there is no lock, and nothing waits.

        A handler may raise an exception at any place here. The thread is known before it runs, so the next call ends it.
        """
        attachment = self._attachment()
        if attachment is None or _exiting or sys.is_finalizing():
            return
        self.stop()
        self._watch = watch = _Watch(self._attachment)
        _all.add(watch)
        try:
            _thread.start_new_thread(watch.run, ())
        except RuntimeError:  # no more threads: another process watches
            _all.discard(watch)
            self._watch = None

    def stop(self) -> None:
        """Let the thread end, without waiting for it."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.stop()


class _Watch:
    """What a thread and those who end it share. The thread does not keep the attachment alive."""

    def __init__(self, attachment: weakref.ref[Attachment]) -> None:
        self.attachment = attachment
        self.stopped = False
        self.turn = 0
        self.wake = _thread.allocate_lock()
        self.wake.acquire()
        self.ended = _thread.allocate_lock()
        self.ended.acquire()

    def stop(self) -> None:
        self.stopped = True
        with contextlib.suppress(RuntimeError):  # it has been woken already
            self.wake.release()

    def run(self) -> None:
        """Watch, until told to stop, or the pool is closed here."""
        try:
            while not self.stopped and (seconds := self.look()) is not None:
                self.wake.acquire(timeout=seconds)
        finally:
            self.ended.release()

    def look(self) -> float | None:
        """Look, and give back what is missing. Return how many seconds to wait for the next look; None to end."""
        attachment = self.attachment()
        if attachment is None or attachment.closed:
            return None
        try:
            while not self.stopped:
                self.turn = attachment.take_turn(self.turn)
                if not self.turn:
                    return STANDBY
                missing, slack = headroom.short(attachment.memory)
                if missing == 0:
                    return LOOK_MAX if slack is None else min(max(slack / RATE, LOOK_MIN), LOOK_MAX)
                if give_back(attachment, missing) == 0:
                    return LOOK_MIN
        except FoliocacheError:  # another process scans the pool, or has stopped in it
            return LOOK_MAX
        return None


def give_back(attachment: Attachment, missing: int) -> int:
    """Give back a piece of what is missing. Return the bytes. Raises FoliocacheError."""
    segment = attachment.segment
    if strays.come_with_others(segment) and (unused := strays.give_back(attachment)):
        return unused
    page_size = segment.page_size
    given = shrink.give_back(attachment, -(-min(missing, PIECE) // page_size)) * page_size
    attachment.count(layout.COUNT_GIVEN_BACK_PRESSURE, given)
    if given:
        notices.pressure(segment.name, given)
    return given


_all: weakref.WeakSet[_Watch] = weakref.WeakSet()


def _end_all() -> None:
    global _exiting
    _exiting = True
    watches = list(_all)
    for watch in watches:
        watch.stop()
    for watch in watches:
        watch.ended.acquire(timeout=EXIT_PATIENCE)


def _forget_all() -> None:
    """In a forked child, which has none of these threads."""
    _all.clear()


atexit.register(_end_all)
os.register_at_fork(after_in_child=_forget_all)
