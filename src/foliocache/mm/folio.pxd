cimport cython
from libc.stdint cimport uint32_t as u32, uint64_t as u64

from . cimport atomics, client, flags, layout, lru, page_alloc, page_ref, page_type
from .atomics cimport mem_t


cpdef void prepare(mem_t mem, u32 pfn, u32 type, u32 order, u32 span, u64 ino, u64 index, u32 length) noexcept nogil
cpdef bint put(mem_t mem, u32 me, u32 pfn) noexcept nogil  # inline
cpdef bint release(mem_t mem, u32 me, u32 n, u32 pfn) noexcept nogil  # inline
cpdef bint destroy(mem_t mem, u32 me, u32 pfn) noexcept nogil
@cython.locals(first=u64, span=u32)
cpdef bint is_identity(mem_t mem, u32 pfn, u64 ino, u64 index) noexcept nogil  # inline
@cython.locals(attached=u32)
cpdef bint is_attached(mem_t mem, u32 pfn, u64 ino, u64 index) noexcept nogil
