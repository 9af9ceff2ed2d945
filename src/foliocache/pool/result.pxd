cimport cython
from libc.stdint cimport uint32_t as u32, uint64_t as u64


cdef enum:
    RESULT_MIN = 4 << 20  # bytes; a longer result is written by the threads that fill the folios, too


cdef class Sink:
    cdef int take(self, u64 at, const char *data, u64 length) except -1


@cython.final
cdef class Result(Sink):
    cdef bytes content
    cdef u64 start, end
    cdef u32 shift
    cdef bytearray noted
    cdef object ended

    cdef bint has(self, u64 at, u64 length) noexcept
    cdef void note(self, u64 at, u64 length) noexcept


@cython.final
cdef class SortedResults(Sink):
    cdef list results
    cdef u64 longest


cdef int check(ended) except -1
cdef Result new_result(bytes content, u64 start, u32 shift, ended=*)
cdef SortedResults sorted_results(list results)
