cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t as u8, uint32_t as u32, uint64_t as u64

from ..mm cimport layout
from ..mm.atomics cimport Memory, fc_mem, mem_t
from ..mm.inline cimport turn
from .slot cimport ClientSlot


cdef extern from "section.h":
    ctypedef struct section_t "fc_section":
        pass
    void enter "fc_enter" (section_t *section, PyObject *object) noexcept
    void leave "fc_leave" (section_t *section) noexcept
    ctypedef struct turn_t "fc_turn":
        mem_t mem
        void (*exclude)(mem_t mem, u64 turn) noexcept nogil
        void (*readmit)(mem_t mem, u64 turn) noexcept nogil
    turn_t *turn_of "fc_turn_of" (PyObject *attachment) noexcept
    size_t TURN_AT "FC_TURN_AT"
    bint FREE_THREADED "FC_FREE_THREADED"


cdef u32 spare() noexcept


# A step in which no Python runs, and which does not wait for the interpreter: a turn, or else a critical section.

cdef inline bint begin_step(PyObject *attachment, section_t *section) noexcept:
    """Begin a step. The result is for ``end_step``."""
    if FREE_THREADED and turn.try_begin(turn_of(attachment).mem, 0):
        return True
    enter(section, attachment)
    return False


cdef inline void end_step(PyObject *attachment, section_t *section, bint has_turn) noexcept:
    if FREE_THREADED and has_turn:
        turn.end(turn_of(attachment).mem, 0)
    else:
        leave(section)


@cython.final
cdef class Attachment:
    cdef turn_t turn  # first: ``section.h`` finds it there
    cdef fc_mem turn_memory
    cdef u32 turn_words[2]
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
    cdef object overlay  # of ``overlay_of``: None until it is needed, False if there is none
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
