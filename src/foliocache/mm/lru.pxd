cimport cython
from libc.stdint cimport int64_t, uint32_t as u32, uint64_t as u64

from . cimport atomics, client, flags, kind, layout, page_ref, pagelist, wait
from .atomics cimport mem_t


cpdef void setup(mem_t mem) noexcept nogil
cpdef void add(mem_t mem, u32 me, u32 pfn, u32 queue) noexcept nogil
cpdef void remove(mem_t mem, u32 me, u32 pfn) noexcept nogil
cpdef u32 isolate(mem_t mem, u32 me) noexcept nogil
cpdef u32 pages(mem_t mem, u32 queue) noexcept nogil
cpdef void remember(mem_t mem, u64 ino, u64 index) noexcept nogil
cpdef u32 recall(mem_t mem, u64 ino, u64 index) noexcept nogil
@cython.locals(pfn=u32)
cpdef void rebuild(mem_t mem) noexcept nogil
cpdef void repair(mem_t mem, u32 me) noexcept nogil
cpdef void reap(mem_t mem, u32 me, u32 dead) noexcept nogil
cpdef bint is_queued(mem_t mem, u32 pfn) noexcept nogil
cdef void _lock(mem_t mem, u32 me) noexcept nogil
cdef u32 _choose(mem_t mem) noexcept nogil
cdef u32 _take_oldest(mem_t mem, u32 me, u32 queue) noexcept nogil
cdef void _add(mem_t mem, u32 pfn, u32 queue) noexcept nogil
cdef void _remove(mem_t mem, u32 pfn) noexcept nogil
cdef void _account(mem_t mem, u32 pfn, u32 queue, int64_t sign) noexcept nogil
cdef u32 _queue_of(mem_t mem, u32 pfn) noexcept nogil
cdef u64 _list(u32 queue) noexcept nogil
cdef u64 _pages(u32 queue) noexcept nogil
cdef u64 _ghost(mem_t mem, u64 ino, u64 index) noexcept nogil
cdef u32 _fingerprint(u64 ino, u64 index) noexcept nogil
cdef u64 _hash(u64 ino, u64 index) noexcept nogil
