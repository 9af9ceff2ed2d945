# Written by tools/generate.py from client.py and client.pxd.
cimport cython
from libc.stdint cimport int64_t, uint32_t as u32, uint64_t as u64

from .. cimport atomics, layout
from ..atomics cimport mem_t
from ..client cimport _end_operation
from ..client cimport _has_left
from ..client cimport attach
from ..client cimport defer
from ..client cimport detach
from ..client cimport intents
from ..client cimport is_alive
from ..client cimport is_idle
from ..client cimport is_refused
from ..client cimport is_stalled
from ..client cimport keep_intent
from ..client cimport move_intents
from ..client cimport op_seq
from ..client cimport pins
from ..client cimport record
from ..client cimport refused
from ..client cimport set_state
from ..client cimport state
from ..client cimport tally
from ..client cimport wait_grace_period
from ..client cimport wipe
from ..client cimport word_at
from ..client cimport words


cdef inline u64 slot(mem_t mem, u64 me) noexcept nogil:
    return atomics.clients(mem) + me * layout.CLIENT_SIZE


cdef inline void count(mem_t mem, u32 me, u32 counter, u64 n) noexcept nogil:
    atomics.count64(mem, slot(mem, me) + layout.CLIENT_COUNTERS + counter * 8, n)


cdef inline void op_begin(mem_t mem, u32 me) noexcept nogil:
    busy = slot(mem, me) + layout.CLIENT_OP_SEQ
    atomics.write_once(mem, busy, atomics.read_once(mem, busy) + 1)
    atomics.asymmetric_fence_light(mem)


cdef inline void op_end(mem_t mem, u32 me) noexcept nogil:
    busy = slot(mem, me) + layout.CLIENT_OP_SEQ
    atomics.store_release(mem, busy, atomics.read_once(mem, busy) + 1)


cdef inline void announce(mem_t mem, u32 me, u32 pfn) noexcept nogil:
    op = slot(mem, me) + layout.CLIENT_OPS
    end = op + layout.OPS * 4
    while op < end and atomics.read_once(mem, op) != 0:
        op += 4
    if op < end:
        atomics.write_once(mem, op, pfn | layout.PIN_INTENT)
    else:
        unnamed = slot(mem, me) + layout.CLIENT_UNNAMED
        atomics.write_once(mem, unnamed, atomics.read_once(mem, unnamed) + 1)


cdef inline void retract(mem_t mem, u32 me, u32 pfn) noexcept nogil:
    op = slot(mem, me) + layout.CLIENT_OPS
    end = op + layout.OPS * 4
    while op < end and atomics.read_once(mem, op) != pfn | layout.PIN_INTENT:
        op += 4
    if op < end:
        atomics.write_once(mem, op, 0)


cdef inline u64 pin(mem_t mem, u64 me, u32 n) noexcept nogil:
    return slot(mem, me) + layout.CLIENT_LEDGER + n * 4


cdef inline void hold(mem_t mem, u32 me, u32 n, u32 pfn) noexcept nogil:
    atomics.write_once(mem, pin(mem, me, n), pfn | layout.PIN_OWNED)
    retract(mem, me, pfn)


cdef inline void drop(mem_t mem, u32 me, u32 n, u32 pfn) noexcept nogil:
    announce(mem, me, pfn)
    atomics.write_once(mem, pin(mem, me, n), 0)


cdef inline void keep(mem_t mem, u32 me, u32 n, u32 pfn) noexcept nogil:
    hold(mem, me, n, pfn)
    op_end(mem, me)


cdef inline void let_go(mem_t mem, u32 me, u32 n, u32 pfn) noexcept nogil:
    op_begin(mem, me)
    drop(mem, me, n, pfn)


cdef inline void finish(mem_t mem, u32 me, u32 pfn) noexcept nogil:
    retract(mem, me, pfn)
    op_end(mem, me)
