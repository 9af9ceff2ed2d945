"""The steps of ``names`` that cannot be Python: a question under way, and a sleep without the GIL.

A question is an object from the moment it is asked: whatever exception comes between it and its answer, its end withdraws it,
and who waits for the answer is woken. Every operation of the core is one call, in which no Python runs.
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport uint32_t as u32, uint64_t as u64
from libc.string cimport memcmp

from .attachment cimport Attachment
from ..filler.waiter cimport Sleeper, sleep_for
from ..mm cimport atomics, layout
from ..mm cimport names as core
from ..mm.atomics cimport fc_mem

from .attachment import refused

cdef u32 COPIED = layout.NAME_SIZE - layout.NAME_KEY
cdef u64 TEXT_MAX = layout.NAME_TEXT_MAX


@cython.final
@cython.no_gc
@cython.auto_pickle(False)
cdef class Question:
    """A name that this process asks the origin for. It is withdrawn when it goes unanswered."""
    cdef Attachment attachment
    cdef set asking
    cdef tuple member
    cdef u32 epoch
    cdef u64 id
    cdef u64 asked

    def __init__(self):
        raise TypeError("questions come from NameTable.begin()")

    def __reduce__(self):
        raise TypeError("a question is this process's, and cannot be copied or pickled")

    def __dealloc__(self):
        self._end()

    cdef bint _is_ours(self) noexcept:
        return self.id != 0 and self.epoch == self.attachment.epoch and self.attachment.me != layout.NIL

    cdef void _end(self) noexcept:
        if self._is_ours():
            core.withdraw(self.attachment.mem, self.attachment.me, self.id, self.asked)
            self.attachment.tidy()
        self._done()

    cdef void _done(self) noexcept:
        self.id = 0
        if self.asking is not None:
            self.asking.discard(self.member)

    def withdraw(self):
        """Give it up, unless it has been answered."""
        self._end()

    def answer(self, u64 state, u64 size, bytes data):
        """Remember the answer: True if it is. ``data`` has a multiple of 8 bytes, NAME_DATA_MAX at most."""
        cdef bint remembered
        if len(data) % 8 or len(data) > layout.NAME_DATA_MAX:
            raise ValueError(f"an answer has a multiple of 8 bytes, {layout.NAME_DATA_MAX} at most, not {len(data)}")
        if not self._is_ours():
            return False
        remembered = core.answer(
            self.attachment.mem, self.attachment.me, self.id, self.asked, state, size, PyBytes_AS_STRING(data), len(data)
        )
        self.attachment.tidy()
        self._done()
        return remembered


@cython.final
@cython.auto_pickle(False)
cdef class AskerWait(Sleeper):
    """A wait for the end of the client that asks for a name, or for a slice of time: whether it lives, the core looks."""
    cdef Attachment attachment
    cdef object tell
    cdef u64 at
    cdef u64 deadline

    cdef bint look(self, bint closely) except -1:
        cdef bint asks = atomics.load_relaxed(self.attachment.mem, self.at) == self.expected
        if asks and atomics.now_ns() < self.deadline:
            return False
        self.tell(True)
        return True

    cdef int fail(self, error) except -1:
        self.tell(error=error)
        return 0


@cython.final
@cython.auto_pickle(False)
cdef class NameTable:
    """The names of a pool, by digests: a name's is ``lo`` and ``hi``, and that of its key without who asks is ``key``.

    ``asking`` has a member for each question that is under way in this process, as given to :meth:`begin`.
    """
    cdef Attachment attachment
    cdef set asking

    def __init__(self, Attachment attachment not None, set asking not None):
        self.attachment = attachment
        self.asking = asking

    def lookup(self, u64 key, u64 lo, u64 hi):
        """What is known of a name, as its words from NAME_KEY on; None if nothing is known."""
        cdef bytes found = PyBytes_FromStringAndSize(NULL, COPIED)
        self.attachment.join()
        if core.lookup(self.attachment.mem, self.attachment.me, key, lo, hi, PyBytes_AS_STRING(found)) == layout.NAME_UNKNOWN:
            return None
        return found

    def begin(self, u64 key, u64 lo, u64 hi, u64 now, u64 oldest, bytes text, tuple member):
        """A :class:`Question`, or why there is no need or no room for one: NAME_FRESH, NAME_TAKEN, NAME_NOMEM, NAME_BUSY."""
        cdef Question question = Question.__new__(Question)
        cdef bytes padded = text.ljust((len(text) + 7) // 8 * 8, b"\0")
        cdef u32 length = len(text)
        cdef u64 found
        if length > layout.NAME_TEXT_MAX:
            raise ValueError(f"the text of a name has {layout.NAME_TEXT_MAX} bytes at most, not {length}")
        self.attachment.join()
        question.attachment = self.attachment
        question.epoch = self.attachment.epoch
        question.asked = now
        question.member = member
        question.asking = self.asking
        self.asking.add(member)  # before it is asked: a signal's handler may want the same
        found = core.begin(
            self.attachment.mem, self.attachment.me, key, lo, hi, now, oldest, PyBytes_AS_STRING(padded), length
        )
        if found > layout.NAME_BUSY:
            question.id = found
        self.attachment.tidy()
        return question if question.id else found

    def wait(self, u64 key, u64 lo, u64 hi, u64 timeout_ns):
        """Sleep until the client that asks for a name has ended, or for a slice of time; returns False at once if nobody asks.

        Raises what a signal's handler raises.
        """
        cdef u64 ticket
        self.attachment.join()
        ticket = core.join(self.attachment.mem, self.attachment.me, key, lo, hi)
        if ticket:
            with nogil:
                core.sleep(self.attachment.mem, ticket, timeout_ns)
            PyErr_CheckSignals()
        return ticket != 0

    def doze(self, u64 key, u64 lo, u64 hi, tell):
        """As ``wait``, without sleeping: have ``tell()`` called when the sleep would end, in another thread."""
        cdef AskerWait wait
        cdef u64 ticket
        self.attachment.join()
        ticket = core.join(self.attachment.mem, self.attachment.me, key, lo, hi)
        if ticket:
            wait = AskerWait.__new__(AskerWait)
            wait.attachment, wait.at, wait.tell = self.attachment, core.asker_at(self.attachment.mem, ticket), tell
            wait.expected, wait.deadline = ticket >> 32, atomics.now_ns() + layout.WAIT_SLICE_NS
            wait.word = <u32 *>((<const fc_mem *>self.attachment.mem).base + wait.at)
            sleep_for(wait)
        return ticket != 0

    def forget(self, u64 key):
        """Drop all names of a key. Raises FoliocacheError if a process that has stopped holds the lock."""
        cdef bint done
        self.attachment.join()
        done = core.forget(self.attachment.mem, self.attachment.me, key)
        self.attachment.tidy()
        if not done:
            raise refused("forgetting a name")

    def next(self, u32 n):
        """The first name at word n of the index or behind it: (number of its word, its words). None if there is none."""
        cdef bytes found = PyBytes_FromStringAndSize(NULL, COPIED)
        self.attachment.join()
        n = core.next_used(self.attachment.mem, self.attachment.me, n, PyBytes_AS_STRING(found))
        return None if n == layout.NIL else (n, found)

    def next_below(self, u32 n, bytes prefix):
        """As ``next``, of the names whose text begins with prefix, and of those whose kept text is too short to tell.

        A pool may have 10^5 names, of which few match. Looking at each takes 50 ns here, and 3 us in Python.
        """
        cdef bytes found = PyBytes_FromStringAndSize(NULL, COPIED)
        cdef char *words = PyBytes_AS_STRING(found)
        cdef const char *wanted = PyBytes_AS_STRING(prefix)
        cdef u64 size = PyBytes_GET_SIZE(prefix)
        cdef u64 length
        self.attachment.join()
        while True:
            n = core.next_used(self.attachment.mem, self.attachment.me, n, words)
            if n == layout.NIL:
                return None
            length = min((<u64 *>(words + (layout.NAME_STATE - layout.NAME_KEY)))[0] >> layout.NAME_TEXT_SHIFT, TEXT_MAX)
            if memcmp(words + (layout.NAME_TEXT - layout.NAME_KEY), wanted, min(length, size)) == 0:
                if length >= size or length > TEXT_MAX - 4:  # at most 3 bytes of a cut character are left out
                    return n, found
            n += 1
