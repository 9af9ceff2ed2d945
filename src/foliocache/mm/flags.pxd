cimport cython
from libc.stdint cimport uint32_t as u32, uint64_t as u64

from . cimport atomics, layout
from .atomics cimport mem_t


cpdef void init(mem_t mem, u64 folio, u32 bits) noexcept nogil
cpdef u32 load(mem_t mem, u64 folio) noexcept nogil  # inline
cpdef void mark_referenced(mem_t mem, u64 folio, u32 seen) noexcept nogil
cpdef void set_readahead(mem_t mem, u64 folio) noexcept nogil
cpdef u32 clear(mem_t mem, u64 folio, u32 bits) noexcept nogil
cpdef void unlock(mem_t mem, u64 folio, u32 result) noexcept nogil
@cython.locals(seen=u32, asleep=u32)
cpdef u32 begin_wait(mem_t mem, u64 folio) noexcept nogil
@cython.locals(seen=u32)
cpdef u32 wait(mem_t mem, u64 folio, u64 timeout_ns) noexcept nogil
