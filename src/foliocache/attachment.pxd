from libc.stdint cimport uint32_t as u32

from .mm.atomics cimport Memory, mem_t


cdef u32 spare() noexcept


cdef class Attachment:
    cdef readonly object segment
    cdef Memory memory
    cdef mem_t mem
    cdef u32 me
    cdef readonly u32 epoch
    cdef object slot
    cdef u32 *unused
    cdef u32 left
    cdef object __weakref__

    cdef u32 take(self) noexcept
    cdef void give(self, u32 n) noexcept
