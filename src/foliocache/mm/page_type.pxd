cimport cython
from libc.stdint cimport uint32_t as u32, uint64_t as u64

from . cimport atomics, layout
from .atomics cimport mem_t


@cython.locals(word=u32)
cpdef void set(mem_t mem, u32 pfn, u32 type, u32 order, u32 span) noexcept nogil
cpdef u32 type(mem_t mem, u32 pfn) noexcept nogil
@cython.locals(word=u32, type=u32, found=u32)
cpdef u32 order(mem_t mem, u32 pfn) noexcept nogil
cpdef u32 span(mem_t mem, u32 pfn) noexcept nogil  # inline
cpdef bint is_private(mem_t mem, u32 pfn, u32 wanted) noexcept nogil
@cython.locals(length=u32, size=u64, found=u32)
cpdef u32 limit(mem_t mem, u32 pfn) noexcept nogil
