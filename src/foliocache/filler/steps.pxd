from libc.stdint cimport uint32_t as u32, uint64_t as u64

cdef enum Fill:
    FILLED = 0
    FAILED = 1
    LATE = 2
    OURS = 3
    FOREIGN = 4


cdef class Steps:
    cdef readonly u64 size
    cdef readonly u64 unit_size
    cdef u64 unit_count
    cdef public u64 previous
    cdef object identity

    cdef u64 probe(self, u64 index, bint filled) except? 0
    cdef Py_ssize_t length(self, u64 index) noexcept
    cdef object grab(self, u64 index, u64 count)
    cdef u64 units(self, lease) noexcept
    cdef Py_ssize_t bytes(self, lease) noexcept
    cdef u64 widen(self, lease) noexcept
    cdef void narrow(self, lease, u64 index) noexcept
    cdef bint is_filling(self, lease) noexcept
    cdef int wait(self, lease, u64 timeout_ns) except -1
    cdef u32 *sleeper(self, lease, u32 *flags) noexcept
    cdef bytes explanation(self, lease)
    cdef object target(self, lease, bint clear)
    cdef int populate(self, lease) except -1
    cdef int write(self, lease, const char *data) except -1
    cdef int deliver(self, lease, result) except -1
    cdef int complete(self, lease, bint mark) except -1
    cdef void explain(self, lease, bytes reason) noexcept
    cdef int withdraw(self, lease) except -1
    cdef object private(self, bytes content)
    cdef u32 epoch(self) noexcept
    cdef int count(self, u32 counter, u64 n) except -1
    cdef int request(self, u32 source, u64 ns, u64 length, bint failed) except -1
    cdef int waited(self, u64 ns) except -1
    cdef bint reap(self) except -1
