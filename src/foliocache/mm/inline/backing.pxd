# Written by tools/generate.py from backing.py and backing.pxd.
cimport cython
from libc.stdint cimport int64_t, uint32_t as u32, uint64_t as u64

from .. cimport atomics, layout
from ..atomics cimport mem_t
from ..backing cimport _pages
from ..backing cimport _piece
from ..backing cimport back
from ..backing cimport back_slot
from ..backing cimport empty
from ..backing cimport is_backed
from ..backing cimport limit
from ..backing cimport mark_again
from ..backing cimport mark_of
from ..backing cimport punch
from ..backing cimport reserve
from ..backing cimport unmark


cdef inline u32 chunk_order(mem_t mem) noexcept nogil:
    return atomics.chunk_shift(mem) - min(atomics.page_shift(mem), atomics.chunk_shift(mem))


@cython.locals(chunk=u32)
cdef inline bint is_marked(mem_t mem, u32 pfn) noexcept nogil:
    chunk = pfn >> chunk_order(mem)
    return atomics.load_relaxed(mem, _word(mem, chunk)) >> (chunk & 31) & 1


cdef inline bint is_set(mem_t mem, u64 mark) noexcept nogil:
    return atomics.load_relaxed(mem, mark >> 5) >> (mark & 31) & 1


cdef inline u64 _word(mem_t mem, u32 chunk) noexcept nogil:
    return atomics.backed(mem) + (chunk >> 5) * 4
