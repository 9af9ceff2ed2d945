cimport cython
from libc.stdint cimport int64_t, uint32_t as u32, uint64_t as u64

from . cimport atomics, backing, client, folio, layout, page_alloc, page_ref, page_type, pagelist, robust_lock
from .atomics cimport mem_t


@cython.locals(cache=u32)
cpdef void setup(mem_t mem) noexcept nogil
@cython.locals(number=u32)
cpdef u32 alloc(mem_t mem, u32 me, u32 cache, u64 owner) noexcept nogil
cpdef bint free(mem_t mem, u32 me, u32 cache, u32 number) noexcept nogil
@cython.locals(cache=u32)
cpdef bint shrink(mem_t mem, u32 me) noexcept nogil
@cython.locals(pfn=u32, place=u32, found=u32)
cpdef u32 next_of(mem_t mem, u32 cache, u32 number) noexcept nogil
cpdef bint is_used(mem_t mem, u32 cache, u32 number) noexcept nogil
@cython.locals(pfn=u32)
cpdef bint holds(mem_t mem, u32 cache, u32 number) noexcept nogil
@cython.locals(type=u32, is_objects=bint)
cpdef bint is_page(mem_t mem, u32 pfn) noexcept nogil
@cython.locals(page=u64, used=u32, left=u32, chain=u32, link=u32)
cpdef bint is_chained(mem_t mem, u32 cache, u32 pfn) noexcept nogil
@cython.locals(pfn=u32)
cpdef void rebuild(mem_t mem, u32 cache) noexcept nogil
cpdef void repair(mem_t mem, u32 me, u32 cache) noexcept nogil
@cython.locals(cache=u32)
cpdef void reap(mem_t mem, u32 me, u32 dead) noexcept nogil
@cython.locals(place=u64, page=u64)
cpdef u64 at(mem_t mem, u32 cache, u32 number) noexcept nogil  # inline
cpdef u32 pfn_of(mem_t mem, u32 number) noexcept nogil  # inline
cpdef u32 objects(mem_t mem, u32 cache) noexcept nogil
@cython.locals(got=u32)
cdef bint _lock(mem_t mem, u32 me, u32 cache) noexcept nogil
cdef void _reset(mem_t mem, u32 cache) noexcept nogil
@cython.locals(place=u32, object=u64)
cdef u32 _grow(mem_t mem, u32 me, u32 cache) noexcept nogil
@cython.locals(page=u64, chain=u32, used=u32, back=u32, place=u32, link=u64)
cdef void _rebuild_page(mem_t mem, u32 cache, u32 pfn) noexcept nogil
@cython.locals(number=u32, link=u32, chain=u32, used=u32)
cdef u32 _take(mem_t mem, u32 cache, u32 pfn, u64 owner) noexcept nogil
@cython.locals(used=u32, chain=u32)
cdef void _give(mem_t mem, u32 cache, u32 pfn, u32 number) noexcept nogil
@cython.locals(pfn=u32)
cdef u32 _retire(mem_t mem, u32 me, u32 cache) noexcept nogil
@cython.locals(left=bint)
cdef bint _give_back(mem_t mem, u32 me, u32 cache, u32 pfn) noexcept nogil
@cython.locals(off=u32)
cdef void _clear(mem_t mem, u32 cache, u64 object) noexcept nogil
cdef bint _is_mine(mem_t mem, u32 cache, u32 pfn) noexcept nogil
cdef u32 _number(mem_t mem, u32 pfn, u32 place) noexcept nogil
cdef u32 _place(mem_t mem, u32 number) noexcept nogil  # inline
cdef u32 _type(u32 cache) noexcept nogil
cdef u32 _size(u32 cache) noexcept nogil  # inline
cdef u32 _per_page(mem_t mem, u32 cache) noexcept nogil
cdef u64 _word(u32 cache, u32 field) noexcept nogil
cdef void _add(mem_t mem, u64 word, int64_t n) noexcept nogil
