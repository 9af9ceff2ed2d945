cimport cython
from libc.stdint cimport uint32_t as u32, uint64_t as u64

from . cimport atomics, client, layout, robust_lock, slab, vmscan
from .atomics cimport mem_t


cpdef void setup(mem_t mem) noexcept nogil
@cython.locals(state=u32)
cpdef u32 lookup(mem_t mem, u32 me, u64 key, u64 digest_lo, u64 digest_hi, char *out) noexcept nogil
@cython.locals(found=u64)
cpdef u64 begin(mem_t mem, u32 me, u64 key, u64 digest_lo, u64 digest_hi, u64 now, u64 oldest, const char *text,
                u32 text_length) noexcept nogil
@cython.locals(remembered=bint, at=u64)
cpdef bint answer(mem_t mem, u32 me, u64 id, u64 asked, u64 state, u64 size, const char *data, u32 length) noexcept nogil
@cython.locals(at=u64)
cpdef void withdraw(mem_t mem, u32 me, u64 id, u64 asked) noexcept nogil
@cython.locals(done=bint, place=u64, at=u64)
cpdef bint forget(mem_t mem, u32 me, u64 key) noexcept nogil
@cython.locals(ticket=u64, place=u64, at=u64, asleep=u64)
cpdef u64 join(mem_t mem, u32 me, u64 key, u64 digest_lo, u64 digest_hi) noexcept nogil
cpdef u32 sleep(mem_t mem, u64 ticket, u64 timeout_ns) noexcept nogil
cpdef u64 asker_at(mem_t mem, u64 ticket) noexcept nogil
@cython.locals(found=u32, number=u32, at=u64, sequence=u32)
cpdef u32 next_used(mem_t mem, u32 me, u32 n, char *out) noexcept nogil
cpdef void reap(mem_t mem, u32 me, u32 dead) noexcept nogil
cpdef void repair(mem_t mem, u32 me) noexcept nogil
@cython.locals(at=u64, id=u64, sequence=u32, state=u64, data=u64)
cpdef bint is_sound(mem_t mem, u32 number) noexcept nogil
cpdef u32 first_of(mem_t mem, u64 key) noexcept nogil
@cython.locals(place=u64, number=u32, at=u64, sequence=u32, state=u32)
cdef u32 _lookup(mem_t mem, u64 key, u64 digest_lo, u64 digest_hi, char *out) noexcept nogil
@cython.locals(sequence=u32)
cdef u32 _begin_copy(mem_t mem, u64 at) noexcept nogil
cdef bint _copy(mem_t mem, u64 at, u32 sequence, char *out) noexcept nogil
cdef bint _is(mem_t mem, u64 at, u64 digest_lo, u64 digest_hi) noexcept nogil
cdef void _mark_used(mem_t mem, u32 number, u64 at) noexcept nogil
@cython.locals(got=u32)
cdef bint _lock(mem_t mem, u32 me) noexcept nogil
@cython.locals(n=u32)
cdef void _reset(mem_t mem) noexcept nogil
@cython.locals(number=u32)
cdef void _repair(mem_t mem, u32 me) noexcept nogil
@cython.locals(at=u64, key=u64, lo=u64, hi=u64, place=u64)
cdef bint _index_again(mem_t mem, u32 number) noexcept nogil
@cython.locals(place=u64, found=u64)
cdef u64 _begin(mem_t mem, u32 me, u64 key, u64 digest_lo, u64 digest_hi, u64 now, u64 oldest, const char *text,
                u32 text_length) noexcept nogil
@cython.locals(since=u64)
cdef u64 _ask(mem_t mem, u32 me, u64 at, u64 now, u64 oldest) noexcept nogil
cdef bint _is_within(u64 time, u64 now, u64 oldest) noexcept nogil
@cython.locals(waiters=u32)
cdef void _set_asker(mem_t mem, u32 me, u64 at, u64 now) noexcept nogil
@cython.locals(asker=u32)
cdef bint _is_asked(mem_t mem, u64 at) noexcept nogil
cdef bint _is_mine(mem_t mem, u32 me, u64 at, u64 asked) noexcept nogil
cdef void _end_asking(mem_t mem, u32 me, u64 at, u64 asked) noexcept nogil
@cython.locals(asker=u32)
cdef void _wake(mem_t mem, u64 at) noexcept nogil
cdef u32 _asker(mem_t mem, u64 at) noexcept nogil
cdef u32 _life(mem_t mem, u32 number) noexcept nogil
cdef u32 _state(mem_t mem, u64 at) noexcept nogil
@cython.locals(text=u64)
cdef void _write(mem_t mem, u64 at, u64 asked, u64 state, u64 size, const char *data, u32 length) noexcept nogil
cdef void _begin_change(mem_t mem, u64 at) noexcept nogil
cdef void _end_change(mem_t mem, u64 at, u64 serial) noexcept nogil
@cython.locals(serial=u64)
cdef u64 _serial(mem_t mem) noexcept nogil
@cython.locals(place=u64, number=u32, at=u64, serial=u64, length=u64)
cdef u64 _make(mem_t mem, u32 me, u64 key, u64 digest_lo, u64 digest_hi, const char *text, u32 text_length) noexcept nogil
cdef void _index(mem_t mem, u64 place, u32 number) noexcept nogil
cdef void _drop(mem_t mem, u32 me, u64 place, u32 number) noexcept nogil
@cython.locals(at=u64)
cdef void _discard(mem_t mem, u32 me, u32 number) noexcept nogil
@cython.locals(place=u64)
cdef u64 _room(mem_t mem, u32 me, u64 key) noexcept nogil
@cython.locals(place=u64)
cdef u64 _empty(mem_t mem, u64 key) noexcept nogil
@cython.locals(place=u64, found=u64, least=u64, at=u64, used=u64, age=u64)
cdef u64 _victim(mem_t mem, u64 key) noexcept nogil
@cython.locals(place=u64, at=u64)
cdef u64 _search(mem_t mem, u64 key, u64 digest_lo, u64 digest_hi) noexcept nogil
@cython.locals(number=u32)
cdef u64 _indexed(mem_t mem, u64 place) noexcept nogil
@cython.locals(number=u32, at=u64)
cdef u64 _record(mem_t mem, u64 id) noexcept nogil
@cython.locals(place=u64)
cdef u64 _place_of(mem_t mem, u64 at, u32 number) noexcept nogil
@cython.locals(mixed=u64)
cdef u64 _set(mem_t mem, u64 key) noexcept nogil
