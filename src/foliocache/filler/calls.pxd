cimport cython
from libc.stdint cimport uint32_t as u32, uint64_t as u64

from .steps cimport Steps


@cython.final
cdef class _Reading:
    cdef object identity
    cdef u64 first, end, since
    cdef u32 epoch
    cdef bint private

    cdef bint has(self, Steps mapping, u64 index) except -1


cdef list _reads()
cdef _Reading _reading(Steps mapping, u64 index, u64 count, bint private)
cdef int _nested(Steps mapping, u64 index, bint private) except -1


cdef class Calls:
    cdef object key, pool, given, call_read, call_readinto, call_read_into, origin, lock, guard
    cdef bint concurrent, is_exact
    cdef readonly bint is_threaded
    cdef u32 kind, lock_epoch, late_epoch
    cdef u64 calls, late_since, late_behind

    cdef u64 _patience(self) except? 0
    cdef u64 _patience_for(self, Steps mapping, u64 index) except? 0
    cdef object _read_late(self, Steps mapping, u64 index)
    cdef object read_privately(self, Steps mapping, u64 index)
    cdef bytes _content(self, Steps mapping, u64 index)
    cdef bytes _private_content(self, Steps mapping, u64 offset, Py_ssize_t length)
    cdef object _read(self, u64 offset, u64 length)
    cdef int _readinto(self, Steps mapping, u64 offset, target) except -1
    cdef object _begin(self, u64 offset, list views)
    cdef object _stopped(self)
    cdef int _check_count(self, Steps mapping, got, u64 offset, Py_ssize_t length) except -1
    cdef int _check_length(self, Steps mapping, Py_ssize_t got, u64 offset, Py_ssize_t length) except -1
    cdef object _short(self, Steps mapping, got, u64 offset, Py_ssize_t length)
    cdef object _take_turn(self, Steps mapping)
