# Written by tools/generate.py from page_type.py and page_type.pxd.
cimport cython
from libc.stdint cimport int64_t, uint32_t as u32, uint64_t as u64

from .. cimport atomics, layout
from ..atomics cimport mem_t
from ..page_type cimport is_private
from ..page_type cimport limit
from ..page_type cimport order
from ..page_type cimport set
from ..page_type cimport type


cdef inline u32 span(mem_t mem, u32 pfn) noexcept nogil:
    return atomics.load_relaxed(mem, atomics.folio_at(mem, pfn) + layout.F_TYPE) >> layout.SPAN_SHIFT & layout.SPAN_MASK
