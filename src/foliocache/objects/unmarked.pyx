"""Buffers that do not say that they are read-only, for libraries without read-only arrays."""
cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer


@cython.final
@cython.no_gc
@cython.freelist(64)
@cython.auto_pickle(False)
cdef class Unmarked:
    """The memory of another buffer, as one that claims to be writable. It keeps the other one's view."""
    cdef Py_buffer view

    def __cinit__(self, buffer):
        PyObject_GetBuffer(buffer, &self.view, PyBUF_SIMPLE)

    def __dealloc__(self):
        PyBuffer_Release(&self.view)

    def __reduce__(self):
        raise TypeError("a buffer of the pool's pages cannot be copied or pickled")

    def __getbuffer__(self, Py_buffer *buffer, int wanted):
        PyBuffer_FillInfo(buffer, self, self.view.buf, self.view.len, 0, wanted)
