cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t as u8, uint32_t as u32, uint64_t as u64

from ..mm cimport layout
from ..mm.atomics cimport Memory, mem_t
from .slot cimport ClientSlot


cdef extern from "section.h":
    ctypedef struct section_t "fc_section":
        pass
    void enter "fc_enter" (section_t *section, PyObject *object) noexcept
    void leave "fc_leave" (section_t *section) noexcept
    bint FREE_THREADED "FC_FREE_THREADED"


cdef u32 spare() noexcept


@cython.final
cdef class Attachment:
    cdef readonly object segment
    cdef readonly Memory memory
    cdef mem_t mem
    cdef u32 me
    cdef readonly bint joined
    cdef readonly bint closed
    cdef readonly u32 epoch
    cdef ClientSlot slot
    cdef u32 *unused
    cdef u32 left
    cdef u32 *waiting
    cdef u32 nwaiting
    cdef u8 *touched
    cdef public object pressure
    cdef readonly bint watching
    cdef object __weakref__

    cdef void wait(self, u32 entry) noexcept
    cdef void tidy(self) noexcept
    cdef void settle(self) noexcept
    cdef int before_memory(self) except -1
    cpdef check_open(self)
    cpdef request(self, u32 source, u64 ns, u64 length, bint failed)
    cdef int _be_client(self) except -1
    cdef bint _begin(self) noexcept
    cdef bint touch(self, u64 at, u64 length) noexcept
    cdef bint is_touched(self, u64 at, u64 length) noexcept

    cdef inline u32 take(self) noexcept:
        """Return a free word of the ledger for a pin, or NIL if all are in use."""
        if self.left == 0:
            return layout.NIL
        self.left -= 1
        return self.unused[self.left]

    cdef inline void give(self, u32 n) noexcept:
        """Free word n of the ledger, whose pin has been dropped."""
        self.unused[self.left] = n
        self.left += 1
