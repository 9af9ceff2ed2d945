cimport cython
from libc.stdint cimport uint32_t as u32, uint64_t as u64

from .attachment cimport Attachment
from .descriptor cimport Descriptor
from ..mm.atomics cimport Memory, mem_t

cdef enum:
    LENT = 256  # ranges at a time

cdef struct Range:
    u64 place
    u64 size
    bint is_copied  # before a fork


@cython.final
cdef class Overlay:
    cdef Descriptor file
    cdef char *guard  # a page of another file, and behind it the segment
    cdef char *base
    cdef u64 *shared  # where the page of the guard is mapped shared
    cdef size_t page
    cdef u64 size
    cdef Memory memory
    cdef mem_t mem
    cdef u64 lent
    cdef Range ranges[LENT]
    cdef u32 count
    cdef u32 pause  # how many ranges will not be lent
    cdef bint is_stained  # pages may be copies that are not of a lent range: nothing is lent any more ...
    cdef bint is_dropped  # ... and they have been dropped
    cdef object __weakref__

    cdef bint _open(self, Attachment attachment) except -1
    cdef bint _is_clean(self) noexcept
    cdef bint has_room(self, u64 size) noexcept
    cdef char *lend(self, u64 place, u64 size) noexcept
    cdef void end(self, u64 place) noexcept


cdef Overlay overlay_of(Attachment attachment)
