cimport cython
from libc.stdint cimport uint32_t as u32, uint64_t as u64

from .attachment cimport Attachment, section_t
from ..mm cimport atomics
from ..mm.atomics cimport fc_mem

cdef extern from *:
    """
    #define FC_REFUSE_NEW(type, function) \\
        (((PyTypeObject *)(type))->tp_new = (newfunc)(function), ((PyTypeObject *)(type))->tp_vectorcall = NULL)
    """
    void FC_REFUSE_NEW(object type, void *function)
    void prefetch "__builtin_prefetch" (const void *)


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

    cdef inline void _bind(self, Attachment attachment, u32 entry, u32 pfn, u64 begin, Py_ssize_t length) noexcept:
        """Set a new lease to the pin in word ``entry`` of the ledger, and to ``length`` bytes of the folio from ``begin``."""
        self.data = (<const fc_mem *>attachment.mem).ro + atomics.page_at(attachment.mem, pfn) + begin
        prefetch(self.data)  # most users read the first byte next: load its cache line while the lease is made
        self.epoch = attachment.epoch
        self.entry = entry
        self.pfn = pfn
        self.length = length
        self.attachment = attachment


@cython.final
cdef class Target:
    cdef Lease lease
    cdef readonly int views


cdef Lease new_lease()
cdef Target new_target(Lease lease)
