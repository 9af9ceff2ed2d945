cimport cython


@cython.final
cdef class Copy:
    cdef bytearray memory
    cdef Py_ssize_t length

    cdef char *data(self) noexcept


cdef Copy new_copy(Py_ssize_t length)
