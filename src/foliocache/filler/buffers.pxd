cdef bint release(memoryview view) except -1
cdef int get_writable(buffer, Py_buffer *view) except -1
cdef int get_readable(content, Py_buffer *view, key) except -1
