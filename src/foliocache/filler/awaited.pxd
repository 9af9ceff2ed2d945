cimport cython
from libc.stdint cimport uint32_t as u32, uint64_t as u64

from .flow cimport Listener
from .miss cimport Filler, Request
from .steps cimport Steps
from .waiter cimport Sleeper


@cython.final
cdef class Miss(Sleeper):
    cdef Filler filler
    cdef Steps mapping
    cdef Request request
    cdef u64 index, wanted, progress, since
    cdef object lease, result, filled, error, failure, loop, future, timer, engine, way
    cdef bint begun, told
    cdef int tries

    cdef int _submit(self, int step) except -1
    cdef int _run(self, int step) except -1
    cdef int _begin(self) except -1
    cdef int _fill(self, lease, u64 stop, u64 count, mark) except -1
    cdef int _flow(self, lease, u64 stop, mark) except -1
    cdef int _take_over(self) except -1
    cdef int _wait(self, lease) except -1
    cdef int _woken(self, int end) except -1
    cdef int _failed(self, lease) except -1
    cdef int _got(self, lease) except -1
    cdef int _tell(self, lease, error) except -1
    cdef u64 _seen(self) except? 0xFFFFFFFFFFFFFFFF
    cdef object _stuck(self)


cdef Miss new_miss(Filler filler, Steps mapping, u64 index, u64 wanted, lease)
cdef int read_ahead(Filler filler, Steps mapping, u64 first, u64 behind) except -1
