# Written by tools/generate.py from slab.py and slab.pxd.
cimport cython
from libc.stdint cimport int64_t, uint32_t as u32, uint64_t as u64

from .. cimport atomics, layout
from ..atomics cimport mem_t
from . cimport backing
from ..slab cimport _add
from ..slab cimport _clear
from ..slab cimport _give
from ..slab cimport _give_back
from ..slab cimport _grow
from ..slab cimport _is_mine
from ..slab cimport _lock
from ..slab cimport _number
from ..slab cimport _per_page
from ..slab cimport _rebuild_page
from ..slab cimport _reset
from ..slab cimport _retire
from ..slab cimport _take
from ..slab cimport _type
from ..slab cimport _word
from ..slab cimport alloc
from ..slab cimport free
from ..slab cimport holds
from ..slab cimport is_chained
from ..slab cimport is_page
from ..slab cimport is_used
from ..slab cimport next_of
from ..slab cimport objects
from ..slab cimport reap
from ..slab cimport rebuild
from ..slab cimport repair
from ..slab cimport setup
from ..slab cimport shrink


@cython.locals(place=u64, page=u64)
cdef inline u64 at(mem_t mem, u32 cache, u32 number) noexcept nogil:
    pfn = pfn_of(mem, number)
    place = _place(mem, number)
    page = 1 << atomics.page_shift(mem)
    if pfn >= atomics.npages(mem) or (place + 1) * _size(cache) > page or not backing.is_marked(mem, pfn):
        return 0
    return atomics.page_at(mem, pfn) + place * _size(cache)


cdef inline u32 pfn_of(mem_t mem, u32 number) noexcept nogil:
    return number >> (atomics.page_shift(mem) - layout.OBJECT_SHIFT)


cdef inline u32 _place(mem_t mem, u32 number) noexcept nogil:
    return number & ((1 << (atomics.page_shift(mem) - layout.OBJECT_SHIFT)) - 1)


cdef inline u32 _size(u32 cache) noexcept nogil:
    if cache == layout.SLAB_NODES:
        return layout.NODE_SIZE
    return layout.MAPPING_SIZE if cache == layout.SLAB_MAPPINGS else layout.NAME_SIZE
