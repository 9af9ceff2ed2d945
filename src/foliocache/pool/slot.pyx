"""A process's slot in a segment's client table: taken, held and given back by the kernel's locks.

A slot belongs to whoever holds the lock on its byte of the file: an *open file description* lock, through a descriptor that is
opened for this alone. The kernel drops it when the process dies, however it dies and not before its last instruction, so a
slot needs no heartbeat, and pid reuse, pid namespaces and containers that share the folder cannot confuse it. What is written
in the slot (pid, times) is for people.

The descriptor is opened when the process attaches, and in a forked child at once, before it can give up its privileges, change
its root or use up its descriptors. Everything later goes through it: the slot's own lock, and those of the dead while this
process reaps them.

Locks of one description do not keep each other out. So whatever threads, signal handlers and finalizers of this process may do
at once, each step here is one call in which no Python runs, and only one of them at a time has the locks of other slots
(``Reaping``).
"""
cimport cython
from libc.stdint cimport uint32_t as u32, uint64_t as u64

from .descriptor cimport reopen
from ..mm cimport atomics, client, layout

import contextlib
import errno
import os
import threading

cdef extern from *:
    """
    #include <stdint.h>
    #include <sys/stat.h>
    #include <time.h>
    #include <unistd.h>

    static uint64_t fc_pid_namespace(void)
    { struct stat found; return stat("/proc/self/ns/pid", &found) == 0 ? (uint64_t)found.st_ino : 0; }

    static uint64_t fc_clock_ns(void)
    { struct timespec ts; clock_gettime(CLOCK_REALTIME, &ts); return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec; }
    """
    u32 getpid() noexcept
    u64 fc_pid_namespace() noexcept
    u64 fc_clock_ns() noexcept

_IN_USE = (errno.EAGAIN, errno.EACCES)


def pid_namespace():
    """What tells this process's pid namespace from others: a number, 0 where there is no /proc to ask."""
    return fc_pid_namespace()


@cython.final
@cython.no_gc_clear  # what is not released before uses the memory at the very end
cdef class ClientSlot:
    """The slot that this process has in a segment; its ``number`` is what the core takes as ``me``, NIL before it has one."""
    def __cinit__(self):
        self.number = layout.NIL

    def __init__(self, segment):
        """Nothing is opened or claimed yet."""
        if self.segment is not None:
            raise TypeError("a client's slot cannot be initialized twice")
        self.memory = segment.memory
        self.mem = self.memory.handle
        self.segment = segment

    def __dealloc__(self):
        self._give_back()

    def __reduce__(self):
        raise TypeError("a client's slot belongs to one process and cannot be copied or pickled")

    def open(self):
        """Have a descriptor. Raises OSError."""
        if self.segment is None:
            raise TypeError("a client's slot is made for a segment")
        if self.file is None or self.file.get() < 0:
            self.file = reopen(self.segment.file, self.segment.path)

    cdef bint claim(self) noexcept:
        """Have a clean slot: whether this process has one now."""
        cdef u32 n
        if self.number != layout.NIL:
            return True
        if self.file is None or self.reaper is not None:
            return False
        for n in range(atomics.nclients(self.mem)):
            if client.state(self.mem, n) != layout.SLOT_CLEAN or self.file.lock(n) != 0:
                continue
            if client.state(self.mem, n) == layout.SLOT_CLEAN:
                client.wipe(self.mem, n)
                self._begin(n)
                return True
            self.file.unlock(n, 1)
        return False

    def join(self):
        """Have a clean slot, if there is one: whether this process has a slot now."""
        return self.claim()

    def keep(self, u32 n):
        """Be client n from now on, whose lock this process has: a former client's slot that has been settled."""
        if self.reaper is None or n >= atomics.nclients(self.mem):
            raise ValueError(f"slot {n} is not in the hands of this process")
        self._begin(n)

    cdef void _begin(self, u32 n) noexcept:
        cdef u64 at = client.slot(self.mem, n)
        cdef u32 generation = atomics.load_relaxed(self.mem, at + layout.CLIENT_GENERATION) + 1
        client.attach(self.mem, n)
        atomics.store_relaxed(self.mem, at + layout.CLIENT_PID, getpid())
        atomics.store_relaxed64(self.mem, at + layout.CLIENT_PID_NAMESPACE, fc_pid_namespace())
        atomics.store_relaxed64(self.mem, at + layout.CLIENT_ATTACHED, fc_clock_ns())
        atomics.store_relaxed(self.mem, at + layout.CLIENT_GENERATION, generation if generation else 1)
        self.number = n

    def lock(self, u32 n):
        """Take the lock on slot n, for who is reaping: whether it was free (or ours)."""
        if self.reaper is None or self.file is None or n >= atomics.nclients(self.mem):
            return False
        return self.file.lock(n) == 0

    def unlock(self, u32 n):
        """Let go of the lock on slot n, which is another's to claim again, for who is reaping."""
        if self.reaper is not None and self.file is not None and n != self.number and n < atomics.nclients(self.mem):
            self.file.unlock(n, 1)

    def close(self):
        """Give the slot back: clean if no folio is named in it, else for a reaper. Doing it twice is harmless."""
        self._give_back()

    cdef _give_back(self):
        if self.file is None:
            return
        if self.number != layout.NIL and self.file.get() >= 0 and client.is_idle(self.mem, self.number):
            client.detach(self.mem, self.number)
        self.number = layout.NIL
        self.file.close()

    def disown(self):
        """In a forked child, which has closed its copy of the descriptor: own nothing of the parent's, and open one instead."""
        self.number = layout.NIL
        self.file = None
        self.reaper = None
        with contextlib.suppress(OSError):
            self.open()


@cython.final
cdef class Reaping:
    """The right to reap, for the time of a ``with``: False if somebody else has it, here or in another process, or if it cannot
    be had; ``problem`` says why not then.

    Whoever has it may take the locks of other slots (``ClientSlot.lock``); they are free again at the end. Both ends are single
    calls, so no exception comes between.
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
        if slot is None or slot.file is None or slot.reaper is not None:
            return False
        status = slot.file.lock(atomics.nclients(slot.mem))
        if status == 0:
            slot.reaper = me
            self.held = True
        elif status not in _IN_USE:
            self.problem = os.strerror(status)
        return self.held

    def __exit__(self, *exc):
        cdef ClientSlot slot = self.slot
        cdef u32 end
        if self.held and slot.file is not None:
            end = atomics.nclients(slot.mem) + 1
            if slot.number == layout.NIL:
                slot.file.unlock(0, end)
            else:
                slot.file.unlock(0, slot.number)
                slot.file.unlock(slot.number + 1, end - slot.number - 1)
            slot.reaper = None
        self.held = False


def is_reaping_here(ClientSlot slot):
    """Whether this very thread is reaping, below a signal's handler or a finalizer that asks."""
    return slot.reaper is not None and slot.reaper == threading.get_ident()
