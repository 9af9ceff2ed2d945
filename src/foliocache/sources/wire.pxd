cdef enum:
    HEAD_MAX = 8192  # bytes; a longer head is received by the caller


cdef struct Head:
    const char *content_range
    Py_ssize_t content_range_length
    const char *date
    Py_ssize_t date_length
    Py_ssize_t length, rest
    int status


cdef int _parse(const char *data, Py_ssize_t end, char *rest, Head *head) noexcept nogil
cdef Py_ssize_t _find_end(const char *data, Py_ssize_t begin, Py_ssize_t size) noexcept nogil
