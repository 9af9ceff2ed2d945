cimport cython
from libc.stdint cimport uint64_t as u64

from .miss cimport Filler
from .steps cimport Steps


cdef class Listener:
    cdef int tell(self, lease, error) except -1


@cython.final
cdef class Flow:
    cdef Filler filler
    cdef Steps mapping
    cdef Listener listener
    cdef object mark
    cdef list run, targets, views
    cdef u64 first, at, end, begin
    cdef Py_ssize_t number
    cdef readonly Py_ssize_t length

    cdef int _begin(self, lease, u64 index) except -1
    cdef int _fail(self, error) except -1
    cdef int _drop(self) except -1
    cdef int _tell(self, lease, error) except -1


cdef Flow new_flow(Filler filler, Steps mapping, lease, u64 index, u64 end, mark, Listener listener)
