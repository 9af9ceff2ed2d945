cimport cython
from libc.stdint cimport uint32_t as u32, uint64_t as u64

from . cimport atomics, layout
from .atomics cimport mem_t


@cython.locals(mixed=u64, word=u32, place=u64, known=u64)
cpdef void remember(mem_t mem, u64 digest, u64 index, u32 order, u32 verdict, u32 heat, u32 tick) noexcept nogil
@cython.locals(mixed=u64, place=u64, word=u32, age=u32, left=u32)
cpdef u32 take(mem_t mem, u64 digest, u64 index, u32 order, u32 tick) noexcept nogil
cpdef bint is_whole(u64 digest) noexcept nogil
@cython.locals(word=u32)
cdef u64 _find(mem_t mem, u64 place, u32 printed) noexcept nogil
@cython.locals(oldest=u64, most=u32, word=u32)
cdef u64 _oldest(mem_t mem, u64 place, u32 tick) noexcept nogil
cdef u32 _age(u32 word, u32 tick) noexcept nogil
@cython.locals(sets=u32)
cdef u64 _set(mem_t mem, u64 mixed, u32 order) noexcept nogil
cdef u32 _print(u64 mixed) noexcept nogil
@cython.locals(key=u64, mixed=u64)
cdef u64 _hash(u64 digest, u64 index) noexcept nogil
