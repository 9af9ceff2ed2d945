from libc.stdint cimport uint32_t as u32

from .descriptor cimport Descriptor
from ..mm.atomics cimport Memory, mem_t


cdef class ClientSlot:
    cdef readonly object segment
    cdef Memory memory
    cdef mem_t mem
    cdef readonly u32 number
    cdef Descriptor file
    cdef object reaper
    cdef u32 scans
    cdef bint giving

    cdef bint begin_scan(self) noexcept
    cdef void end_scan(self) noexcept
    cdef bint begin_giving(self) noexcept
    cdef void end_giving(self) noexcept
    cdef bint claim(self) noexcept
    cdef bint _claim(self) noexcept
    cdef void _begin(self, u32 n) noexcept
    cdef _give_back(self)
