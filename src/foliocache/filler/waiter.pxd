cimport cython
from libc.stdint cimport uint32_t as u32, uint64_t as u64


cdef class Sleeper:
    cdef u32 *word
    cdef u32 expected

    cdef bint look(self, bint closely) except -1
    cdef int fail(self, error) except -1


@cython.final
cdef class Waiter:
    cdef void *waits
    cdef u32 *bell
    cdef dict sleepers
    cdef object new
    cdef bint running, retired

    cdef bint has_room(self, u32 *word) noexcept
    cdef bint adopt(self, Sleeper sleeper) except -1
    cdef bint _may_end(self) noexcept
    cdef int add(self, Sleeper sleeper) except -1
    cdef int ring(self) noexcept
    cdef u32 _look_at_all(self, bint closely) except? 0xFFFFFFFF
    cdef bint _sees(self, Sleeper sleeper, bint closely) noexcept
    cdef int _sleep(self, u32 heard, u32 count, u64 timeout_ns) noexcept


cdef int sleep_for(Sleeper sleeper) except -1
cdef int wake(Sleeper sleeper) except -1
