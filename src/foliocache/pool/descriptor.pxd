from libc.stdint cimport uint32_t as u32


cdef class Descriptor:
    cdef int number
    cdef bint private
    cdef u32 forks
    cdef object __weakref__

    cdef int get(self) noexcept
    cdef _own(self, int number, bint private)
    cdef _close(self)
    cdef int lock(self, u32 n) noexcept
    cdef int lock_shared(self, u32 n) noexcept
    cdef void unlock(self, u32 first, u32 count) noexcept


cpdef Descriptor reopen_to_read(Descriptor file, object path)
cpdef Descriptor reopen(Descriptor file, object path)
