from libc.stdint cimport uint32_t as u32, uint64_t as u64

from . cimport atomics, layout
from .atomics cimport mem_t


cpdef void reset(mem_t mem, u64 where) noexcept nogil
cpdef u32 first(mem_t mem, u64 where) noexcept nogil
cpdef u32 last(mem_t mem, u64 where) noexcept nogil
cpdef u32 before(mem_t mem, u32 pfn) noexcept nogil
cpdef void push_first(mem_t mem, u64 where, u32 pfn) noexcept nogil
cpdef void push_last(mem_t mem, u64 where, u32 pfn) noexcept nogil
cpdef void remove(mem_t mem, u64 where, u32 pfn) noexcept nogil
cdef void _insert(mem_t mem, u64 where, u32 before, u32 pfn, u32 behind) noexcept nogil
cdef void _link(mem_t mem, u64 where, u32 before, u32 behind) noexcept nogil
cdef u32 _checked(mem_t mem, u32 pfn) noexcept nogil
