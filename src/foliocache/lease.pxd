cimport cython
from libc.stdint cimport uint32_t as u32, uint64_t as u64

from .attachment cimport Attachment
from .mm.atomics cimport mem_t


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
    cdef readonly bint filling

    cdef int _check(self) except -1
    cdef void _end_view(self) noexcept
    cdef void _drop(self) noexcept
    cdef void _fail(self) noexcept


@cython.final
cdef class Target:
    cdef Lease lease
    cdef readonly int views


cdef Lease _lease(Attachment attachment, u32 entry, u32 pfn, Py_ssize_t length)


cdef class FolioMap:
    cdef readonly Attachment attachment
    cdef mem_t mem
    cdef u64 ino, head, low, high, key_digest
    cdef u32 height, order
    cdef bytes text
    cdef u32 key_length
    cdef readonly u64 size
    cdef readonly u64 folios
    cdef readonly u64 folio_size
    cdef public u64 previous

    cdef Lease _lease(self, u64 index, u64 wanted)
    cdef Py_ssize_t _length(self, u64 index) noexcept
    cdef Lease _copy(self, u64 index)
    cdef u64 _clip(self, n) except? 0xFFFFFFFFFFFFFFFF
    cdef int _check_index(self, u64 index) except -1
    cdef bint _fits(self, u32 pfn, u64 index) noexcept
    cdef void _bind(self, u64 ino)
    cdef bint _open(self)
