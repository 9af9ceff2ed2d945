"""An attachment of this process to a segment: its client slot, and which words of its ledger are free."""
cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t as u8, uint32_t as u32, uint64_t as u64
from libc.stdlib cimport calloc, free, malloc

from ..mm cimport atomics, client, filemap, layout, page_alloc, pagetable, trim
from ..mm cimport reap as core
from ..mm cimport turn as core_turn
from ..mm.atomics cimport fc_mem, mem_t

import os
import time
import weakref

from . import headroom
from .client import adopt, opened, reap, repair
from ..errors import FoliocacheError
from ..mm import audit
from ..observe.records import Finding

cdef extern from *:
    """
    /* In a forked child. os.fork stops the other threads, but a lock may have been handed to one of them that waited for it. */
    static inline void fc_forget_lock(PyObject *object)
    {
    #ifdef Py_GIL_DISABLED
        memset(&object->ob_mutex, 0, sizeof object->ob_mutex);
    #else
        (void)object;
    #endif
    }
    """
    void forget_lock "fc_forget_lock" (object object) noexcept

cdef extern from "<unistd.h>" nogil:
    int usleep(unsigned int us)

cdef int TURN_SPINS = 100  # before a nap
cdef unsigned int TURN_NAP_US = 50
cdef u32 TOUCH_SHIFT = 16  # log2 of the bytes of the segment that each bit of ``touched`` covers

SCAN_WAIT = 2.0  # seconds
LOOK_AGAIN = 0.001

_attachments = weakref.WeakSet()


def _after_fork_in_child():
    for attachment in list(_attachments):
        attachment.disown()


os.register_at_fork(after_in_child=_after_fork_in_child)


def refused(what):
    """Return the exception for an operation ``what`` that could not take a lock because the lock's holder has stopped."""
    return FoliocacheError(
        f"{what} could not be finished: another process has stopped while it holds a lock of the pool; "
        "see `foliocache stat`, and let that process go on or end it"
    )


# For section.h, which calls them through pointers: functions with no more arguments than these.

cdef void _exclude(mem_t mem, u64 at) noexcept nogil:
    """Keep turns from beginning, and wait for the one that has begun: its thread may not have the processor just now."""
    cdef int spins = 0
    core_turn.exclude(mem, at)
    while core_turn.is_taken(mem, at):
        if spins < TURN_SPINS:
            spins += 1
            atomics.cpu_relax()
        else:
            usleep(TURN_NAP_US)


cdef void _readmit(mem_t mem, u64 at) noexcept nogil:
    core_turn.readmit(mem, at)


cdef u32 spare() noexcept:
    """Return the number of the last word of the ledger: for pins that are dropped within the call that took them."""
    return layout.PINS - 1


@cython.final
@cython.no_gc_clear  # leases and windows that are freed later use the memory, as part of the same garbage
cdef class Attachment:
    """An attachment of this process to a segment: the mapped memory and the process's client slot.

    ``epoch`` counts the forks between the process that attached and this one: a lease of another epoch belongs to an ancestor.
    ``joined`` is true while new work may begin: the process is a client, and the pool has not been closed here.
    ``pressure`` is called before this process takes memory for the first time (in a forked child: again).
    Its lock is the process's for this pool (``section.h``): where there is no GIL, whatever uses the client's slot, the ledger,
    or what leases, windows and mappings know of them, is in a critical section of the attachment, or has its turn
    (``mm.turn``). Methods that are called from Python begin one; those that only compiled code calls do not.

    ``touched`` has a bit for each 64 KiB of the segment, set once this process has mapped them for writing. A set bit may be
    wrong, because the kernel may unmap pages, and a fork does: writing then causes page faults.
    """
    def __cinit__(self):
        assert <char *>&self.turn - <char *><PyObject *>self == <Py_ssize_t>TURN_AT
        self.turn_memory.base = <char *>self.turn_words
        self.turn_memory.size = layout.TURN_SIZE
        self.turn.mem = <mem_t>&self.turn_memory
        self.turn.exclude = _exclude
        self.turn.readmit = _readmit
        self.me = layout.NIL
        self.unused = <u32 *>malloc(layout.PINS * sizeof(u32))
        self.waiting = <u32 *>malloc(layout.PINS * sizeof(u32))
        if self.unused == NULL or self.waiting == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.unused)
        free(self.waiting)
        free(self.touched)

    def __init__(self, segment):
        """Open the descriptor for the locks. No slot is claimed before ``join``."""
        if self.segment is not None:
            raise TypeError("an attachment cannot be initialized twice")
        self.memory = segment.memory
        self.mem = self.memory.handle
        self.touched = <u8 *>calloc(((<const fc_mem *>self.mem).size >> TOUCH_SHIFT >> 3) + 1, 1)
        if self.touched == NULL:
            raise MemoryError
        self.segment = segment
        _attachments.add(self)
        self.slot = opened(segment)

    def __reduce__(self):
        raise TypeError("an attachment to a segment belongs to one process and cannot be copied or pickled")

    @property
    def number(self):
        """This process's client number. The process becomes a client if it is not one."""
        self._be_client()
        return self.me

    def join(self):
        """Become a client, unless this process is one, and then settle what dead clients have left.

        Raises FoliocacheError if the pool has been closed here, PoolError.
        """
        cdef bint new = self.me == layout.NIL
        if self.joined:
            return
        self.check_open()
        self._be_client()
        with cython.critical_section(self):
            self.joined = not self.closed
            if new:
                reap(self.slot)

    cpdef check_open(self):
        """Raise FoliocacheError if the pool has been closed here."""
        if self.closed:
            raise FoliocacheError(f"pool {self.segment.name!r} has been closed in this process; open it again")

    cdef int _be_client(self) except -1:
        if self.me == layout.NIL:
            if self.segment is None:
                raise TypeError("attachments are made by foliocache.open() and attach()")
            with cython.critical_section(self):
                self.segment.look_at_own_groups()
                if not self._begin():
                    adopt(self.slot)
                    self._begin()
        return 0

    cdef bint _begin(self) noexcept:
        """Take a clean slot, or the one that has been adopted, with an empty ledger. False if there is none. No Python runs
        here."""
        cdef u32 n
        if self.slot is None or not self.slot.claim():
            return False
        if self.me == layout.NIL:
            for n in range(spare()):
                self.unused[n] = spare() - 1 - n
            self.left = spare()
            self.nwaiting = 0
            self.me = self.slot.number
        return True

    cdef bint touch(self, u64 at, u64 length) noexcept:
        """Record that a range of the segment, not empty, is mapped from now on. Return True if all of it was mapped before."""
        cdef u64 bit
        cdef bint was = True
        cdef section_t section
        enter(&section, <PyObject *>self)
        for bit in range(at >> TOUCH_SHIFT, ((at + length - 1) >> TOUCH_SHIFT) + 1):
            was = was and self.touched[bit >> 3] >> (bit & 7) & 1
            self.touched[bit >> 3] |= 1 << (bit & 7)
        leave(&section)
        return was

    cdef bint is_touched(self, u64 at, u64 length) noexcept:
        """Return what ``touch`` returns, without recording anything."""
        cdef u64 bit
        for bit in range(at >> TOUCH_SHIFT, ((at + length - 1) >> TOUCH_SHIFT) + 1):
            if not self.touched[bit >> 3] >> (bit & 7) & 1:
                return False
        return True

    @cython.critical_section
    def close(self):
        """Refuse new work in this process. Calls that have begun continue, and leases stay valid."""
        self.closed = True
        self.joined = False

    @cython.critical_section
    def reap(self):
        """Settle what dead clients have left. Return how many there are, and how many of them wait for a living client's
        lease."""
        self._be_client()
        core.locks(self.mem, self.me, self.me)  # the locks that are marked broken and have no owner
        self.settle()
        return reap(self.slot)

    @cython.critical_section
    def alone(self, function, *arguments):
        """Return ``function(*arguments)``. Where there is no GIL, no other thread of this process is then in an operation of
        the pool."""
        return function(*arguments)

    @cython.critical_section
    def audit(self):
        """Return what an audit finds while no thread of this process is in an operation: if one has been meanwhile, of another
        audit.

        With the GIL, too: the audit makes objects, so garbage may be collected within it, and leases with that.
        """
        cdef u64 before
        self._be_client()
        for _ in range(layout.QUIET_TRIES):
            before = client.op_seq(self.mem, self.me)
            found = audit.audit(self.memory)
            if not found or client.op_seq(self.mem, self.me) == before:
                break
        return [Finding(**each) for each in found]

    @cython.critical_section
    def repair(self):
        """Clear damaged words in slots without a holder, and settle those of dead clients. Return how many slots were
        damaged."""
        self._be_client()
        return repair(self.slot)

    @cython.critical_section
    def drop(self, u32 pfn):
        """Take a damaged folio out of the cache. True if that is finished; otherwise a word of the ledger names it until it
        is."""
        cdef u32 entry
        self._be_client()
        entry = self.take()
        if entry == layout.NIL:
            return False
        if core.drop(self.mem, self.me, entry, pfn):
            self.give(entry)
            return True
        self.wait(entry)
        return False

    cdef void wait(self, u32 entry) noexcept:
        """Keep word ``entry`` of the ledger for an operation that could not be finished, until ``settle`` finishes it."""
        cdef u32 other
        cdef u64 at
        if entry == spare():
            other = self.take()
            at = client.pin(self.mem, self.me, entry)
            client.announce(self.mem, self.me, atomics.read_once(self.mem, at) & layout.PIN_PFN)
            atomics.write_once(self.mem, at, 0)
            if other == layout.NIL:
                return
            client.defer(self.mem, self.me, other)
            entry = other
        self.waiting[self.nwaiting] = entry
        self.nwaiting += 1

    cdef void tidy(self) noexcept:
        """After an operation: move the intents that it had to leave to the ledger, so that the next operation has
        CLIENT_OPS."""
        cdef u32 entry
        while client.intents(self.mem, self.me):
            entry = self.take()
            if entry == layout.NIL:
                return
            client.defer(self.mem, self.me, entry)
            self.wait(entry)
        self.settle()

    cdef void settle(self) noexcept:
        """Try again the unfinished operations in this client's own ledger, and free the words of those that are finished now.

        Does nothing while the client that held a lock when this process was refused it makes no progress.
        """
        cdef u32 n, word, kept = 0
        if self.nwaiting == 0 or client.is_refused(self.mem) or not self.slot.begin_scan():
            return
        for n in range(self.nwaiting):
            word = atomics.read_once(self.mem, client.pin(self.mem, self.me, self.waiting[n]))
            if word & layout.PIN_OWNED:  # the table of a window
                pagetable.release(self.mem, self.me, self.waiting[n], word & layout.PIN_PFN)
        core.resolve_intents(self.mem, self.me, self.me)
        self.slot.end_scan()
        for n in range(self.nwaiting):
            if atomics.read_once(self.mem, client.pin(self.mem, self.me, self.waiting[n])):
                self.waiting[kept] = self.waiting[n]
                kept += 1
            else:
                self.give(self.waiting[n])
        self.nwaiting = kept

    @cython.critical_section
    def forget(self, bytes key_digest):
        """Remove every version of the object with this key's digest. Return how many there were. Raises FoliocacheError."""
        cdef u64 key = int.from_bytes(key_digest, "little")
        cdef u64 ino, before = 0
        cdef int count = 0
        self.join()
        while True:
            ino = filemap.forget(self.mem, self.me, key, before)
            self.tidy()
            if ino == layout.INO_BUSY:
                raise refused("forget")
            if ino == 0 or ino == before:  # the same object as before: another client is filling it
                return count
            before = ino
            count += 1

    # Memory that is given back.

    @cython.critical_section
    def set_limit(self, u32 pages):
        """Let as many pages have memory at once. Raises FoliocacheError."""
        self.join()
        if not page_alloc.set_limit(self.mem, self.me, pages):
            raise refused("resize")

    @cython.critical_section
    def give_back(self, u32 most):
        """Give the memory of one free block back, of at most ``most`` pages. Return how many pages it had.

        0: there is no such block. -1: another process scans the pool, reaps or gives back, so try again; or a client has
        stopped in an operation.
        """
        cdef u32 given
        self.join()
        if not self.slot.begin_giving():
            return -1
        given = trim.give_back(self.mem, self.me, most)
        self.slot.end_giving()
        self.tidy()
        return -1 if given == layout.NIL else given

    @cython.critical_section
    def evict(self, u32 want):
        """Evict by age until ``want`` pages have come free. Return how many have."""
        self.join()
        freed = trim.evict(self.mem, self.me, want)
        self.tidy()
        return freed

    @cython.critical_section
    def evict_chunk(self):
        """Evict one old folio and all others of its chunk. False if none can be evicted."""
        self.join()
        done = trim.evict_chunk(self.mem, self.me)
        self.tidy()
        return done

    @cython.critical_section
    def evict_idle(self, u32 pfn, u32 want, u32 least):
        """Evict the folios that were not used for ``least`` ticks, of some pages from pfn on, until ``want`` pages have come
        free. Return (how many have, the page to go on with)."""
        cdef u64 got
        self.join()
        got = trim.evict_idle(self.mem, self.me, pfn, want, least)
        self.tidy()
        return got >> 32, got & layout.NIL

    @cython.critical_section
    def empty_hole(self, u32 pfn):
        """Take the memory away that the hole with this page has without a mark. False if that is not possible now."""
        cdef bint done
        self.join()
        if not self.slot.begin_giving():
            return False
        done = trim.empty_hole(self.mem, self.me, pfn)
        self.slot.end_giving()
        self.tidy()
        return done

    @cython.critical_section
    def take_turn(self, u32 last):
        """Take the turn to watch how much memory is left, or renew it: return the word for the next call, 0 if another client
        has the turn."""
        return trim.take_turn(self.mem, self.segment.group, last, atomics.now_ns())

    cdef int before_memory(self) except -1:
        """Called before this process takes memory for a folio: begin to watch how much is left, for ``pressure``.

        Raises what ``pressure`` raises, and what a signal handler does meanwhile; the next call begins again.
        """
        self.watching = True  # first: a signal handler may read from the pool
        try:
            if self.pressure is not None:
                self.pressure()
        except BaseException:
            self.watching = False
            raise
        return 0

    def disown(self):
        """In a forked child, right after the fork: forget the parent's slot and pins, and open the descriptor for the locks."""
        forget_lock(self)
        forget_lock(self.memory)
        forget_lock(self.slot)
        self.turn_words[0] = self.turn_words[1] = 0
        self.epoch += 1
        headroom.renew(self.memory)
        self.me = layout.NIL
        self.joined = False
        self.watching = False
        if self.overlay:
            forget_lock(self.overlay)  # the parent's windows end in the child, too
        self.overlay = None
        if self.slot is not None:
            self.slot.disown()

    @cython.critical_section
    def count(self, u32 counter, u64 n):
        """Add n to one of this client's counters."""
        self._be_client()
        client.count(self.mem, self.me, counter, n)

    @cython.critical_section
    def tally(self, u32 word, u64 n):
        """Add n to one of this client's statistics. Does nothing in a process that is no client."""
        if word >= layout.STAT_WORDS:
            raise ValueError(f"there are {layout.STAT_WORDS} statistics, and no number {word}")
        if self.me != layout.NIL:
            client.tally(self.mem, self.me, word, n)

    cpdef request(self, u32 source, u64 ns, u64 length, bint failed):
        """Count a request to a kind of source: how long it took, and the bytes it brought. Does nothing as ``tally``."""
        cdef u32 first = layout.STAT_SOURCES + source * layout.SOURCE_WORDS
        if source >= layout.SOURCE_KINDS:
            raise ValueError(f"there are {layout.SOURCE_KINDS} kinds of sources, and no number {source}")
        with cython.critical_section(self):
            if self.me != layout.NIL:
                client.record(self.mem, self.me, first, ns)
                client.tally(self.mem, self.me, first + layout.SOURCE_BYTES, length)
                if failed:
                    client.tally(self.mem, self.me, first + layout.SOURCE_ERRORS, 1)


@cython.final
cdef class Scan:
    """A time in which no process gives memory back, during a ``with``: for what reads pages outside operations.

    Begin and end are single calls, so no exception can come in between. Raises FoliocacheError if another process has stopped
    while it gives back.
    """
    cdef Attachment attachment
    cdef u32 epoch
    cdef bint held

    def __init__(self, Attachment attachment not None):
        self.attachment = attachment

    def __reduce__(self):
        raise TypeError("a scan belongs to one process and cannot be copied or pickled")

    def __enter__(self):
        deadline = time.monotonic() + SCAN_WAIT
        self.attachment.join()
        while not self.attachment.slot.begin_scan():
            if time.monotonic() > deadline:
                raise FoliocacheError(
                    f"pool {self.attachment.segment.name!r} cannot be looked at: another process has stopped while it gives "
                    "memory back; let it go on or end it"
                )
            time.sleep(LOOK_AGAIN)
        self.epoch = self.attachment.epoch
        self.held = True

    def __exit__(self, *exc):
        if self.held:
            if self.epoch == self.attachment.epoch:
                self.attachment.slot.end_scan()
        self.held = False
