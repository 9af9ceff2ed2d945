cimport cython
from libc.stdint cimport uint32_t as u32, uint64_t as u64

from . cimport atomics, layout
from .atomics cimport mem_t


cpdef u32 chunk_order(mem_t mem) noexcept nogil  # inline
cpdef u32 limit(mem_t mem) noexcept nogil
@cython.locals(chunk=u32)
cpdef bint is_marked(mem_t mem, u32 pfn) noexcept nogil  # inline
@cython.locals(chunk=u32)
cpdef u64 mark_of(mem_t mem, u32 pfn) noexcept nogil
cpdef bint is_set(mem_t mem, u64 mark) noexcept nogil  # inline
@cython.locals(end=u64)
cpdef bint is_backed(mem_t mem, u64 pfn, u32 order) noexcept nogil
@cython.locals(end=u64, pages=u64, chunk=u64, chunk_pages=u64)
cpdef bint back(mem_t mem, u64 pfn, u32 order) noexcept nogil
@cython.locals(chunk=u64)
cpdef void mark_again(mem_t mem, u64 pfn, u32 order) noexcept nogil
@cython.locals(chunk=u64)
cpdef void unmark(mem_t mem, u64 pfn, u32 order) noexcept nogil
@cython.locals(end=u64, pages=u64)
cpdef bint punch(mem_t mem, u64 pfn, u32 order) noexcept nogil
@cython.locals(chunk=u32, end=u64)
cpdef void empty(mem_t mem, u64 pfn, u32 order) noexcept nogil
@cython.locals(end=u64, piece=u64, status=int)
cpdef bint reserve(mem_t mem, u64 begin, u64 length) noexcept nogil
@cython.locals(n=u32)
cpdef bint back_slot(mem_t mem) noexcept nogil
cdef u64 _piece(mem_t mem, u64 pfn, u64 end, u64 chunk_pages) noexcept nogil
cdef u64 _pages(mem_t mem, u32 shift) noexcept nogil
cdef u64 _word(mem_t mem, u32 chunk) noexcept nogil  # inline
