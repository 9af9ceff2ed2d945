cimport cython
from libc.stdint cimport uint32_t as u32, uint64_t as u64

from . cimport atomics, folio, layout, page_ref, page_type, slab
from .atomics cimport mem_t


cpdef u32 height_for(u64 count) noexcept nogil
cpdef u64 find(mem_t mem, u64 head, u32 height, u64 index) noexcept nogil  # inline
cpdef u32 load(mem_t mem, u64 slot) noexcept nogil  # inline
cpdef u32 reload(mem_t mem, u64 slot) noexcept nogil  # inline
cpdef u64 next_index(mem_t mem, u64 head, u32 height, u64 index, u64 last) noexcept nogil
@cython.locals(found=u32, first=u64, end=u64)
cpdef u32 room(mem_t mem, u64 head, u32 height, u64 index, u32 span, u64 last) noexcept nogil
cpdef u32 store(mem_t mem, u32 me, u64 head, u32 height, u64 index, u32 span, u32 pfn, u64 ino) noexcept nogil
cpdef u32 erase(mem_t mem, u32 me, u64 head, u32 height, u64 index, u32 span, u32 pfn) noexcept nogil
cpdef u32 recount(mem_t mem, u32 me, u64 head, u32 height, u64 ino) noexcept nogil
@cython.locals(level=u32, entry=u32)
cpdef bint is_linked(mem_t mem, u64 head, u32 height, u32 number) noexcept nogil
cpdef u64 node_at(mem_t mem, u32 entry) noexcept nogil  # inline
cpdef u64 slot_at(u64 node, u32 level, u64 index) noexcept nogil  # inline
cpdef u32 pfn_of(mem_t mem, u32 entry) noexcept nogil  # inline
cdef u64 _own_node_at(mem_t mem, u32 entry) noexcept nogil
cdef u32 _empty_level(mem_t mem, u64 head, u32 height, u64 index) noexcept nogil
@cython.locals(n=u32)
cdef u32 _put(mem_t mem, u32 me, u64 parent, u64 slot, u32 level, u64 index, u32 span, u32 pfn, u64 ino) noexcept nogil
cdef void _publish(mem_t mem, u64 parent, u64 slot, u32 entry) noexcept nogil
cdef u32 _new_node(mem_t mem, u32 me, u32 level, u64 index, u64 ino) noexcept nogil
@cython.locals(left=u32, below=u32, found=u32, freed=bint)
cdef u32 _erase(mem_t mem, u32 me, u64 slot, u32 level, u64 index, u32 span, u32 pfn) noexcept nogil
@cython.locals(n=u32, cleared=u32)
cdef u32 _clear(mem_t mem, u64 slot, u32 span, u32 pfn) noexcept nogil
@cython.locals(entry=u32, count=u32, filled=u32)
cdef u32 _recount(mem_t mem, u32 me, u64 slot, u32 level, u64 index, u32 most, u64 ino) noexcept nogil
@cython.locals(behind=u64, whole=bint)
cdef u32 _recount_folio(mem_t mem, u64 slot, u32 pfn, u64 index, u32 most, u64 ino) noexcept nogil
@cython.locals(n=u32)
cdef bint _is_whole(mem_t mem, u64 slot, u32 pfn) noexcept nogil
@cython.locals(span=u32)
cdef bint _belongs(mem_t mem, u32 pfn, u64 index, u32 most, u64 ino) noexcept nogil
cdef void _say_where(mem_t mem, u64 node, u32 level, u64 index, u64 ino) noexcept nogil
