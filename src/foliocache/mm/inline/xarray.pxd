# Written by tools/generate.py from xarray.py and xarray.pxd.
cimport cython
from libc.stdint cimport int64_t, uint32_t as u32, uint64_t as u64

from .. cimport atomics, layout
from ..atomics cimport mem_t
from . cimport slab
from ..xarray cimport _belongs
from ..xarray cimport _clear
from ..xarray cimport _empty_level
from ..xarray cimport _erase
from ..xarray cimport _is_whole
from ..xarray cimport _new_node
from ..xarray cimport _own_node_at
from ..xarray cimport _publish
from ..xarray cimport _put
from ..xarray cimport _recount
from ..xarray cimport _recount_folio
from ..xarray cimport _say_where
from ..xarray cimport erase
from ..xarray cimport height_for
from ..xarray cimport is_linked
from ..xarray cimport next_index
from ..xarray cimport recount
from ..xarray cimport room
from ..xarray cimport store


cdef inline u64 find(mem_t mem, u64 head, u32 height, u64 index) noexcept nogil:
    slot = head
    while height > 0:
        height -= 1
        node = node_at(mem, atomics.load_relaxed(mem, slot))
        if node == 0:
            return 0
        slot = slot_at(node, height, index)
    return slot


cdef inline u32 load(mem_t mem, u64 slot) noexcept nogil:
    return pfn_of(mem, atomics.load_relaxed(mem, slot))


cdef inline u32 reload(mem_t mem, u64 slot) noexcept nogil:
    return pfn_of(mem, atomics.load_relaxed(mem, slot))


cdef inline u64 node_at(mem_t mem, u32 entry) noexcept nogil:
    if not entry & layout.XA_NODE:
        return 0
    return slab.at(mem, layout.SLAB_NODES, entry >> 1)


cdef inline u64 slot_at(u64 node, u32 level, u64 index) noexcept nogil:
    return node + layout.NODE_SLOTS + ((index >> (level * layout.NODE_SHIFT)) & layout.NODE_MASK) * 4


cdef inline u32 pfn_of(mem_t mem, u32 entry) noexcept nogil:
    if entry == 0 or entry & layout.XA_NODE or (entry >> 1) > atomics.npages(mem):
        return layout.NIL
    return (entry >> 1) - 1
