"""Several exchanges with HTTP servers at a time, in one thread: what has come over any of the connections is received in one
call without the GIL, and the bodies go straight into the pages.

Only plain answers of status 206 and the asked length and range count. If the rest of the head is that of a response that was
looked at, the body is received at once; else when the caller, who is asked, says that it is as good. Some servers send another
head each time, with a number of the request or what is left of the connection. Any other answer ends its exchange, and the
caller asks again by other means. So a server's oddities are dealt with in one place, `http.Client`.
"""
cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from cpython.object cimport PyObject
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint64_t as u64
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memmove, memset

from ..mm cimport atomics
from .wire cimport HEAD_MAX, Head, _find_end, _parse

from .wire import parsed

cdef extern from "Python.h" nogil:
    PyObject *of_tuple "PyTuple_GET_ITEM" (PyObject *each, Py_ssize_t n)
    Py_ssize_t size_of_tuple "PyTuple_GET_SIZE" (PyObject *each)
    const char *content_of "PyBytes_AS_STRING" (PyObject *each)
    Py_ssize_t size_of "PyBytes_GET_SIZE" (PyObject *each)

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *fds, unsigned long count, int milliseconds)
    short POLLIN, POLLOUT

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len

cdef extern from "<sys/socket.h>" nogil:
    struct msghdr:
        iovec *msg_iov
        size_t msg_iovlen
    ssize_t send(int fd, const void *data, size_t length, int flags)
    ssize_t recv(int fd, void *data, size_t length, int flags)
    ssize_t recvmsg(int fd, msghdr *message, int flags)
    int MSG_NOSIGNAL, MSG_DONTWAIT

cdef enum:
    PIECES_MAX = 16  # buffers that one system call fills
    SLICE_MS = 1000  # how long to wait for a server before the deadlines are looked at
    ENOUGH = 262144  # bytes after which an exchange that is complete is told before others are looked at

cdef enum State:
    ASKING  # or connecting
    HEAD
    UNKNOWN  # the head is there, and ``judge`` is to look at it
    BODY
    FULL
    FAILED


cdef struct Lane:
    int fd
    State state
    PyObject *known
    const char *asked
    const char *content_range
    Py_ssize_t asked_left, content_range_length, length
    Py_ssize_t size, end  # of the head
    Py_buffer *pages
    Py_ssize_t count, page, placed, released  # pages; the one that is being filled, its bytes so far; those let go of
    u64 heard
    char[HEAD_MAX] data


@cython.final
@cython.auto_pickle(False)
cdef class Exchanges:
    """At most ``most`` exchanges at a time, each over a connection of its own. One thread at a time may use them.

    patience: the seconds without a byte after which an exchange has failed. judge: is called with the tag of an exchange and
    what differs in the head of its answer from the known ones (`wire.Reply.rest`), and returns True if that is as good.
    connecting: the seconds after which an exchange has failed whose request could not be sent; as long as patience, if None.
    """
    cdef Lane **lanes
    cdef pollfd *fds
    cdef object judge
    cdef list kept  # what the lanes point to, by their number
    cdef u64 patience_ns, connecting_ns
    cdef readonly Py_ssize_t most, count
    cdef bint waiting

    def __cinit__(self, Py_ssize_t most, double patience, judge=None, connecting=None):
        cdef double until_sent = patience if connecting is None else connecting
        if not 0 < most <= 1024 or not 0 < patience <= 1e9 or not 0 < until_sent <= 1e9:
            raise ValueError(f"1 to 1,024 exchanges at a time, for up to 1e9 seconds; not {most}, {patience}, {connecting}")
        self.most, self.judge, self.kept = most, judge, []
        self.patience_ns, self.connecting_ns = <u64>(patience * 1e9), <u64>(until_sent * 1e9)
        self.lanes = <Lane **>malloc(most * sizeof(Lane *))
        self.fds = <pollfd *>malloc(most * sizeof(pollfd))
        if self.lanes == NULL or self.fds == NULL:
            raise MemoryError

    def __dealloc__(self):
        while self.count:  # what the lanes point to may be gone already
            self.count -= 1
            _free(self.lanes[self.count])
        free(self.lanes)
        free(self.fds)

    def __reduce__(self):
        raise TypeError("exchanges that are under way cannot be copied or pickled")

    def __len__(self):
        return self.count

    def begin(
        self, tag, int fd, bytes request not None, tuple buffers not None, bytes content_range not None, tuple known not None
    ):
        """Send a request over a connected socket, or one that is being connected.

        buffers: writable, contiguous and not empty; the body fills them, in order. content_range: what the answer must say.
        known: the heads of which the answer's must be one, without what differs in each (`wire.Reply.rest`).
        """
        with cython.critical_section(self):
            self._begin(tag, fd, request, buffers, content_range, known)

    cdef int _begin(self, tag, int fd, bytes request, tuple buffers, bytes content_range, tuple known) except -1:
        cdef Lane *lane
        cdef Py_ssize_t n
        if self.waiting or self.count == self.most:
            raise ValueError("too many exchanges, or another thread waits for them")
        if not buffers or not all([type(each) is bytes for each in known]):
            raise TypeError("an exchange fills at least one buffer, and heads are bytes")
        lane = <Lane *>malloc(sizeof(Lane))
        if lane == NULL:
            raise MemoryError
        memset(lane, 0, sizeof(Lane) - HEAD_MAX)
        lane.pages = <Py_buffer *>malloc(len(buffers) * sizeof(Py_buffer))
        self.lanes[self.count] = lane
        self.kept.append((tag, request, content_range, known))
        self.count += 1
        try:
            if lane.pages == NULL:
                raise MemoryError
            for n in range(len(buffers)):
                PyObject_GetBuffer(buffers[n], &lane.pages[n], PyBUF_WRITABLE)
                lane.count += 1
                lane.length += lane.pages[n].len
                if lane.pages[n].len == 0:
                    raise ValueError("a buffer to fill has at least a byte")
        except BaseException:
            self._end(self.count - 1)
            raise
        lane.fd, lane.known, lane.heard = fd, <PyObject *>known, atomics.now_ns()
        lane.asked, lane.asked_left = PyBytes_AS_STRING(request), PyBytes_GET_SIZE(request)
        lane.content_range, lane.content_range_length = PyBytes_AS_STRING(content_range), PyBytes_GET_SIZE(content_range)
        _step(lane)  # a socket that is not connected yet refuses it for now
        return 0

    def wait(self, bint briefly):
        """Receive what has come. Return a list of (tag, number of its full buffers, end) of exchanges that have got further.

        end: 0; 1 if all is there, and the connection can be kept; -1 if the exchange has failed. It is then forgotten. Waits
        until there is at least one, or, briefly, while something has come.
        """
        cdef Py_ssize_t n, got
        cdef int ready = 0
        cdef list found
        with cython.critical_section(self):
            if self.waiting:
                raise ValueError("another thread waits for these exchanges")
            self.waiting = True
        try:
            while self.count:
                with nogil:
                    for n in range(self.count):
                        self.fds[n].fd, self.fds[n].revents = self.lanes[n].fd, 0
                        self.fds[n].events = POLLOUT if self.lanes[n].state == ASKING else POLLIN
                    ready = poll(self.fds, self.count, 0 if briefly or self._has_news() else SLICE_MS)
                    got = 0
                    for n in range(self.count):
                        if ready > 0 and self.fds[n].revents:
                            got += _step(self.lanes[n])
                            if got >= ENOUGH and self.lanes[n].state == FULL:
                                break  # the oldest first: its connection is for the next request, while others have come so far
                    if ready == 0 and not briefly:
                        self._give_up_late()
                if ready < 0:
                    PyErr_CheckSignals()
                self._look_at_heads()
                found = self._news()
                if found or (briefly and ready == 0):
                    return found
            return []
        finally:
            self.waiting = False

    cdef bint _has_news(self) noexcept nogil:
        cdef Py_ssize_t n
        for n in range(self.count):
            if self.lanes[n].state >= FULL or self.lanes[n].page > self.lanes[n].released:
                return True
        return False

    cdef void _give_up_late(self) noexcept nogil:
        cdef Py_ssize_t n
        cdef u64 now = atomics.now_ns()
        for n in range(self.count):
            if now > self.lanes[n].heard + (self.connecting_ns if self.lanes[n].state == ASKING else self.patience_ns):
                self.lanes[n].state = FAILED

    cdef int _look_at_heads(self) except -1:
        cdef Lane *lane
        cdef Py_ssize_t n
        for n in range(self.count):
            lane = self.lanes[n]
            if lane.state == UNKNOWN:
                if self.judge is not None and self.judge(self.kept[n][0], parsed(lane.data[: lane.end]).rest):
                    _begin_body(lane)
                else:
                    lane.state = FAILED
        return 0

    cdef list _news(self):
        """Let go of the buffers that are full. Return what ``wait`` returns."""
        cdef list found = []
        cdef Lane *lane
        cdef Py_ssize_t n = 0
        while n < self.count:
            lane = self.lanes[n]
            if lane.state < FULL and lane.page == lane.released:
                n += 1
                continue
            while lane.released < lane.page:
                PyBuffer_Release(&lane.pages[lane.released])
                lane.released += 1
            found.append((self.kept[n][0], lane.page, (lane.state == FULL) - (lane.state == FAILED)))
            if lane.state >= FULL:
                self._end(n)
            else:
                n += 1
        return found

    cdef void _end(self, Py_ssize_t n) noexcept:
        """Forget an exchange. The others stay in the order in which they have begun."""
        _free(self.lanes[n])
        self.count -= 1
        memmove(&self.lanes[n], &self.lanes[n + 1], (self.count - n) * sizeof(Lane *))
        del self.kept[n]


cdef void _free(Lane *lane) noexcept:
    while lane.released < lane.count:
        PyBuffer_Release(&lane.pages[lane.released])
        lane.released += 1
    free(lane.pages)
    free(lane)


cdef Py_ssize_t _step(Lane *lane) noexcept nogil:
    """Send or receive what can be at once. Return the number of bytes that have come."""
    cdef ssize_t got = 0
    cdef Py_ssize_t all_got = 0
    cdef bint more = True  # than what has come with the head
    while lane.state == ASKING:
        got = send(lane.fd, lane.asked, lane.asked_left, MSG_NOSIGNAL | MSG_DONTWAIT)
        if got < 0:
            _failed(lane)
            return 0
        lane.asked, lane.asked_left = lane.asked + got, lane.asked_left - got
        if lane.asked_left == 0:
            lane.state, lane.heard = HEAD, atomics.now_ns()
            return 0
    if lane.state == HEAD:
        got = recv(lane.fd, lane.data + lane.size, HEAD_MAX - lane.size, MSG_DONTWAIT)
        if got <= 0:
            _ended(lane, got)
            return 0
        lane.heard = atomics.now_ns()
        all_got = got
        lane.size += got
        lane.end = _find_end(lane.data, lane.size - got, lane.size)
        if lane.end >= 0:
            lane.state = _state_of_head(lane)
            if lane.state == BODY:
                _begin_body(lane)
        elif lane.size == HEAD_MAX:
            lane.state = FAILED
        more = lane.size == HEAD_MAX
    if lane.state == BODY and more:
        got = _receive(lane)
        if got <= 0:
            _ended(lane, got)
        else:
            lane.heard = atomics.now_ns()
            all_got += got
            _advance(lane, got)
            if lane.page == lane.count:
                lane.state = FULL
    return all_got


cdef void _begin_body(Lane *lane) noexcept nogil:
    if not _place(lane):
        lane.state, lane.page = FAILED, 0  # what has come with more than it should is not looked at
    else:
        lane.state = FULL if lane.page == lane.count else BODY


cdef void _ended(Lane *lane, ssize_t got) noexcept nogil:
    """After a call that has received nothing: the server has closed the connection, or ``errno`` says why."""
    if got == 0:
        lane.state = FAILED
    else:
        _failed(lane)


cdef void _failed(Lane *lane) noexcept nogil:
    if errno != EAGAIN and errno != EINTR:
        lane.state = FAILED


cdef State _state_of_head(Lane *lane) noexcept nogil:
    """Return BODY if the head is as good as a known one, UNKNOWN if that must be found out, FAILED if it is not."""
    cdef char[HEAD_MAX] rest
    cdef PyObject *known
    cdef Py_ssize_t n
    cdef Head head
    memset(&head, 0, sizeof(Head))
    if not _parse(lane.data, lane.end, rest, &head) or head.status != 206 or head.length != lane.length:
        return FAILED
    if head.content_range == NULL or head.content_range_length != lane.content_range_length:
        return FAILED
    if memcmp(head.content_range, lane.content_range, lane.content_range_length) != 0:
        return FAILED
    for n in range(size_of_tuple(lane.known)):
        known = of_tuple(lane.known, n)
        if size_of(known) == head.rest and memcmp(content_of(known), rest, head.rest) == 0:
            return BODY
    return UNKNOWN


cdef bint _place(Lane *lane) noexcept nogil:
    """Put the bytes of the body that have come with the head where they belong. Return False if there are too many."""
    cdef const char *data = lane.data + lane.end
    cdef Py_ssize_t left = lane.size - lane.end, part
    while left and lane.page < lane.count:
        part = min(left, lane.pages[lane.page].len - lane.placed)
        memcpy(<char *>lane.pages[lane.page].buf + lane.placed, data, part)
        data, left = data + part, left - part
        _advance(lane, part)
    return left == 0


cdef void _advance(Lane *lane, Py_ssize_t got) noexcept nogil:
    """So many more bytes are in their places."""
    lane.placed += got
    while lane.page < lane.count and lane.placed >= lane.pages[lane.page].len:
        lane.placed -= lane.pages[lane.page].len
        lane.page += 1


cdef ssize_t _receive(Lane *lane) noexcept nogil:
    cdef iovec[PIECES_MAX] pieces
    cdef msghdr message
    cdef Py_ssize_t n, count = min(lane.count - lane.page, <Py_ssize_t>PIECES_MAX)
    memset(&message, 0, sizeof(msghdr))
    for n in range(count):
        pieces[n].iov_base, pieces[n].iov_len = lane.pages[lane.page + n].buf, lane.pages[lane.page + n].len
    pieces[0].iov_base = <char *>pieces[0].iov_base + lane.placed
    pieces[0].iov_len -= lane.placed
    message.msg_iov, message.msg_iovlen = pieces, count
    return recvmsg(lane.fd, &message, MSG_DONTWAIT)
