from libc.stdint cimport uint32_t as u32, uint64_t as u64

from . cimport atomics, flags, layout
from .atomics cimport mem_t


cpdef void begin(mem_t mem, u32 me, u32 pfn) noexcept nogil
cpdef void complete(mem_t mem, u32 pfn) noexcept nogil
cpdef void fail(mem_t mem, u32 pfn) noexcept nogil
cpdef u32 wait(mem_t mem, u32 pfn, u64 timeout_ns) noexcept nogil
