cimport cython
from libc.stdint cimport int64_t, uint32_t as u32, uint64_t as u64

from . cimport atomics, layout, page_ref, pagelist, wait
from .atomics cimport mem_t


cpdef u32 alloc(mem_t mem, u32 me, u32 order) noexcept nogil
cpdef void free(mem_t mem, u32 me, u32 pfn, u32 order) noexcept nogil
cpdef u32 free_pages(mem_t mem) noexcept nogil
@cython.locals(order=u32, pfn=u32)
cpdef void setup(mem_t mem, u32 me) noexcept nogil
@cython.locals(larger=u32, pfn=u32)
cdef u32 _take(mem_t mem, u32 order) noexcept nogil
cdef void _split(mem_t mem, u32 pfn, u32 have, u32 want) noexcept nogil
cdef void _merge(mem_t mem, u32 pfn, u32 order) noexcept nogil
cdef bint _is_free(mem_t mem, u32 pfn, u32 order) noexcept nogil
cdef void _put_first(mem_t mem, u32 pfn, u32 order) noexcept nogil
cdef void _put_last(mem_t mem, u32 pfn, u32 order) noexcept nogil
cdef void _remove(mem_t mem, u32 pfn, u32 order) noexcept nogil
cdef u64 _list(u32 order) noexcept nogil
cdef void _add_free(mem_t mem, int64_t pages) noexcept nogil
