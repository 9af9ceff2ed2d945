"""Private copies of objects, in memory that is used again.

Samples are copied by the thousand, and live for a moment. malloc would give their memory back to the kernel again and again,
and the page faults of the next ones would take several times as long as the copying. So the memory of a copy that has ended is
kept for the next of that size, up to KEPT_MAX bytes in a process.
"""
cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_FromStringAndSize
from cpython.object cimport PyObject, PyTypeObject

cdef extern from *:
    """
    static inline void fc_add(Py_ssize_t *to, Py_ssize_t n) { __atomic_fetch_add(to, n, __ATOMIC_RELAXED); }
    """
    void add "fc_add" (Py_ssize_t *to, Py_ssize_t n) noexcept

cdef Py_ssize_t KEPT_MAX = 32 << 20  # bytes
cdef Py_ssize_t KEPT_MIN = 64 << 10  # bytes; malloc keeps less than that by itself
cdef Py_ssize_t STEP = 64 << 10  # bytes; sizes are rounded up to a multiple of it

cdef dict _free = {}  # bytearrays, by their size
cdef Py_ssize_t _kept = 0


@cython.final
@cython.no_gc
@cython.freelist(64)
@cython.auto_pickle(False)
cdef class Copy:
    """A buffer of bytes that one caller may write to."""
    def __init__(self):
        raise TypeError("copies come from the objects of a pool")

    def __reduce__(self):
        return bytearray, (bytearray(self),)

    def __len__(self):
        return self.length

    def __getbuffer__(self, Py_buffer *buffer, int wanted):
        PyBuffer_FillInfo(buffer, self, self.data(), self.length, 0, wanted)

    def __dealloc__(self):
        if self.memory is not None:
            _keep(self.memory)

    cdef char *data(self) noexcept:
        return PyByteArray_AS_STRING(self.memory)


cdef Copy new_copy(Py_ssize_t length):
    """Return a copy of so many bytes, whose content is still to be written."""
    cdef Copy copy = Copy.__new__(Copy)
    cdef Py_ssize_t size = (length + STEP - 1) // STEP * STEP if length >= KEPT_MIN else length
    cdef list kept = _free.get(size)
    try:
        if kept:
            copy.memory = kept.pop()
            add(&_kept, -size)
    except IndexError:  # another thread was faster, on a Python without the GIL
        pass
    if copy.memory is None:
        copy.memory = PyByteArray_FromStringAndSize(NULL, size)
    copy.length = length
    return copy


cdef void _keep(bytearray memory) noexcept:
    """Keep the memory of a copy that has ended, unless that would be too much."""
    cdef Py_ssize_t size = len(memory)
    if size < KEPT_MIN or _kept + size > KEPT_MAX:
        return
    try:
        _free.setdefault(size, []).append(memory)
        add(&_kept, size)
    except MemoryError:
        return


# No Copy can be made from Python; Copy.__new__ in this module does not call tp_new.

cdef object _no_copy(PyTypeObject *kind, PyObject *arguments, PyObject *keywords):
    raise TypeError("copies come from the objects of a pool")


cdef extern from *:
    """
    #define FC_REFUSE_NEW(type, function) \
        (((PyTypeObject *)(type))->tp_new = (newfunc)(function), ((PyTypeObject *)(type))->tp_vectorcall = NULL)
    """
    void FC_REFUSE_NEW(object type, void *function)


FC_REFUSE_NEW(Copy, <void *>_no_copy)
