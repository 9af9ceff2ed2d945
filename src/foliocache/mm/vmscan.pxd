cimport cython
from libc.stdint cimport uint32_t as u32, uint64_t as u64

from . cimport atomics, client, folio, ghost, layout, lru, mapping, page_alloc, page_ref, page_type, slab
from .atomics cimport mem_t


cpdef u32 alloc_folio(mem_t mem, u32 me, u32 order) noexcept nogil
cpdef u32 try_alloc(mem_t mem, u32 me, u32 order) noexcept nogil
cpdef bint make_room(mem_t mem, u32 me, u32 order) noexcept nogil
@cython.locals(freed=u32, refused=u32, most=u32, rounds=u32, got=u32)
cpdef u32 shrink(mem_t mem, u32 me, u32 want) noexcept nogil
cpdef u32 evict(mem_t mem, u32 me, u32 pfn) noexcept nogil
@cython.locals(got=u32, left=u32, attached=u32, verdict=u32, freed=u32, index=u64)
cdef u32 _evict(mem_t mem, u32 me, u32 pfn, bint rest) noexcept nogil
cdef u32 _sum(u32 freed, u32 more) noexcept nogil
@cython.locals(freed=u32, pfn=u32)
cdef u32 _evict_rest(mem_t mem, u32 me, u64 ino, u64 first, u64 end, u32 verdict) noexcept nogil
cdef u32 _keep(mem_t mem, u32 me, u32 pfn) noexcept nogil
@cython.locals(block=u32)
cdef u32 _clear_block(mem_t mem, u32 me, u32 order) noexcept nogil
@cython.locals(got=u32, size=u32, freed=u32)
cpdef bint evict_range(mem_t mem, u32 me, u32 pfn, u32 end) noexcept nogil
