from libc.string cimport memcpy, memset

cdef enum:
    LONG_MIN = 256 << 10  # bytes; what is longer is written without the GIL, because its page faults take long

cdef bint release(memoryview view) except -1
cdef int get_writable(buffer, Py_buffer *view) except -1
cdef int get_readable(content, Py_buffer *view, key) except -1


cdef inline int copy_long(void *target, const void *data, Py_ssize_t length) except -1:
    if length < LONG_MIN:
        memcpy(target, data, length)
    else:
        with nogil:
            memcpy(target, data, length)
    return 0


cdef inline int clear_long(void *target, Py_ssize_t length) except -1:
    if length < LONG_MIN:
        memset(target, 0, length)
    else:
        with nogil:
            memset(target, 0, length)
    return 0
