# Written by tools/generate.py from flags.py and flags.pxd.
cimport cython
from libc.stdint cimport int64_t, uint32_t as u32, uint64_t as u64

from .. cimport atomics, layout
from ..atomics cimport mem_t
from ..flags cimport begin_wait
from ..flags cimport clear
from ..flags cimport init
from ..flags cimport mark_referenced
from ..flags cimport set_readahead
from ..flags cimport unlock
from ..flags cimport wait


cdef inline u32 load(mem_t mem, u64 folio) noexcept nogil:
    return atomics.load_acquire(mem, folio + layout.F_FLAGS)
