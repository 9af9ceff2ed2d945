cimport cython
from libc.stdint cimport int64_t, uint32_t as u32, uint64_t as u64

from . cimport atomics, backing, client, flags, ghost, layout, page_ref, page_type, pagelist, robust_lock
from .atomics cimport mem_t


@cython.locals(word=u32)
cpdef void setup(mem_t mem) noexcept nogil
cpdef bint insert(mem_t mem, u32 me, u32 pfn) noexcept nogil
cpdef bint add(mem_t mem, u32 me, u32 pfn, u32 queue) noexcept nogil
cpdef bint remove(mem_t mem, u32 me, u32 pfn) noexcept nogil
cpdef u32 isolate(mem_t mem, u32 me, bint spare_main) noexcept nogil
@cython.locals(queued=bint)
cpdef bint take(mem_t mem, u32 me, u32 pfn, u32 verdict) noexcept nogil
@cython.locals(found=u32)
cpdef u32 isolate_idle(mem_t mem, u32 me, u32 pfn, u32 end, u32 least) noexcept nogil
@cython.locals(pfn=u32)
cpdef void rebuild(mem_t mem) noexcept nogil
cpdef void repair(mem_t mem, u32 me) noexcept nogil
cpdef void reap(mem_t mem, u32 me, u32 dead) noexcept nogil
cpdef u32 verdict_of(mem_t mem, u32 pfn) noexcept nogil
cpdef bint is_queued(mem_t mem, u32 pfn) noexcept nogil
@cython.locals(got=u32)
cdef bint _lock(mem_t mem, u32 me) noexcept nogil
cpdef u32 pages(mem_t mem, u32 queue) noexcept nogil
cpdef u32 cached(mem_t mem) noexcept nogil
@cython.locals(attached=u32)
cdef bint _may_join(mem_t mem, u32 pfn) noexcept nogil
@cython.locals(main=u32)
cdef u32 _choose(mem_t mem, bint spare_main) noexcept nogil
@cython.locals(used=bint)
cdef u32 _look(mem_t mem, u32 me, u32 queue) noexcept nogil
@cython.locals(left=u32, beaten=u32)
cdef u32 _promote_or_evict(mem_t mem, u32 me, u32 pfn) noexcept nogil
@cython.locals(digest=u64, parts=u32)
cdef u32 _parts(mem_t mem, u32 pfn) noexcept nogil
@cython.locals(most=u32, used=bint)
cdef u32 _contest(mem_t mem, u32 heat, u32 parts) noexcept nogil
@cython.locals(left=u32)
cdef u32 _outdated(mem_t mem) noexcept nogil
@cython.locals(noted=u32, used=bint, seen=u32)
cdef bint _harvest_referenced(mem_t mem, u32 pfn) noexcept nogil
@cython.locals(at=u64, age=u32)
cdef u32 _age(mem_t mem, u32 pfn) noexcept nogil
@cython.locals(word=u32)
cdef void _see(mem_t mem, u32 pfn, u32 used) noexcept nogil
cdef u32 _now() noexcept nogil
cdef u32 _seen(mem_t mem, u32 pfn) noexcept nogil
@cython.locals(dead=bint)
cdef u32 _leave(mem_t mem, u32 me, u32 pfn, u32 verdict) noexcept nogil
@cython.locals(digest=u64, index=u64, order=u32, span=u32, verdict=u32, unit=u32)
cdef void _remember(mem_t mem, u32 me, u32 pfn) noexcept nogil
@cython.locals(digest=u64, index=u64, heat=u32, unit=u32)
cdef u32 _recall(mem_t mem, u32 me, u32 pfn) noexcept nogil
@cython.locals(left=u32, verdict=u32)
cdef u32 _recall_unit(mem_t mem, u32 me, u64 digest, u64 index, u32 order) noexcept nogil
@cython.locals(age=u32)
cdef void _count_refault(mem_t mem, u32 me, u32 ticks) noexcept nogil
@cython.locals(order=u32, shift=u32, before=u64, length=u64, left=u64)
cdef u32 _unit_order(mem_t mem, u32 pfn, u32 unit) noexcept nogil
cdef u32 _span(mem_t mem, u32 pfn) noexcept nogil
@cython.locals(rivals=u32, small=u32, worth=bint, word=u32)
cdef void _learn(mem_t mem) noexcept nogil
@cython.locals(unused=bint, others=bint, useless=u32, word=u32)
cdef void _ask(mem_t mem) noexcept nogil
@cython.locals(hand=u32, pfn=u32)
cdef void _pass_hand(mem_t mem, u32 evicted) noexcept nogil
cdef u32 _evicted_since(mem_t mem, u64 word) noexcept nogil
@cython.locals(rate=u64)
cdef bint _returns(mem_t mem, u32 verdict) noexcept nogil
cdef u64 _went(mem_t mem, u32 verdict) noexcept nogil
cdef u64 _back(mem_t mem, u32 verdict) noexcept nogil
cdef void _bump(mem_t mem, u64 word, u32 n) noexcept nogil
cdef u32 _tick(mem_t mem) noexcept nogil
cdef u64 _small(mem_t mem) noexcept nogil
@cython.locals(share=u32)
cdef u32 _share(mem_t mem, u64 of) noexcept nogil
@cython.locals(full=u32)
cdef bint _is_filling(mem_t mem) noexcept nogil
@cython.locals(queue=u32)
cdef void _empty(mem_t mem) noexcept nogil
cdef u32 _oldest(mem_t mem, u32 queue) noexcept nogil
cdef void _add(mem_t mem, u32 pfn, u32 queue, u32 heat, u32 seen) noexcept nogil
cdef void _move(mem_t mem, u32 pfn, u32 queue, u32 heat) noexcept nogil
cdef void _unlink(mem_t mem, u32 pfn) noexcept nogil
cdef void _account(mem_t mem, u32 pfn, u32 queue, int64_t sign) noexcept nogil
cdef void _mark(mem_t mem, u32 pfn, u32 queue, u32 heat, u32 verdict, u32 seen) noexcept nogil
cdef u32 _queue_of(mem_t mem, u32 pfn) noexcept nogil
@cython.locals(word=u32)
cdef void _correct(mem_t mem, u32 pfn) noexcept nogil
cdef u32 _heat(mem_t mem, u32 pfn) noexcept nogil
cdef u64 _list(u32 queue) noexcept nogil
cdef u64 _pages(u32 queue) noexcept nogil
