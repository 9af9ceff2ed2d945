cimport cython
from libc.stdint cimport uint32_t as u32, uint64_t as u64

from . cimport atomics, layout
from .atomics cimport mem_t


cpdef u64 slot(mem_t mem, u64 me) noexcept nogil  # inline
cpdef void count(mem_t mem, u32 me, u32 counter, u64 n) noexcept nogil  # inline
cpdef void tally(mem_t mem, u32 me, u32 word, u64 n) noexcept nogil
@cython.locals(bucket=u32, rest=u64)
cpdef void record(mem_t mem, u32 me, u32 histogram, u64 ns) noexcept nogil
cpdef bint is_alive(mem_t mem, u32 client) noexcept nogil
cpdef void op_begin(mem_t mem, u32 me) noexcept nogil  # inline
cpdef void op_end(mem_t mem, u32 me) noexcept nogil  # inline
cpdef void announce(mem_t mem, u32 me, u32 pfn) noexcept nogil  # inline
cpdef void retract(mem_t mem, u32 me, u32 pfn) noexcept nogil  # inline
@cython.locals(n=u32, count=u32)
cpdef u32 intents(mem_t mem, u32 me) noexcept nogil
@cython.locals(op=u32, name=u32)
cpdef bint defer(mem_t mem, u32 me, u32 n) noexcept nogil
cpdef bint is_stalled(mem_t mem, u32 client) noexcept nogil
@cython.locals(by=u32)
cpdef bint is_refused(mem_t mem) noexcept nogil
cpdef void refused(mem_t mem, u32 me, u32 client) noexcept nogil
cpdef u64 pin(mem_t mem, u64 me, u32 n) noexcept nogil  # inline
cpdef void hold(mem_t mem, u32 me, u32 n, u32 pfn) noexcept nogil  # inline
cpdef void drop(mem_t mem, u32 me, u32 n, u32 pfn) noexcept nogil  # inline
cpdef void keep(mem_t mem, u32 me, u32 n, u32 pfn) noexcept nogil  # inline
cpdef void let_go(mem_t mem, u32 me, u32 n, u32 pfn) noexcept nogil  # inline
cpdef void finish(mem_t mem, u32 me, u32 pfn) noexcept nogil  # inline
cpdef void keep_intent(mem_t mem, u32 me, u32 n, u32 pfn) noexcept nogil
cpdef u32 words(mem_t mem) noexcept nogil
cpdef u64 word_at(mem_t mem, u32 client, u32 n) noexcept nogil
@cython.locals(n=u32)
cpdef void wipe(mem_t mem, u32 client) noexcept nogil
@cython.locals(n=u32, count=u32)
cpdef u32 pins(mem_t mem, u32 client) noexcept nogil
@cython.locals(n=u32, op=u32, name=u32)
cpdef void move_intents(mem_t mem, u32 me) noexcept nogil
cpdef u32 state(mem_t mem, u32 client) noexcept nogil
cpdef void set_state(mem_t mem, u32 client, u32 state) noexcept nogil
cpdef void attach(mem_t mem, u32 me) noexcept nogil
cpdef void detach(mem_t mem, u32 client) noexcept nogil
cdef void _end_operation(mem_t mem, u32 client) noexcept nogil
@cython.locals(n=u32)
cpdef bint is_idle(mem_t mem, u32 client) noexcept nogil
@cython.locals(client=u32)
cpdef bint wait_grace_period(mem_t mem, u32 me) noexcept nogil
cpdef u32 op_seq(mem_t mem, u32 client) noexcept nogil
@cython.locals(before=u32, now=u64, deadline=u64)
cdef bint _has_left(mem_t mem, u32 client) noexcept nogil
