# Written by tools/generate.py from turn.py and turn.pxd.
cimport cython
from libc.stdint cimport int64_t, uint32_t as u32, uint64_t as u64

from .. cimport atomics, layout
from ..atomics cimport mem_t
from ..turn cimport exclude
from ..turn cimport is_taken
from ..turn cimport readmit


cdef inline bint try_begin(mem_t mem, u64 turn) noexcept nogil:
    if atomics.exchange_seq_cst(mem, turn + layout.TURN_INSIDE, 1) != 0:
        return False
    if atomics.load_seq_cst(mem, turn + layout.TURN_EXCLUDED) == 0:
        return True
    end(mem, turn)
    return False


cdef inline void end(mem_t mem, u64 turn) noexcept nogil:
    atomics.store_release(mem, turn + layout.TURN_INSIDE, 0)
