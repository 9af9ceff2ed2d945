"""The steps of ``names`` that cannot be Python: a question that has no answer yet, and a sleep without the GIL.

A question is an object from the moment it is asked. If an exception comes before its answer, the object's deallocation
withdraws the question and wakes those that wait for the answer. Every operation of the core is one call, in which no Python
runs, in a critical section of the attachment.
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport uint32_t as u32, uint64_t as u64
from libc.string cimport memcmp, memcpy

from .attachment cimport Attachment
from ..filler.waiter cimport Sleeper, sleep_for
from ..mm cimport atomics, layout
from ..mm cimport names as core
from ..mm.atomics cimport fc_mem

from .attachment import refused

cdef enum:
    COPIED = layout.NAME_SIZE - layout.NAME_KEY  # bytes of a copy of a record
cdef u64 TEXT_MAX = layout.NAME_TEXT_MAX
cdef u64 RECORD = layout.NAME_TEXT - layout.NAME_STATE  # bytes of the words before a name's text, without its key


@cython.final
@cython.no_gc
@cython.auto_pickle(False)
cdef class Question:
    """A name for which this process asks the origin. A question that is dropped without an answer is withdrawn."""
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
        with cython.critical_section(self.attachment):
            if self._is_ours():
                core.withdraw(self.attachment.mem, self.attachment.me, self.id, self.asked)
                self.attachment.tidy()
            self._done()

    cdef void _done(self) noexcept:
        self.id = 0
        if self.asking is not None:
            self.asking.discard(self.member)

    def withdraw(self):
        """End the question without an answer, unless it has one."""
        self._end()

    def answer(self, u64 state, u64 size, bytes data):
        """Record the answer. Return True if it is recorded: the question has not been withdrawn, and the name not forgotten.

        Raises ValueError unless ``data`` has a multiple of 8 bytes, at most NAME_DATA_MAX.
        """
        cdef bint remembered
        if len(data) % 8 or len(data) > layout.NAME_DATA_MAX:
            raise ValueError(f"an answer has a multiple of 8 bytes, {layout.NAME_DATA_MAX} at most, not {len(data)}")
        with cython.critical_section(self.attachment):
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
    """A wait of at most WAIT_SLICE_NS for the end of another client's question. The core finds out if that client has died."""
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
    """The names of a pool, found by digests: ``lo`` and ``hi`` are a name's digest, and ``key`` is the digest of its key alone.

    ``asking`` has the ``member`` given to :meth:`begin` for each question that this process is asking.
    """
    cdef Attachment attachment
    cdef set asking

    def __init__(self, Attachment attachment not None, set asking not None):
        self.attachment = attachment
        self.asking = asking

    def lookup(self, u64 key, u64 lo, u64 hi):
        """Return a copy of a name's record, from its word NAME_KEY on; None if the name is not known."""
        cdef bytes found = PyBytes_FromStringAndSize(NULL, COPIED)
        cdef u64 state
        self.attachment.join()
        with cython.critical_section(self.attachment):
            state = core.lookup(self.attachment.mem, self.attachment.me, key, lo, hi, PyBytes_AS_STRING(found))
        return None if state == layout.NAME_UNKNOWN else found

    def known(self, u64 key, u64 lo, u64 hi):
        """Return a :class:`Known` for a name."""
        cdef Known known = Known.__new__(Known)
        known.attachment, known.key, known.lo, known.hi = self.attachment, key, lo, hi
        return known

    def begin(self, u64 key, u64 lo, u64 hi, u64 now, u64 oldest, bytes text, tuple member):
        """Ask for a name. Return a :class:`Question`; or NAME_FRESH, NAME_TAKEN, NAME_NOMEM or NAME_BUSY if there is none.

        ``now`` and ``oldest`` are nanoseconds of CLOCK_BOOTTIME: an answer to a question asked since ``oldest`` is fresh.
        """
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
        self.asking.add(member)  # before the question is asked: a signal handler may ask for the same name
        with cython.critical_section(self.attachment):
            found = core.begin(
                self.attachment.mem, self.attachment.me, key, lo, hi, now, oldest, PyBytes_AS_STRING(padded), length
            )
            if found > layout.NAME_BUSY:
                question.id = found
            self.attachment.tidy()
        return question if question.id else found

    def wait(self, u64 key, u64 lo, u64 hi, u64 timeout_ns):
        """Sleep until another client's question for a name has ended, or for ``timeout_ns``. Return False at once if there is
        no such question.

        Raises what a signal handler raises.
        """
        cdef u64 ticket
        self.attachment.join()
        ticket = self._ticket(key, lo, hi)
        if ticket:
            with nogil:
                core.sleep(self.attachment.mem, ticket, timeout_ns)
            PyErr_CheckSignals()
        return ticket != 0

    cdef u64 _ticket(self, u64 key, u64 lo, u64 hi) noexcept:
        with cython.critical_section(self.attachment):
            return core.join(self.attachment.mem, self.attachment.me, key, lo, hi)

    def doze(self, u64 key, u64 lo, u64 hi, tell):
        """Do as ``wait`` does, but without sleeping: ``tell`` is called in another thread when the sleep would end."""
        cdef AskerWait wait
        cdef u64 ticket
        self.attachment.join()
        ticket = self._ticket(key, lo, hi)
        if ticket:
            wait = AskerWait.__new__(AskerWait)
            wait.attachment, wait.at, wait.tell = self.attachment, core.asker_at(self.attachment.mem, ticket), tell
            wait.expected, wait.deadline = ticket >> 32, atomics.now_ns() + layout.WAIT_SLICE_NS
            wait.word = <u32 *>((<const fc_mem *>self.attachment.mem).base + wait.at)
            sleep_for(wait)
        return ticket != 0

    def forget(self, u64 key):
        """Remove all names of a key. Raises FoliocacheError if a process that has stopped holds the lock."""
        cdef bint done
        self.attachment.join()
        with cython.critical_section(self.attachment):
            done = core.forget(self.attachment.mem, self.attachment.me, key)
            self.attachment.tidy()
        if not done:
            raise refused("forgetting a name")

    cdef u32 _next_used(self, u32 n, char *found) noexcept:
        with cython.critical_section(self.attachment):
            return core.next_used(self.attachment.mem, self.attachment.me, n, found)

    def next(self, u32 n):
        """Return the first name at word n of the index or after it: (number of its word, copy of its record). None if there is
        none."""
        cdef bytes found = PyBytes_FromStringAndSize(NULL, COPIED)
        self.attachment.join()
        n = self._next_used(n, PyBytes_AS_STRING(found))
        return None if n == layout.NIL else (n, found)

    def next_below(self, u32 n, bytes prefix):
        """Return what ``next`` returns, of the names whose text begins with prefix or was cut before the end of prefix.

        A pool may have 10^5 names, of which few match. Looking at each takes 50 ns here, and 3 us in Python.
        """
        cdef bytes found = PyBytes_FromStringAndSize(NULL, COPIED)
        cdef char *words = PyBytes_AS_STRING(found)
        cdef const char *wanted = PyBytes_AS_STRING(prefix)
        cdef u64 size = PyBytes_GET_SIZE(prefix)
        cdef u64 length
        self.attachment.join()
        while True:
            n = self._next_used(n, words)
            if n == layout.NIL:
                return None
            length = min((<u64 *>(words + (layout.NAME_STATE - layout.NAME_KEY)))[0] >> layout.NAME_TEXT_SHIFT, TEXT_MAX)
            if memcmp(words + (layout.NAME_TEXT - layout.NAME_KEY), wanted, min(length, size)) == 0:
                if length >= size or length > TEXT_MAX - 4:  # a text that was cut lacks at most 3 bytes of TEXT_MAX
                    return n, found
            n += 1


@cython.final
@cython.no_gc
@cython.auto_pickle(False)
cdef class Known:
    """A name that this process looks up again and again, and what it has found there, for its user.

    A process keeps thousands of them, so the garbage collector does not know them: a full collection would copy the heap of a
    forked process. Nothing that refers to a Known may be kept in it.
    """
    cdef Attachment attachment
    cdef u64 key, lo, hi
    cdef object _found

    def __init__(self):
        raise TypeError("known names come from NameTable.known()")

    def __reduce__(self):
        raise TypeError("a known name is this process's, and cannot be copied or pickled")

    @property
    def found(self):
        with cython.critical_section(self):
            return self._found

    @found.setter
    def found(self, found):
        with cython.critical_section(self):
            self._found = found

    def look(self, bytes last):
        """Return the name's record, without the text: state, since, size, version, extra. That is ``last`` itself if they are
        equal; None if the name is not known."""
        cdef char copy[COPIED]
        cdef char *words = copy + (layout.NAME_STATE - layout.NAME_KEY)
        cdef char *data = copy + (layout.NAME_DATA - layout.NAME_KEY)
        cdef u64 state, length
        cdef bytes found
        if not self.attachment.joined:
            self.attachment.join()
        with cython.critical_section(self.attachment):
            state = core.lookup(self.attachment.mem, self.attachment.me, self.key, self.lo, self.hi, copy)
        if state == layout.NAME_UNKNOWN:
            return None
        state = (<u64 *>words)[0]
        length = (state >> layout.NAME_VERSION_SHIFT & layout.NAME_LENGTH_MASK)
        length = min(length + (state >> layout.NAME_EXTRA_SHIFT & layout.NAME_LENGTH_MASK), <u64>layout.NAME_DATA_MAX)
        if last is not None and <u64>PyBytes_GET_SIZE(last) == RECORD + length:
            if memcmp(words, PyBytes_AS_STRING(last), RECORD) == 0:
                if memcmp(data, PyBytes_AS_STRING(last) + RECORD, length) == 0:
                    return last
        found = PyBytes_FromStringAndSize(NULL, RECORD + length)
        memcpy(PyBytes_AS_STRING(found), words, RECORD)
        memcpy(PyBytes_AS_STRING(found) + RECORD, data, length)
        return found
