cimport cython
from libc.stdint cimport uint32_t as u32, uint64_t as u64

from . cimport atomics, client, layout
from .atomics cimport mem_t


cpdef u32 lock(mem_t mem, u64 word, u32 me) noexcept nogil
cpdef void unlock(mem_t mem, u64 word) noexcept nogil
cpdef void mark_broken(mem_t mem, u64 word) noexcept nogil
@cython.locals(held=u32)
cpdef u32 owner(mem_t mem, u64 word) noexcept nogil
@cython.locals(held=u32)
cpdef bint take_over(mem_t mem, u64 word, u32 dead, u32 me) noexcept nogil
@cython.locals(held=u32, found=u32, now=u64, deadline=u64)
cdef u32 _lock_slow(mem_t mem, u64 word, u32 me) noexcept nogil
cdef bint _take(mem_t mem, u64 word, u32 held, u32 me) noexcept nogil
@cython.locals(asleep=u32)
cdef void _sleep(mem_t mem, u64 word, u32 held) noexcept nogil
