cimport cython
from libc.stdint cimport uint32_t as u32, uint64_t as u64

from . cimport atomics, backing, client, filemap, fill, flags, folio, layout, lru
from . cimport mapping, names, page_alloc, page_ref, page_type, pagetable, slab
from .atomics cimport mem_t


cpdef void locks(mem_t mem, u32 me, u32 dead) noexcept nogil
@cython.locals(n=u32, word=u32, dropped=bint)
cpdef void pins(mem_t mem, u32 me, u32 dead) noexcept nogil
@cython.locals(n=u32, word=u32, waiting=u32)
cpdef u32 resolve_intents(mem_t mem, u32 me, u32 dead) noexcept nogil
@cython.locals(n=u32, free=u32, word=u32)
cpdef bint hand_over_unresolved(mem_t mem, u32 dead, u32 keeper) noexcept nogil
@cython.locals(quarantined=u32, unpublished=bint, word=u32)
cpdef bint settle(mem_t mem, u32 me, u32 dead, u32 pfn) noexcept nogil
@cython.locals(number=u32)
cpdef void sweep(mem_t mem, u32 me) noexcept nogil
@cython.locals(cache=u32)
cpdef void repair(mem_t mem, u32 me, u32 part) noexcept nogil
@cython.locals(at=u64, settled=bint)
cpdef bint drop(mem_t mem, u32 me, u32 n, u32 pfn) noexcept nogil
@cython.locals(number=u32)
cdef void _repair_trees(mem_t mem, u32 me) noexcept nogil
@cython.locals(at=u64)
cdef bint _drop_pin(mem_t mem, u32 me, u32 dead, u32 n, u32 pfn) noexcept nogil
cdef bint _finish(mem_t mem, u32 me, u32 dead, u32 pfn) noexcept nogil
@cython.locals(unpublished=bint)
cdef bint _unpublish(mem_t mem, u32 me, u32 pfn) noexcept nogil
cdef void _fail(mem_t mem, u32 pfn) noexcept nogil
cdef bint _settle_word(mem_t mem, u32 me, u32 pfn, u32 word) noexcept nogil
@cython.locals(other=u32, alive=bint)
cdef bint _is_named(mem_t mem, u32 dead, u32 pfn) noexcept nogil
@cython.locals(before=u32, n=u32)
cdef bint _names(mem_t mem, u32 other, u32 pfn, bint alive) noexcept nogil
@cython.locals(named=u32)
cdef bint _is_name(mem_t mem, u32 word, u32 pfn, bint alive) noexcept nogil
cdef bint _is_mapped(mem_t mem, u32 table, u32 pfn) noexcept nogil
