# Written by tools/generate.py from page_ref.py and page_ref.pxd.
cimport cython
from libc.stdint cimport int64_t, uint32_t as u32, uint64_t as u64

from .. cimport atomics, layout
from ..atomics cimport mem_t
from ..page_ref cimport _refuse
from ..page_ref cimport correct
from ..page_ref cimport count
from ..page_ref cimport freeze
from ..page_ref cimport get
from ..page_ref cimport init
from ..page_ref cimport is_frozen
from ..page_ref cimport unfreeze


cdef inline u32 try_get(mem_t mem, u64 folio) noexcept nogil:
    old = atomics.fetch_add_acquire(mem, folio + layout.F_REF, 1)
    if old < layout.REF_MAX:
        return layout.GOT
    return _refuse(mem, folio, old)


cdef inline bint put(mem_t mem, u64 folio) noexcept nogil:
    if atomics.fetch_sub_release(mem, folio + layout.F_REF, 1) != 1:
        return False
    return atomics.cmpxchg_acquire(mem, folio + layout.F_REF, 0, layout.FROZEN) == 0
