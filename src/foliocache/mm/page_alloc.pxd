cimport cython
from libc.stdint cimport int64_t, uint32_t as u32, uint64_t as u64

from . cimport atomics, backing, client, layout, page_ref, page_type, pagelist, robust_lock
from .atomics cimport mem_t


cpdef u32 alloc(mem_t mem, u32 me, u32 order) noexcept nogil
@cython.locals(pfn=u32, backed=bint)
cpdef u32 back(mem_t mem, u32 me, u32 order) noexcept nogil
@cython.locals(pfn=u32, smaller=u32, order=u32)
cpdef u32 alloc_chunks(mem_t mem, u32 me, u32 most) noexcept nogil
@cython.locals(head=u32, order=u32)
cpdef u32 alloc_hole(mem_t mem, u32 me, u32 pfn) noexcept nogil
@cython.locals(head=u32)
cpdef bint is_hole(mem_t mem, u32 pfn) noexcept nogil
cpdef bint set_limit(mem_t mem, u32 me, u32 pages) noexcept nogil
cpdef bint free(mem_t mem, u32 me, u32 pfn, u32 order) noexcept nogil
cpdef u32 mark(mem_t mem, u32 pfn) noexcept nogil
@cython.locals(found=bint)
cpdef u32 quarantine(mem_t mem, u32 me, u32 pfn) noexcept nogil
cpdef bint end_quarantine(mem_t mem, u32 me, u32 pfn) noexcept nogil
@cython.locals(order=u32, pfn=u32, tail=u32, hole=u32)
cpdef void rebuild(mem_t mem) noexcept nogil
cpdef void repair(mem_t mem, u32 me) noexcept nogil
cpdef void reap(mem_t mem, u32 me, u32 dead) noexcept nogil
cpdef u32 free_pages(mem_t mem) noexcept nogil
@cython.locals(described=u32)
cpdef u32 backed_pages(mem_t mem) noexcept nogil
cpdef void setup(mem_t mem, u32 limit) noexcept nogil
@cython.locals(order=u32)
cdef void _reset(mem_t mem) noexcept nogil
@cython.locals(got=u32)
cdef bint _lock(mem_t mem, u32 me) noexcept nogil
@cython.locals(larger=u32, pfn=u32)
cdef u32 _take(mem_t mem, u32 me, u32 order, u32 hole) noexcept nogil
@cython.locals(pfn=u32, want=u32)
cdef u32 _take_hole(mem_t mem, u32 me, u32 order) noexcept nogil
cdef bint _may_have(mem_t mem, u32 order) noexcept nogil
@cython.locals(first=u64, end=u64, begin=u64, pfn=u32)
cdef bint _describe(mem_t mem, u32 me) noexcept nogil
cdef u32 _described(mem_t mem) noexcept nogil
@cython.locals(order=u32)
cdef u32 _largest(mem_t mem, u64 pfn) noexcept nogil
cdef void _split(mem_t mem, u32 pfn, u32 have, u32 want, u32 hole) noexcept nogil
@cython.locals(hole=u32)
cdef void _give(mem_t mem, u32 pfn, u32 order) noexcept nogil
cdef u32 _hole_of(mem_t mem, u32 pfn, u32 order) noexcept nogil
cdef void _merge(mem_t mem, u32 pfn, u32 order, u32 hole) noexcept nogil
cdef void _merge_down(mem_t mem, u32 pfn, u32 order, u32 hole) noexcept nogil
cdef bint _is_free(mem_t mem, u32 pfn, u32 order, u32 hole) noexcept nogil
cdef bint _is_parked(mem_t mem, u32 pfn) noexcept nogil
cdef bint _has_no_folio(mem_t mem, u32 pfn, u32 end) noexcept nogil
cdef bint _is_free_mark(u32 mark) noexcept nogil
cdef void _set_mark(mem_t mem, u32 pfn, u32 mark) noexcept nogil
cdef void _freeze(mem_t mem, u32 pfn) noexcept nogil
@cython.locals(order=u32, free=bint)
cdef u32 _order_at(mem_t mem, u32 pfn) noexcept nogil
@cython.locals(found=u32)
cdef void _correct(mem_t mem, u32 pfn, u32 order) noexcept nogil
cdef void _back(mem_t mem, u32 pfn, u32 order) noexcept nogil
cdef bint _may_begin(mem_t mem, u32 pfn, u32 order) noexcept nogil
@cython.locals(head=u32)
cdef u32 _head_of(mem_t mem, u32 pfn) noexcept nogil
cdef u64 _list(u32 order, u32 hole) noexcept nogil
@cython.locals(word=u64)
cdef void _add_free(mem_t mem, int64_t pages, u32 hole) noexcept nogil
