from libc.stdint cimport uint32_t as u32, uint64_t as u64

from . cimport atomics, layout
from .atomics cimport mem_t


cpdef void lock(mem_t mem, u64 word, u32 me) noexcept nogil
cpdef void unlock(mem_t mem, u64 word) noexcept nogil
cpdef u32 owner(mem_t mem, u64 word) noexcept nogil
cdef void _lock_slow(mem_t mem, u64 word, u32 me) noexcept nogil
cdef void _sleep(mem_t mem, u64 word) noexcept nogil
