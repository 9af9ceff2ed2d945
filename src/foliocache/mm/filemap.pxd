cimport cython
from libc.stdint cimport uint32_t as u32, uint64_t as u64

from . cimport atomics, backing, client, fill, folio, layout, lru, mapping, page_ref, page_type, vmscan, xarray
from .atomics cimport mem_t


cpdef u32 find_get(mem_t mem, u32 me, u64 ino, u64 head, u32 height, u64 index) noexcept nogil  # inline
@cython.locals(pfn=u32)
cpdef u32 lookup(mem_t mem, u32 me, u32 n, u64 ino, u64 head, u64 mark, u32 height, u64 index) noexcept nogil  # inline
cpdef u64 first_of(mem_t mem, u32 pfn) noexcept nogil  # inline
cpdef u64 grab(mem_t mem, u32 me, u64 ino, u64 index, u32 order, u32 span, u64 size) noexcept nogil
@cython.locals(got=u32, room=u32, status=u32)
cdef u64 _grab(mem_t mem, u32 me, u64 ino, u64 index, u32 order, u32 span, u64 size) noexcept nogil
@cython.locals(pfn=u32, length=u64, smallest=u32, block=u64)
cdef u32 _alloc(mem_t mem, u32 me, u64 index, u32 order, u32 span, u64 size) noexcept nogil
@cython.locals(pages=u32, span=u32, first=u64)
cdef u64 _prepare(mem_t mem, u32 me, u32 pfn, u64 ino, u64 index, u32 order, u64 size) noexcept nogil
@cython.locals(unit=u32, whole=u64)
cdef u64 _length(mem_t mem, u64 first, u32 order, u32 span, u64 size) noexcept nogil
cpdef void complete(mem_t mem, u32 me, u32 pfn) noexcept nogil
@cython.locals(got=u32, left=u32, attached=u32)
cpdef bint remove(mem_t mem, u32 me, u64 ino, u32 pfn) noexcept nogil
@cython.locals(got=u32, pfn=u32, left=u32)
cpdef bint truncate(mem_t mem, u32 me, u64 ino, u64 last) noexcept nogil
@cython.locals(pfn=u32)
cdef u32 _find_locked(mem_t mem, u32 me, u64 ino, u64 index) noexcept nogil
cdef u32 _insert(mem_t mem, u32 me, u64 ino, u64 index, u32 pfn) noexcept nogil
@cython.locals(found=u64)
cpdef u64 add(mem_t mem, u32 me, u32 n, u64 ino, u64 index, u32 order, u32 span, u64 size) noexcept nogil
cpdef void finish_fill(mem_t mem, u32 me, u32 pfn) noexcept nogil
cpdef void withdraw(mem_t mem, u32 me, u32 pfn, bint explained) noexcept nogil
@cython.locals(ino=u64, done=bint)
cpdef bint invalidate(mem_t mem, u32 me, u64 digest_lo, u64 digest_hi, u64 last) noexcept nogil
@cython.locals(ino=u64)
cpdef u64 forget(mem_t mem, u32 me, u64 key, u64 before) noexcept nogil
@cython.locals(ino=u64)
cpdef u64 open(mem_t mem, u32 me, u64 digest_lo, u64 digest_hi, u64 key, u64 size, u32 order, u32 height,
               const char *text, u32 key_length,
               u32 version_length) noexcept nogil
@cython.locals(ino=u64)
cpdef u64 resolve(mem_t mem, u32 me, u64 digest_lo, u64 digest_hi) noexcept nogil
