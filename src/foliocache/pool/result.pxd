cimport cython
from libc.stdint cimport uint32_t as u32, uint64_t as u64


cdef class Sink:
    cdef int take(self, u64 at, const char *data, u64 length) except -1


@cython.final
cdef class Result(Sink):
    cdef bytes content
    cdef u64 start, end
    cdef u32 shift
    cdef bytearray noted

    cdef bint has(self, u64 at, u64 length) noexcept
    cdef void note(self, u64 at, u64 length) noexcept


@cython.final
cdef class SortedResults(Sink):
    cdef list results
    cdef u64 longest


cdef Result new_result(bytes content, u64 start, u32 shift)
cdef SortedResults sorted_results(list results)
