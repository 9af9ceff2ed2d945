from libc.stdint cimport uint32_t as u32, uint64_t as u64

from . cimport atomics, layout
from .atomics cimport mem_t


cpdef u64 slot(mem_t mem, u64 me) noexcept nogil
cpdef void count(mem_t mem, u32 me, u32 counter, u64 n) noexcept nogil
