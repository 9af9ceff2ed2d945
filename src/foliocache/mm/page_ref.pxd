from libc.stdint cimport uint32_t as u32, uint64_t as u64

from . cimport atomics, layout
from .atomics cimport mem_t


cpdef u32 try_get(mem_t mem, u64 folio) noexcept nogil  # inline
cdef u32 _refuse(mem_t mem, u64 folio, u32 old) noexcept nogil
cpdef u32 get(mem_t mem, u64 folio) noexcept nogil
cpdef bint put(mem_t mem, u64 folio) noexcept nogil  # inline
cpdef bint freeze(mem_t mem, u64 folio, u32 n) noexcept nogil
cpdef void unfreeze(mem_t mem, u64 folio, u32 n) noexcept nogil
cpdef void init(mem_t mem, u64 folio, u32 n) noexcept nogil
cpdef bint correct(mem_t mem, u64 folio, u32 wrong, u32 right) noexcept nogil
cpdef bint is_frozen(mem_t mem, u64 folio) noexcept nogil
cpdef u32 count(mem_t mem, u64 folio) noexcept nogil
