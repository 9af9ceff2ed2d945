"""Copies that callers get, written by the threads that fill the folios, and not by the caller after them.

The engine's requests keep them, so they may end after their readers, which may be interrupted.
"""
cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_FromStringAndSize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t as u32, uint64_t as u64
from libc.string cimport memchr, memset

from ..filler.buffers cimport copy_long

from ..errors import FoliocacheError


@cython.auto_pickle(False)
cdef class Sink:
    """What wants copies of an object's bytes: ``Steps.deliver`` gives it each folio that a request fills."""
    def __init__(self):
        raise TypeError("a result belongs to a read")

    def __reduce__(self):
        raise TypeError("a result belongs to a read, and cannot be copied or pickled")

    cdef int take(self, u64 at, const char *data, u64 length) except -1:
        """Copy what is wanted of the object's bytes from ``at`` on, of which ``data`` has so many."""
        raise NotImplementedError


@cython.final
@cython.no_gc
@cython.auto_pickle(False)
cdef class Result(Sink):
    """The ``content`` of an object's bytes from ``start`` to ``end``, which nobody but its reader and the engine has yet.

    A unit is written once: by the thread that fills its folio, before the folio is complete, or by the reader, which has a
    lease on the complete folio. Each looks before, and notes it while it still has the folio. So no one writes to the content
    when the reader has come to its end, and returns it. ``noted`` has a byte for each unit. ``ended``: an event
    that is set when the reader's caller waits no longer; or None.
    """
    cdef int take(self, u64 at, const char *data, u64 length) except -1:
        cdef u64 begin = max(at, self.start)
        cdef u64 end = min(at + length, self.end)
        if self.content is None:
            raise TypeError("a result without memory: it was not made by a read")
        if begin < end and not self.has(begin, end - begin):
            copy_long(PyBytes_AS_STRING(self.content) + (begin - self.start), data + (begin - at), end - begin)
            self.note(begin, end - begin)
        return 0

    cdef bint has(self, u64 at, u64 length) noexcept:
        """Return True if all of the units that have these bytes are there."""
        cdef u64 first = (at >> self.shift) - (self.start >> self.shift)
        cdef u64 last = ((at + length - 1) >> self.shift) - (self.start >> self.shift)
        return memchr(PyByteArray_AS_STRING(self.noted) + first, 0, last - first + 1) == NULL

    cdef void note(self, u64 at, u64 length) noexcept:
        cdef u64 first = (at >> self.shift) - (self.start >> self.shift)
        cdef u64 last = ((at + length - 1) >> self.shift) - (self.start >> self.shift)
        memset(PyByteArray_AS_STRING(self.noted) + first, 1, last - first + 1)


@cython.final
@cython.auto_pickle(False)
cdef class SortedResults(Sink):
    """Results of one object, by their first byte."""
    cdef int take(self, u64 at, const char *data, u64 length) except -1:
        cdef Py_ssize_t first = 0, behind = len(self.results), middle
        while first < behind:  # those before the first one that may reach up to here
            middle = (first + behind) // 2
            if (<Result>self.results[middle]).start + self.longest <= at:
                first = middle + 1
            else:
                behind = middle
        while first < len(self.results) and (<Result>self.results[first]).start < at + length:
            (<Result>self.results[first]).take(at, data, length)
            first += 1
        return 0


cdef int check(ended) except -1:
    """Raise FoliocacheError if no one waits any longer: this event is set. It may be None."""
    if ended is not None and ended.is_set():
        raise FoliocacheError("what has awaited this read has been cancelled")
    return 0


cdef Result new_result(bytes content, u64 start, u32 shift, ended=None):
    """Return a result with this memory, which has at least a byte. shift: a unit has 2^shift bytes."""
    cdef Result result = Result.__new__(Result)
    cdef Py_ssize_t units
    result.content, result.start, result.end, result.shift = content, start, start + PyBytes_GET_SIZE(content), shift
    result.ended = ended
    units = ((result.end - 1) >> shift) - (start >> shift) + 1
    result.noted = PyByteArray_FromStringAndSize(NULL, units)
    memset(PyByteArray_AS_STRING(result.noted), 0, units)
    return result


cdef SortedResults sorted_results(list results):
    cdef SortedResults made = SortedResults.__new__(SortedResults)
    made.results = sorted(results, key=_start)
    for each in results:
        made.longest = max(made.longest, (<Result>each).end - (<Result>each).start)
    return made


def _start(Result result not None):
    return result.start
