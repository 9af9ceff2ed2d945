cimport cython
from libc.stdint cimport uint32_t as u32, uint64_t as u64

from . cimport atomics, layout
from .atomics cimport mem_t


cpdef bint try_begin(mem_t mem, u64 turn) noexcept nogil  # inline
cpdef void end(mem_t mem, u64 turn) noexcept nogil  # inline
cpdef void exclude(mem_t mem, u64 turn) noexcept nogil
cpdef bint is_taken(mem_t mem, u64 turn) noexcept nogil
cpdef void readmit(mem_t mem, u64 turn) noexcept nogil
