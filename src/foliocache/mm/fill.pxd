cimport cython
from libc.stdint cimport uint32_t as u32, uint64_t as u64

from . cimport atomics, client, flags, layout
from .atomics cimport mem_t


cpdef void begin(mem_t mem, u32 me, u32 pfn) noexcept nogil
cpdef void complete(mem_t mem, u32 pfn) noexcept nogil
cpdef void fail(mem_t mem, u32 pfn) noexcept nogil
cpdef void explain(mem_t mem, u32 pfn) noexcept nogil
@cython.locals(owner=u32)
cpdef bint take_over(mem_t mem, u32 me, u32 pfn) noexcept nogil
cpdef void abandon(mem_t mem, u32 dead, u32 pfn) noexcept nogil
cpdef u32 begin_wait(mem_t mem, u32 pfn) noexcept nogil
cpdef u32 wait(mem_t mem, u32 pfn, u64 timeout_ns) noexcept nogil
