"""One exchange with an HTTP server in one call, without the GIL: a request is sent, and the head and the first bytes of the
response are received.

Of a request for a small range, the interpreter would otherwise take and give the lock four times, and spend more time on the
response's head than the kernel on its body.
"""
cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint64_t as u64
from libc.string cimport memchr, memcmp, memcpy, memmove, memset

from ..mm cimport atomics

cdef extern from "<strings.h>" nogil:
    int strncasecmp(const char *one, const char *other, size_t length)

cdef extern from "<sys/socket.h>" nogil:
    ssize_t send(int fd, const void *data, size_t length, int flags)
    ssize_t recv(int fd, void *data, size_t length, int flags)
    int MSG_NOSIGNAL, MSG_WAITALL

@cython.final
@cython.auto_pickle(False)
cdef class Reply:
    """What has been received of a response: ``data``, and ``placed`` bytes of the body where they belong.

    ``end`` is the length of the head in ``data``, -1 if it is not all there. If it is plain, ``status`` and ``length`` (of the
    body) are in it once, ``rest`` is the head without them and without the lines ``Date`` and ``Content-Range``, and
    ``content_range`` and ``date`` are those lines' values. Otherwise ``rest`` is None.
    ``waited``: the seconds from the request to the first byte, for `exchange`.
    """
    cdef readonly bytes data, rest, content_range, date
    cdef readonly Py_ssize_t end, placed, length
    cdef readonly double waited
    cdef readonly int status

    def __init__(self):
        raise TypeError("a Reply comes from exchange()")


cdef int _natural(const char *text, Py_ssize_t size, Py_ssize_t *value) noexcept nogil:
    """Parse up to 17 decimal digits. Returns 0 for anything else."""
    cdef Py_ssize_t i
    value[0] = 0
    if not 0 < size < 18:
        return 0
    for i in range(size):
        if not b"0" <= text[i] <= b"9":
            return 0
        value[0] = 10 * value[0] + (text[i] - 48)
    return 1


cdef int _parse(const char *data, Py_ssize_t end, char *rest, Head *head) noexcept nogil:
    """Parse a head, which ends with an empty line at ``end``, and copy to ``rest`` what is the same in each response.
    Returns 0 if it is not plain."""
    cdef const char *line
    cdef const char *stop
    cdef const char *last = data + end - 2
    cdef const char *value
    cdef const char *until
    cdef Py_ssize_t status = 0
    cdef bint has_length = False
    if end < 17 or memcmp(data, b"HTTP/1.1 ", 9) != 0 or not _natural(data + 9, 3, &status) or data[12] not in (32, 13):
        return 0
    head.status = <int>status
    line = <const char *>memchr(data, 10, end) + 1
    while line < last:
        stop = <const char *>memchr(line, 10, last - line)
        if stop == NULL or stop[-1] != 13:
            return 0
        stop += 1
        value = <const char *>memchr(line, 58, stop - line)
        if value == NULL or value == line:
            return 0
        value += 1
        until = stop - 2
        while value < until and value[0] == 32:
            value += 1
        while value < until and until[-1] == 32:
            until -= 1
        if strncasecmp(line, b"content-length:", 15) == 0:
            if has_length or not _natural(value, until - value, &head.length):
                return 0
            has_length = True
        elif strncasecmp(line, b"content-range:", 14) == 0:
            if head.content_range != NULL:
                return 0
            head.content_range, head.content_range_length = value, until - value
        elif strncasecmp(line, b"date:", 5) == 0:
            if head.date != NULL:
                return 0
            head.date, head.date_length = value, until - value
        elif strncasecmp(line, b"transfer-encoding", 17) == 0:
            return 0
        else:
            memcpy(rest + head.rest, line, stop - line)
            head.rest += stop - line
        line = stop
    return has_length


cdef Py_ssize_t _find_end(const char *data, Py_ssize_t begin, Py_ssize_t size) noexcept nogil:
    """Return the position after the first empty line; -1 if there is none. begin: where to begin to look."""
    cdef const char *at
    begin = max(begin - 3, 0)
    while begin + 4 <= size:
        at = <const char *>memchr(data + begin, 13, size - 3 - begin)
        if at == NULL:
            return -1
        if memcmp(at, b"\r\n\r\n", 4) == 0:
            return at - data + 4
        begin = at - data + 1
    return -1


cdef int _interrupted() except -1:
    """After a system call that has failed: return if it is to be repeated. Raises TimeoutError, OSError, or what a signal
    handler raises."""
    if errno == EINTR:
        PyErr_CheckSignals()
        return 0
    if errno == EAGAIN:
        raise BlockingIOError(EAGAIN, "timed out")
    PyErr_SetFromErrno(OSError)
    return -1


def parsed(bytes data not None):
    """Return the `Reply` of what has been received so far: a head, and perhaps a part of the body. ``placed`` is 0."""
    cdef char[HEAD_MAX] rest
    cdef Py_ssize_t size = min(PyBytes_GET_SIZE(data), <Py_ssize_t>HEAD_MAX)
    cdef Head head
    cdef Reply reply = Reply.__new__(Reply)
    memset(&head, 0, sizeof(Head))
    reply.data, reply.end = data, _find_end(PyBytes_AS_STRING(data), 0, size)
    if reply.end >= 0 and _parse(PyBytes_AS_STRING(data), reply.end, rest, &head):
        _tell(reply, rest, &head)
    return reply


cdef int _tell(Reply reply, const char *rest, const Head *head) except -1:
    """Set what a plain head says."""
    reply.status, reply.length = head.status, head.length
    reply.rest = PyBytes_FromStringAndSize(rest, head.rest)
    if head.content_range != NULL:
        reply.content_range = PyBytes_FromStringAndSize(head.content_range, head.content_range_length)
    if head.date != NULL:
        reply.date = PyBytes_FromStringAndSize(head.date, head.date_length)
    return 0


def exchange(int fd, bytes request, into, Py_ssize_t length):
    """Send a request for a range of ``length`` bytes to a blocking socket, and receive the head of the response. If it is
    plain, of status 206 and that length, receive the first bytes of the body into the buffer ``into``, until that is full.

    Returns a `Reply`. Raises ConnectionResetError if there is no answer, BlockingIOError if the socket's timeout has passed,
    EOFError if the body ends early, and OSError.
    """
    cdef Py_buffer target
    PyObject_GetBuffer(into, &target, PyBUF_WRITABLE)
    try:
        return _exchange(fd, request, <char *>target.buf, min(target.len, length), length)
    finally:
        PyBuffer_Release(&target)


cdef Reply _exchange(int fd, bytes request, char *page, Py_ssize_t want, Py_ssize_t length):
    cdef const char *asked = PyBytes_AS_STRING(request)
    cdef Py_ssize_t left = PyBytes_GET_SIZE(request)
    cdef char[HEAD_MAX] data
    cdef char[HEAD_MAX] rest
    cdef Py_ssize_t size = 0, end = -1, placed = 0, got = 0
    cdef bint is_plain = False
    cdef Head head
    cdef Reply reply
    cdef u64 asked_at = 0, answered_at = 0
    memset(&head, 0, sizeof(Head))
    with nogil:
        asked_at = atomics.now_ns()
        while left:
            got = send(fd, asked, left, MSG_NOSIGNAL)
            if got < 0:
                with gil:
                    _interrupted()
                continue
            asked, left = asked + got, left - got
        while end < 0 and size < HEAD_MAX:
            got = recv(fd, data + size, HEAD_MAX - size, 0)
            if size == 0:
                answered_at = atomics.now_ns()
            if got < 0:
                with gil:
                    _interrupted()
                continue
            if got == 0:
                break
            size += got
            end = _find_end(data, size - got, size)
        if end >= 0:
            is_plain = _parse(data, end, rest, &head) != 0
            if is_plain and head.status == 206 and head.length == length:
                placed = min(size - end, want)
                memcpy(page, data + end, placed)
                size -= placed
                memmove(data + end, data + end + placed, size - end)
                while placed < want:
                    got = recv(fd, page + placed, want - placed, MSG_WAITALL)
                    if got < 0:
                        with gil:
                            _interrupted()
                        continue
                    if got == 0:
                        break
                    placed += got
    if size == 0:
        raise ConnectionResetError("the server closed the connection without an answer")
    reply = Reply.__new__(Reply)
    reply.data, reply.end, reply.placed = PyBytes_FromStringAndSize(data, size), end, placed
    reply.waited = (answered_at - asked_at) / 1e9
    if is_plain:
        _tell(reply, rest, &head)
        if placed < want and head.status == 206 and head.length == length:
            raise EOFError(f"the body ends {length - placed} bytes early")
    return reply
