cimport cython
from libc.stdint cimport uint32_t as u32, uint64_t as u64

from .attachment cimport Attachment
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
    cdef readonly bint filling

    cdef int _check(self) except -1
    cdef int _check_filling(self, Attachment attachment) except -1
    cpdef release(self)
    cdef void _end_view(self) noexcept
    cdef void _drop(self) noexcept
    cdef void _fail(self) noexcept
    cdef char *_page(self) noexcept
    cdef void _bind(self, Attachment attachment, u32 entry, u32 pfn, Py_ssize_t length) noexcept


@cython.final
cdef class Target:
    cdef Lease lease
    cdef readonly int views


cdef Lease new_lease()


cdef class FolioMap:
    cdef readonly Attachment attachment
    cdef mem_t mem
    cdef u64 ino, head, digest_lo, digest_hi, key_digest, calls
    cdef u32 height, order, key_length, lock_epoch
    cdef bytes text
    cdef object lock
    cdef readonly u64 size
    cdef readonly u64 folios
    cdef readonly u64 folio_size
    cdef public u64 previous

    cdef Lease _lease(self, u64 index, u64 wanted)
    cdef int _gather(self, u64 start, u64 end, char *target) except -1
    cdef int _gather_pinned(self, u64 start, u64 end, char *target) except -1
    cdef u64 _clip(self, n, what) except? 0xFFFFFFFFFFFFFFFF
    cdef u64 _index(self, n) except? 0xFFFFFFFFFFFFFFFF
    cdef u64 _clip_any(self, n, what) except? 0xFFFFFFFFFFFFFFFF
    cdef u64 _index_any(self, n) except? 0xFFFFFFFFFFFFFFFF
    cdef int _check(self) except -1
    cdef Py_ssize_t _length(self, u64 index) noexcept
    cdef bint _is_cached(self, u64 index) except -1
    cdef Lease _copy(self, u64 index)
    cdef Lease _miss(self, u64 index, u64 wanted)
    cdef Lease _wait(self, Lease lease, u64 index)
    cdef int _raise_failure(self, Lease lease, u64 index) except -1
    cdef u64 _patience(self) except? 0
    cdef u32 _sleep(self, Lease lease, u64 timeout_ns) except? 0xFFFFFFFF
    cdef Lease _grab(self, u64 index)
    cdef int _fill_missing(self, Lease lease, u64 index, u64 wanted) except -1
    cdef u64 _fill(self, Lease lease, u64 index, u64 count, mark) except? 0
    cdef int _extend(self, list run, u64 index, u64 count) except -1
    cdef int _read_source(self, list run, u64 index) except -1
    cdef void _explain(self, list run, bytes reason) noexcept
    cdef int _read_to_pages(self, list run, u64 index) except -1
    cdef int _read_into_page(self, Lease lease, u64 index) except -1
    cdef int _complete(self, Lease lease, bint mark) except -1
    cdef Lease _read_stalled(self, u64 index)
    cdef Lease _read_privately(self, u64 index)
    cdef bytes _content(self, u64 index)
    cdef object _take_turn(self)
    cdef object _reading(self, u64 index, u64 count, bint private)
    cdef int _nested(self, u64 index, bint private) except -1
    cdef Lease _private(self, bytes content)
    cdef bint _fits(self, u32 pfn, u64 index) noexcept
    cdef bint _is_ours(self, u64 at) noexcept
    cdef void _bind(self, u64 ino) noexcept
    cdef bint _open(self) noexcept
