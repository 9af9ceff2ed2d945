cimport cython
from libc.stdint cimport uint32_t as u32, uint64_t as u64

from . cimport atomics, layout
from .atomics cimport mem_t


cpdef void set(mem_t mem, u32 pfn, u32 type, u32 order) noexcept nogil
cpdef u32 type(mem_t mem, u32 pfn) noexcept nogil
@cython.locals(found=u32)
cpdef u32 order(mem_t mem, u32 pfn) noexcept nogil
