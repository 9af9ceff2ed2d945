cimport cython
from libc.stdint cimport uint32_t as u32, uint64_t as u64

from .attachment cimport Attachment, section_t
from .result cimport Result
from ..filler.miss cimport Filler
from ..filler.steps cimport Steps
from ..mm.atomics cimport mem_t


@cython.final
cdef class Lease:
    cdef Attachment attachment
    cdef object private
    cdef const char *data
    cdef Py_ssize_t length
    cdef u32 entry
    cdef u32 pfn
    cdef u32 epoch
    cdef int views
    cdef bint released
    cdef bint explained
    cdef bint is_writable
    cdef readonly bint filling

    cdef int _check(self) except -1
    cdef int _check_filling(self, Attachment attachment) except -1
    cpdef release(self)
    cdef bint _begin(self, section_t *section) noexcept
    cdef bint _begin_view(self) noexcept
    cdef void _end_view(self) noexcept
    cdef void _drop(self) noexcept
    cdef void _fail(self) noexcept
    cdef char *_page(self) noexcept
    cdef const char *_copyable(self) noexcept
    cdef int _populate(self) except -1
    cdef void _bind(self, Attachment attachment, u32 entry, u32 pfn, u64 begin, Py_ssize_t length) noexcept


@cython.final
cdef class Target:
    cdef Lease lease
    cdef readonly int views


cdef Lease new_lease()


cdef class FolioMap(Steps):
    cdef readonly Attachment attachment
    cdef readonly Filler filler
    cdef mem_t mem
    cdef u64 ino, head, mark, digest_lo, digest_hi, key_digest
    cdef u64 stride, most
    cdef u32 height, order, span, shift, key_length
    cdef bint is_fixed
    cdef bytes text

    cdef Lease _lease(self, u64 start, u64 most, u64 limit)
    cdef Lease _grab(self, u64 index, u64 count)
    cdef Lease _miss(self, u64 start, u64 most, u64 limit)
    cdef Lease _join(self, Lease lease, u64 start, u64 most, u64 limit)
    cdef int _read_ahead(self, u32 pfn, u64 last) except -1
    cdef Lease _use(self, Lease lease, u64 start, u64 most)
    cdef Lease _cut(self, Lease lease, u64 start, u64 most)
    cdef int _gather(self, u64 start, u64 end, char *target, Result result=*) except -1
    cdef Lease _lease_for(self, u64 start, u64 most, Result result)
    cdef u64 _clip(self, n, what) except? 0xFFFFFFFFFFFFFFFF
    cdef u64 _offset(self, n) except? 0xFFFFFFFFFFFFFFFF
    cdef u64 _clip_any(self, n, what) except? 0xFFFFFFFFFFFFFFFF
    cdef u64 _offset_any(self, n) except? 0xFFFFFFFFFFFFFFFF
    cdef int _check(self) except -1
    cdef Py_ssize_t _length(self, u64 index) noexcept
    cdef u64 _units(self, u64 length) noexcept
    cdef object _lease_cached(self, u64 start, u64 most)
    cdef Lease _copy(self, u64 index)
    cdef Lease _copy_cached(self, u64 index)
    cdef u32 _sleep(self, Lease lease, u64 timeout_ns) except? 0xFFFFFFFF
    cdef bint _bind_units(self, Lease lease, u32 entry, u32 pfn, u64 index) noexcept
    cdef u64 _rest(self, u32 pfn, u64 index) noexcept
    cdef u64 _bytes(self, u32 pfn, u64 first) noexcept
    cdef bint _fits(self, u32 pfn, u64 length) noexcept
    cdef bint _is_ours(self, u64 at) noexcept
    cdef void _bind(self, u64 ino) noexcept
    cdef bint _open(self) noexcept


@cython.final
cdef class Pieces:
    cdef FolioMap mapping
    cdef u64 place, end
