cimport cython
from libc.stdint cimport int64_t, uint32_t as u32, uint64_t as u64

from . cimport atomics, backing, layout, page_type, robust_lock, slab, xarray
from .atomics cimport mem_t


cpdef void setup(mem_t mem) noexcept nogil
@cython.locals(ino=u64)
cpdef u32 sweep(mem_t mem, u32 me, u32 number) noexcept nogil
cpdef void repair_table(mem_t mem, u32 me) noexcept nogil
@cython.locals(ino=u64)
cpdef u32 repair_tree(mem_t mem, u32 me, u32 number) noexcept nogil
@cython.locals(ino=u64)
cpdef u32 repair_node(mem_t mem, u32 me, u32 number) noexcept nogil
@cython.locals(n=u64)
cpdef void reap(mem_t mem, u32 me, u32 dead) noexcept nogil
cpdef u64 lookup(mem_t mem, u32 me, u64 digest_lo, u64 digest_hi) noexcept nogil
cpdef u64 open(mem_t mem, u32 me, u64 digest_lo, u64 digest_hi, u64 key, u64 size, u32 order, u32 height,
               const char *text, u32 key_length,
               u32 version_length) noexcept nogil
@cython.locals(got=u32)
cpdef u32 lock(mem_t mem, u32 me, u64 ino) noexcept nogil
cpdef void unlock(mem_t mem, u64 ino) noexcept nogil
@cython.locals(bucket=u32, end=u32, ino=u64)
cpdef u64 find_key(mem_t mem, u32 me, u64 key) noexcept nogil
@cython.locals(number=u32, found=u64)
cdef u64 _find_key_in(mem_t mem, u32 bucket, u64 key) noexcept nogil
cpdef void release(mem_t mem, u32 me, u64 ino) noexcept nogil
cpdef u64 head(mem_t mem, u64 ino) noexcept nogil
cpdef u64 mark(mem_t mem, u64 ino) noexcept nogil
cpdef u64 record(mem_t mem, u64 ino) noexcept nogil
cpdef u32 folios(mem_t mem, u64 ino) noexcept nogil
cpdef u32 height(mem_t mem, u64 ino) noexcept nogil
@cython.locals(bits=u32)
cpdef u64 last_index(mem_t mem, u64 ino) noexcept nogil
@cython.locals(size=u64, order=u32, last=u64)
cpdef u64 last_unit(mem_t mem, u64 ino) noexcept nogil
cpdef u32 find(mem_t mem, u64 ino, u64 index) noexcept nogil
cpdef u64 next_index(mem_t mem, u64 ino, u64 index, u64 last) noexcept nogil
cpdef u32 room(mem_t mem, u64 ino, u64 index, u32 span, u64 last) noexcept nogil
@cython.locals(status=u32)
cpdef u32 insert(mem_t mem, u32 me, u64 ino, u64 index, u32 pfn) noexcept nogil
@cython.locals(span=u32, erased=u32)
cpdef u32 remove(mem_t mem, u32 me, u64 ino, u32 pfn) noexcept nogil
@cython.locals(got=u32)
cdef bint _lock_table(mem_t mem, u32 me) noexcept nogil
@cython.locals(bucket=u32)
cdef void _reset(mem_t mem) noexcept nogil
@cython.locals(number=u32)
cdef void _repair_table(mem_t mem, u32 me) noexcept nogil
@cython.locals(number=u32, ino=u64, count=u32)
cdef void _repair_trees(mem_t mem, u32 me, u64 word) noexcept nogil
@cython.locals(count=u32)
cdef void _recount(mem_t mem, u32 me, u64 ino) noexcept nogil
cdef u64 _owner(mem_t mem, u32 number) noexcept nogil
@cython.locals(linked=bint)
cdef void _free_unlinked(mem_t mem, u32 me, u64 ino, u32 number) noexcept nogil
cdef void _link(mem_t mem, u32 number) noexcept nogil
@cython.locals(left=u32)
cdef u32 _add_folios(mem_t mem, u64 ino, int64_t n) noexcept nogil
cdef bint _is_record(mem_t mem, u32 number) noexcept nogil
cdef u64 _linked_at(mem_t mem, u32 number) noexcept nogil
@cython.locals(found=u64, number=u32)
cdef u32 _search(mem_t mem, u64 digest_lo, u64 digest_hi) noexcept nogil
cdef u32 _make(mem_t mem, u32 me, u64 digest_lo, u64 digest_hi, u64 key, u64 size, u32 order, u32 height,
               const char *text, u32 key_length,
               u32 version_length) noexcept nogil
@cython.locals(found=u64, link=u64)
cdef void _drop(mem_t mem, u32 me, u64 ino) noexcept nogil
cdef void _free_record(mem_t mem, u32 me, u32 number) noexcept nogil
cdef void _drop_empty(mem_t mem, u32 me, u64 ino) noexcept nogil
cdef bint _is_alive(mem_t mem, u64 ino) noexcept nogil
cdef u64 _ino(mem_t mem, u32 number) noexcept nogil
@cython.locals(mixed=u64)
cdef u64 _tree_lock(u64 ino) noexcept nogil
cdef u64 _bucket(mem_t mem, u64 digest_lo) noexcept nogil
cdef void _count(mem_t mem, int64_t n) noexcept nogil
