cimport cython
from libc.stdint cimport uint32_t as u32, uint64_t as u64

from . cimport atomics, backing, client, layout, lru, page_alloc, page_type, slab, vmscan
from .atomics cimport mem_t


@cython.locals(pfn=u32, order=u32, pages=u64, left=bint, gone=bint)
cpdef u32 give_back(mem_t mem, u32 me, u32 most) noexcept nogil
@cython.locals(order=u32, left=bint)
cpdef bint empty_hole(mem_t mem, u32 me, u32 pfn) noexcept nogil
@cython.locals(at=u64, mine=u32, found=u32)
cpdef u32 take_turn(mem_t mem, u32 group, u32 last, u64 now) noexcept nogil
@cython.locals(freed=u32)
cpdef u32 evict(mem_t mem, u32 me, u32 want) noexcept nogil
@cython.locals(end=u32, freed=u64, found=u32, got=u32)
cpdef u64 evict_idle(mem_t mem, u32 me, u32 pfn, u32 want, u32 least) noexcept nogil
@cython.locals(done=bint, refused=u32, most=u32, rounds=u32, pfn=u32, got=u32, chunk=u32)
cpdef bint evict_chunk(mem_t mem, u32 me) noexcept nogil
