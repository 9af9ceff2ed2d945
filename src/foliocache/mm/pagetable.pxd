cimport cython
from libc.stdint cimport uint32_t as u32, uint64_t as u64

from . cimport atomics, backing, client, folio, layout, page_ref, page_type, vmscan, xarray
from .atomics cimport mem_t


@cython.locals(order=u32, entry=u32)
cpdef u32 create(mem_t mem, u32 me, u32 entries) noexcept nogil
@cython.locals(table=u32)
cpdef u32 make(mem_t mem, u32 me, u32 n, u32 entries) noexcept nogil
@cython.locals(released=bint)
cpdef bint release(mem_t mem, u32 me, u32 n, u32 table) noexcept nogil
@cython.locals(entry=u32)
cpdef bint clear(mem_t mem, u32 me, u32 table) noexcept nogil
@cython.locals(entry=u32)
cpdef bint maps(mem_t mem, u32 table, u32 pfn) noexcept nogil
cpdef list entries(mem_t mem, u32 table)
@cython.locals(order=u32)
cdef u32 _readable(mem_t mem, u32 table) noexcept nogil
cpdef bint map(mem_t mem, u32 table, u32 entry, u32 pfn) noexcept nogil
cpdef void move(mem_t mem, u32 me, u32 n, u32 table, u32 entry, u32 pfn) noexcept nogil
@cython.locals(found=u32)
cpdef bint unmap(mem_t mem, u32 me, u32 table, u32 entry) noexcept nogil
cpdef u32 gup_fast(mem_t mem, u32 me, u32 table, u32 entry) noexcept nogil
@cython.locals(pfn=u32)
cpdef u32 lookup(mem_t mem, u32 me, u32 n, u32 table, u32 entry) noexcept nogil
@cython.locals(i=u32)
cpdef bint gup(mem_t mem, u32 me, u32 table, u32 first, u32 count, u32 pins) noexcept nogil
@cython.locals(i=u32)
cpdef void unpin(mem_t mem, u32 me, u32 pins, u32 count) noexcept nogil
cdef u64 _entry(mem_t mem, u32 table, u32 entry) noexcept nogil
cdef u32 _capacity(mem_t mem, u32 order) noexcept nogil
