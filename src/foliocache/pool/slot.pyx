"""A process's slot in a segment's client table: taken, held and released by the kernel's file locks.

A slot belongs to the process that holds the lock on its byte of the file: an *open file description* lock, through a descriptor
that is opened only for this. The kernel drops the lock when the process ends, in whatever way, after its last instruction. So a
slot needs no heartbeat, and pid reuse, pid namespaces and containers that share the folder do not matter. The pid and the time
in the slot are only for people.

The descriptor is opened when the process attaches, and in a forked child at once, before the child can give up its privileges,
change its root or use up its descriptors. Everything later goes through it: the lock of the process's own slot, and those of
dead clients' slots while this process reaps them.

Locks of one open file description do not exclude each other. Therefore each step here is one call in which no Python runs, and
only one thread, signal handler or finalizer of the process at a time has the locks of other slots (``Reaping``). Where there is
no GIL, each step is in a critical section of the ClientSlot.
"""
cimport cython
from libc.stdint cimport uint32_t as u32, uint64_t as u64

from .descriptor cimport reopen
from ..mm cimport atomics, backing, client, layout

import contextlib
import errno
import os
import threading

cdef extern from *:
    """
    #include <stdint.h>
    #include <time.h>
    #include <unistd.h>
    #include "stat.h"

    static uint64_t fc_pid_namespace(void)
    { struct stat found; return fc_stat(AT_FDCWD, "/proc/self/ns/pid", 0, &found) == 0 ? (uint64_t)found.st_ino : 0; }

    static uint64_t fc_wall_ns(void)
    { struct timespec ts; clock_gettime(CLOCK_REALTIME, &ts); return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec; }
    """
    u32 getpid() noexcept
    u64 fc_pid_namespace() noexcept
    u64 fc_wall_ns() noexcept

cdef extern from "section.h":
    pass  # cheap nested critical sections

_IN_USE = (errno.EAGAIN, errno.EACCES)


def pid_namespace():
    """Return the inode number of this process's pid namespace, or 0 where there is no /proc."""
    return fc_pid_namespace()


@cython.final
@cython.no_gc_clear  # __dealloc__ uses the memory
cdef class ClientSlot:
    """The slot of this process in a segment. ``number`` is the argument ``me`` of the core's functions; NIL without a slot."""
    def __cinit__(self):
        self.number = layout.NIL

    def __init__(self, segment):
        """Open nothing and claim nothing yet."""
        if self.segment is not None:
            raise TypeError("a client's slot cannot be initialized twice")
        self.memory = segment.memory
        self.mem = self.memory.handle
        self.segment = segment

    def __dealloc__(self):
        self._give_back()

    def __reduce__(self):
        raise TypeError("a client's slot belongs to one process and cannot be copied or pickled")

    @cython.critical_section
    def open(self):
        """Open the descriptor for the locks, unless it is open. Raises OSError."""
        if self.segment is None:
            raise TypeError("a client's slot is made for a segment")
        if self.file is None or self.file.get() < 0:
            self.file = reopen(self.segment.file, self.segment.path)

    cdef bint claim(self) noexcept:
        """Take a clean slot, unless this process has a slot; one more, if none is clean and there is memory for it. True if it
        has one now."""
        with cython.critical_section(self):
            return self._claim()

    cdef bint _claim(self) noexcept:
        cdef u32 n
        if self.number != layout.NIL:
            return True
        if self.file is None or self.reaper is not None:
            return False
        n = 0
        while n < atomics.nclients(self.mem) or backing.back_slot(self.mem):
            if client.state(self.mem, n) == layout.SLOT_CLEAN and self.file.lock(n) == 0:
                if client.state(self.mem, n) == layout.SLOT_CLEAN:
                    client.wipe(self.mem, n)
                    self._begin(n)
                    return True
                self.file.unlock(n, 1)
            n += 1
        return False

    def join(self):
        """Take a clean slot, unless this process has a slot. True if it has one now."""
        return self.claim()

    # What reads pages that it has not pinned, outside operations (audits, reapers), and what gives memory back (``mm.trim``)
    # exclude each other, by the lock on one more byte.

    cdef bint begin_scan(self) noexcept:
        """Keep all processes from giving memory back, until ``end_scan``. False if one does so at this moment."""
        with cython.critical_section(self):
            if self.file is None or self.giving:
                return False
            if self.scans == 0 and self.file.lock_shared(atomics.nclients_max(self.mem) + 1) != 0:
                return False
            self.scans += 1
            return True

    cdef void end_scan(self) noexcept:
        with cython.critical_section(self):
            self.scans -= 1
            if self.scans == 0 and self.file is not None:
                self.file.unlock(atomics.nclients_max(self.mem) + 1, 1)

    cdef bint begin_giving(self) noexcept:
        """Keep all processes from scanning, until ``end_giving``. False if one scans at this moment."""
        with cython.critical_section(self):
            if self.scans or self.giving or self.file is None or self.file.lock(atomics.nclients_max(self.mem) + 1) != 0:
                return False
            self.giving = True
            return True

    cdef void end_giving(self) noexcept:
        with cython.critical_section(self):
            self.giving = False
            self.file.unlock(atomics.nclients_max(self.mem) + 1, 1)

    @cython.critical_section
    def keep(self, u32 n):
        """Become client n: a former client's slot that has been settled, and whose lock this process has."""
        if self.reaper is None or n >= atomics.nclients(self.mem):
            raise ValueError(f"slot {n} is not in the hands of this process")
        self._begin(n)

    cdef void _begin(self, u32 n) noexcept:
        cdef u64 at = client.slot(self.mem, n)
        cdef u32 generation = atomics.load_relaxed(self.mem, at + layout.CLIENT_GENERATION) + 1
        client.attach(self.mem, n)
        atomics.store_relaxed(self.mem, at + layout.CLIENT_PID, getpid())
        atomics.store_relaxed64(self.mem, at + layout.CLIENT_PID_NAMESPACE, fc_pid_namespace())
        atomics.store_relaxed64(self.mem, at + layout.CLIENT_ATTACHED, fc_wall_ns())
        atomics.store_relaxed(self.mem, at + layout.CLIENT_GENERATION, generation if generation else 1)
        self.number = n

    @cython.critical_section
    def lock(self, u32 n):
        """Take the lock on slot n, while reaping. True if it was free, or is this process's own."""
        if self.reaper is None or self.file is None or n >= atomics.nclients_max(self.mem):
            return False
        return self.file.lock(n) == 0

    @cython.critical_section
    def unlock(self, u32 n):
        """Release the lock on slot n, while reaping, so that another process can claim the slot."""
        if self.reaper is not None and self.file is not None and n != self.number and n < atomics.nclients_max(self.mem):
            self.file.unlock(n, 1)

    @cython.critical_section
    def close(self):
        """Release the slot: clean if no folio is named in it, else for a reaper to settle. Closing twice is harmless."""
        self._give_back()

    cdef _give_back(self):
        if self.file is None:
            return
        if self.number != layout.NIL and self.file.get() >= 0 and client.is_idle(self.mem, self.number):
            client.detach(self.mem, self.number)
        self.number = layout.NIL
        self.file.close()

    def disown(self):
        """In a forked child, which has closed its copy of the descriptor: forget the parent's slot, and open a descriptor."""
        self.number = layout.NIL
        self.file = None
        self.reaper = None
        self.scans = 0
        self.giving = False
        with contextlib.suppress(OSError):
            self.open()


@cython.final
cdef class Reaping:
    """The right to reap, during a ``with``. Its value is False if another thread or process has the right, or if the lock
    cannot be taken; ``problem`` is then the reason.

    Its holder may take the locks of other slots (``ClientSlot.lock``); they are released at the end. Begin and end are single
    calls, so no exception can come in between.
    """
    cdef ClientSlot slot
    cdef bint held
    cdef readonly object problem

    def __init__(self, ClientSlot slot not None):
        self.slot = slot

    def __reduce__(self):
        raise TypeError("the right to reap cannot be copied or pickled")

    def __enter__(self):
        cdef ClientSlot slot = self.slot
        cdef int status
        me = threading.get_ident()
        with cython.critical_section(slot):
            if slot is None or slot.file is None or slot.reaper is not None:
                return False
            status = slot.file.lock(atomics.nclients_max(slot.mem))
            if status == 0 and not slot.begin_scan():
                slot.file.unlock(atomics.nclients_max(slot.mem), 1)
            elif status == 0:
                slot.reaper = me
                self.held = True
            elif status not in _IN_USE:
                self.problem = os.strerror(status)
            return self.held

    def __exit__(self, *exc):
        cdef ClientSlot slot = self.slot
        cdef u32 end
        with cython.critical_section(slot):
            if self.held and slot.file is not None:
                slot.end_scan()
                end = atomics.nclients_max(slot.mem) + 1
                if slot.number == layout.NIL:
                    slot.file.unlock(0, end)
                else:
                    slot.file.unlock(0, slot.number)
                    slot.file.unlock(slot.number + 1, end - slot.number - 1)
                slot.reaper = None
            self.held = False


def is_reaping_here(ClientSlot slot):
    """Return True if this thread is reaping, and the caller is a signal handler or a finalizer that has interrupted it."""
    with cython.critical_section(slot):
        return slot.reaper is not None and slot.reaper == threading.get_ident()
