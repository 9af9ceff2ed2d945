"""Waiting for other processes without a thread for each wait: one thread sleeps on up to 127 words at a time.

An event loop must not sleep on the futex of a folio, and one thread for each of its waits would be too many. So each wait for
a word in shared memory is a `Sleeper`, and the process has one thread, a `Waiter`, that sleeps in ``futex_waitv``; for more
than 127 different words it has further ones. A word of the waiter's own, its *bell*, wakes it when there is a new sleeper. At
each wake-up it looks at all sleepers. Every WAIT_SLICE_NS, as often as a sleeping thread does, it looks closely: it also checks
whether the other process is alive.

A kernel before 5.16 has no ``futex_waitv``, and a sandbox may forbid it: the thread then looks every POLL_NS.

There is no lock. The GIL is held except in the sleep, and no Python runs between two steps that belong together. So a signal
handler, a finalizer or a fork may come at any time. Without a GIL, such steps are in a critical section of the waiter: to find
room and be added there; and to see that there is nothing to wait for, and end. A forked child has no waiter until something
there waits.
"""
cimport cython
from libc.stdint cimport uint32_t as u32, uint64_t as u64
from libc.stdlib cimport calloc, free

import _thread
import os
import sys
from collections import deque

from ..mm cimport atomics, layout

cdef extern from *:
    """
    #include <errno.h>
    #include <linux/futex.h>
    #include <stdint.h>
    #include <sys/syscall.h>
    #include <time.h>
    #include <unistd.h>

    #define FC_SYS_FUTEX_WAITV 449  /* on every architecture; older headers lack the name, and these flags */
    #define FC_FUTEX_32 2
    #define FC_FUTEX_PRIVATE 128

    typedef struct {
        uint64_t val;
        uint64_t uaddr;
        uint32_t flags;
        uint32_t reserved;
    } fc_waitv;

    static void fc_set_wait(fc_waitv *wait, uint32_t *word, uint32_t expected, int is_private)
    {
        wait->val = expected;
        wait->uaddr = (uint64_t)(uintptr_t)word;
        wait->flags = is_private ? FC_FUTEX_32 | FC_FUTEX_PRIVATE : FC_FUTEX_32;
        wait->reserved = 0;
    }

    /* Returns 0 or an errno: EAGAIN if a word has changed already, ETIMEDOUT, EINTR; ENOSYS, EPERM if there is no such call. */
    static int fc_futex_waitv(fc_waitv *waits, uint32_t count, uint64_t deadline_ns)
    {
        struct { int64_t sec, nsec; } at = { (int64_t)(deadline_ns / 1000000000u), (int64_t)(deadline_ns % 1000000000u) };
        return syscall(FC_SYS_FUTEX_WAITV, waits, count, 0, &at, CLOCK_MONOTONIC) >= 0 ? 0 : errno;
    }

    static void fc_wait_bell(uint32_t *bell, uint32_t heard, uint64_t timeout_ns)
    {
        struct timespec ts = { (time_t)(timeout_ns / 1000000000u), (long)(timeout_ns % 1000000000u) };
        syscall(SYS_futex, bell, FUTEX_WAIT_PRIVATE, heard, &ts, NULL, 0);
    }

    static void fc_ring_bell(uint32_t *bell)
    {
        __atomic_fetch_add(bell, 1, __ATOMIC_SEQ_CST);
        syscall(SYS_futex, bell, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    }

    static uint32_t fc_load_bell(uint32_t *bell) { return __atomic_load_n(bell, __ATOMIC_SEQ_CST); }
    """
    ctypedef struct fc_waitv:
        pass
    int ENOSYS, EPERM
    void fc_set_wait(fc_waitv *wait, u32 *word, u32 expected, bint is_private) noexcept nogil
    int fc_futex_waitv(fc_waitv *waits, u32 count, u64 deadline_ns) noexcept nogil
    void fc_wait_bell(u32 *bell, u32 heard, u64 timeout_ns) noexcept nogil
    void fc_ring_bell(u32 *bell) noexcept nogil
    u32 fc_load_bell(u32 *bell) noexcept nogil

WORDS = 127  # the kernel takes 128, and one is the bell

cdef u32 _words = WORDS
cdef u64 POLL_NS = 1_000_000
cdef u64 IDLE_NS = 5_000_000_000  # a thread without sleepers ends after this time
cdef list _waiters = []
cdef bint _has_waitv = True


cdef class Sleeper:
    """A wait until ``word``, in shared memory, is no longer ``expected``. ``look`` sets both."""

    cdef bint look(self, bint closely) except -1:
        """Return True if the wait is over; its result has then been delivered. Otherwise the waiter sleeps while ``word`` is
        ``expected``.

        closely: check also whether the process that should wake us is alive. Called in the waiter's thread."""
        raise NotImplementedError

    cdef int fail(self, error) except -1:
        """End the wait with an error: the waiter no longer looks at it."""
        raise NotImplementedError


@cython.final
@cython.auto_pickle(False)
cdef class Waiter:
    """The thread. ``sleepers`` has a list of sleepers for each word's address; ``new`` has those not yet in ``sleepers``."""

    def __cinit__(self):
        self.sleepers, self.new = {}, deque()
        self.waits = calloc(_words + 1, sizeof(fc_waitv))
        self.bell = <u32 *>calloc(1, sizeof(u32))
        if self.waits == NULL or self.bell == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.waits)
        free(self.bell)

    cdef bint has_room(self, u32 *word) noexcept:
        cdef u32 count = <u32>len(self.new)  # first: a sleeper that moves to ``sleepers`` meanwhile counts twice, not never
        count += <u32>len(self.sleepers)
        return not self.retired and (count < _words or <u64>word in self.sleepers)

    cdef bint adopt(self, Sleeper sleeper) except -1:
        """Take a sleeper, unless there is no room."""
        with cython.critical_section(self):
            if not self.has_room(sleeper.word):
                return False
            self.add(sleeper)
            return True

    cdef bint _may_end(self) noexcept:
        with cython.critical_section(self):
            if len(self.new) == 0:
                self.running = False
            return not self.running

    cdef int add(self, Sleeper sleeper) except -1:
        self.new.append(sleeper)
        if self.running:
            return self.ring()
        self.running = True
        try:
            _thread.start_new_thread(self, ())
        except BaseException:
            self.running = False
            self.new.clear()
            raise
        return 0

    cdef int ring(self) noexcept:
        fc_ring_bell(self.bell)
        return 0

    def __call__(self):
        """The thread's main function."""
        cdef u64 now, idle_since = 0, next_look = 0
        cdef u32 heard, count
        try:
            while True:
                heard = fc_load_bell(self.bell)
                now = atomics.now_ns()
                count = self._look_at_all(now >= next_look)
                if now >= next_look:
                    next_look = now + layout.WAIT_SLICE_NS
                if count or self.new:
                    idle_since = 0
                elif idle_since == 0:
                    idle_since = now
                elif now - idle_since >= IDLE_NS:
                    if self._may_end():
                        return
                self._sleep(heard, count, next_look if count else now + IDLE_NS)
        except BaseException as error:
            self._give_up(error)

    cdef u32 _look_at_all(self, bint closely) except? 0xFFFFFFFF:
        """Remove the sleepers whose wait is over. Return the number of words to sleep on for the others."""
        cdef u32 count = 0
        cdef Sleeper sleeper
        cdef list group, left
        while self.new:
            sleeper = self.new[0]  # it stays there, for `has_room`: a look may let other threads add sleepers
            if not self._sees(sleeper, True):
                self.sleepers.setdefault(<u64>sleeper.word, []).append(sleeper)
            self.new.popleft()
        for address in list(self.sleepers):
            group = self.sleepers[address]
            left = [sleeper for sleeper in group if not self._sees(sleeper, closely)]
            if not left:
                del self.sleepers[address]
                continue
            self.sleepers[address] = left
            if count == _words:
                continue  # it is looked at with the others
            sleeper = left[-1]
            fc_set_wait(&(<fc_waitv *>self.waits)[count], sleeper.word, sleeper.expected, False)
            count += 1
        return count

    cdef bint _sees(self, Sleeper sleeper, bint closely) noexcept:
        """Return True if a sleeper's wait is over."""
        try:
            return sleeper.look(closely)
        except BaseException as error:
            sleeper.fail(error)
            return True

    cdef int _sleep(self, u32 heard, u32 count, u64 until_ns) noexcept:
        global _has_waitv
        cdef int failed = 0
        cdef bint has_waitv = _has_waitv
        fc_set_wait(&(<fc_waitv *>self.waits)[count], self.bell, heard, True)
        with nogil:
            if has_waitv:
                failed = fc_futex_waitv(<fc_waitv *>self.waits, count + 1, until_ns)
            else:
                fc_wait_bell(self.bell, heard, POLL_NS if count else IDLE_NS)
        if failed == ENOSYS or failed == EPERM:
            _has_waitv = False
        return 0

    def _give_up(self, error):
        """End all waits with an error (out of memory, for example), so that none waits for ever."""
        with cython.critical_section(self):
            self.retired, self.running = True, False
        for group in [*self.sleepers.values(), self.new]:
            for sleeper in list(group):
                (<Sleeper>sleeper).fail(error)


cdef int sleep_for(Sleeper sleeper) except -1:
    """Give a sleeper whose ``word`` is set to a waiter. Raises RuntimeError if the process can have no thread."""
    cdef Waiter waiter
    if sys.is_finalizing():
        raise RuntimeError("the interpreter is shutting down")
    for waiter in _waiters:
        if waiter.adopt(sleeper):
            return 0
    waiter = Waiter()
    waiter.adopt(sleeper)
    _waiters.append(waiter)
    return 0


cdef int wake(Sleeper sleeper) except -1:
    """Have the waiter look at a sleeper now, because its wait has been ended by other means."""
    cdef Waiter waiter
    for waiter in _waiters:
        if waiter.running and (<u64>sleeper.word in waiter.sleepers or waiter.new):
            waiter.ring()
    return 0


def threads():
    """Return the number of this process's waiter threads, and the number of words that they wait for."""
    cdef Waiter waiter
    return sum([waiter.running for waiter in _waiters]), sum([len(waiter.sleepers) for waiter in _waiters])


def _forget_all():
    """In a forked child: drop the waiters, whose threads and sleepers are the parent's."""
    global _waiters
    _waiters = []


os.register_at_fork(after_in_child=_forget_all)
