"""Large values of a Redis server: one exchange in one call, straight into and from pages, without the GIL.

What is exchanged are pieces. A value is one of them, or several in a row: each has its checksum behind it, so a part of a value
is checked as the whole is.

The client package makes the connection (TLS, passwords). Here is what it has no call for: values that are received straight
into the pool's pages, a deadline for an answer as a whole (its timeout is for each receipt, so a server that trickles would
never run into it), and values that are sent from several places. In the interpreter, each piece would take and give the GIL
several times, and an answer of 16 cost half as much again as one of a single value.
"""
cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.object cimport PyObject
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint64_t as u64
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free
from libc.string cimport memchr, memcmp, memcpy, memmove, memset

from ..mm cimport atomics

import socket

cdef extern from "<sys/time.h>" nogil:
    struct timeval:
        long tv_sec
        long tv_usec

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len

cdef extern from "<sys/socket.h>" nogil:
    struct msghdr:
        iovec *msg_iov
        size_t msg_iovlen
    ssize_t sendmsg(int fd, const msghdr *message, int flags)
    ssize_t recvmsg(int fd, msghdr *message, int flags)
    ssize_t recv(int fd, void *data, size_t length, int flags)
    int setsockopt(int fd, int level, int name, const void *value, unsigned int length)
    int MSG_NOSIGNAL, MSG_WAITALL, MSG_PEEK, MSG_DONTWAIT, SOL_SOCKET, SO_RCVTIMEO, SO_SNDTIMEO

cdef enum:
    AHEAD = 1024  # bytes; no line of an answer is longer
    TOGETHER = 16  # pieces that are sent by one system call
    EARLY = 4  # pieces that are sent first, so that the server has work while the next are checked
    TRAILER = 8  # bytes behind those of a piece
    HOLD = 0  # for crc32c: not to release the GIL; taking it again may take longer than all the rest
    PYBUF_WRITE = 0x200


cdef struct Stream:
    PyObject *tls  # the socket, if it encrypts: then only Python can use it; else NULL
    int fd
    u64 deadline, patience  # nanoseconds: until when all must be here, or how long each receipt may take
    u64 standing  # nanoseconds: the limits that the socket has, and is left with; 0 if they are not known, and do not matter
    u64 sending, receiving  # nanoseconds: as they are now
    Py_ssize_t most  # bytes that are received ahead at a time: with more, values begin at odd places, and copies are slower
    Py_ssize_t begin, end  # of what has been received, but not used, in ``ahead``
    char[AHEAD] ahead


cdef int _open(Stream *stream, sock, double deadline, double patience, double standing) except -1:
    stream.tls = NULL if type(sock) is socket.socket else <PyObject *>sock
    stream.fd = sock.fileno()
    stream.deadline, stream.patience = <u64>(deadline * 1e9), <u64>(patience * 1e9)
    stream.most, stream.begin, stream.end = AHEAD, 0, 0
    stream.standing = stream.sending = stream.receiving = <u64>(standing * 1e9)
    if stream.fd < 0:
        raise ConnectionError("the connection has been closed")
    return 0


cdef void _set_limit(int fd, int option, u64 ns) noexcept nogil:
    cdef timeval limit
    limit.tv_sec, limit.tv_usec = ns // 1_000_000_000, ns % 1_000_000_000 // 1000
    if ns < 1000:
        limit.tv_usec = 1  # 0 is no limit
    setsockopt(fd, SOL_SOCKET, option, &limit, sizeof(timeval))


cdef void _settle(Stream *stream) noexcept nogil:
    """At the end of an exchange: leave the socket's limits as they were found."""
    if stream.tls == NULL and stream.standing:
        if stream.sending != stream.standing:
            _set_limit(stream.fd, SO_SNDTIMEO, stream.standing)
        if stream.receiving != stream.standing:
            _set_limit(stream.fd, SO_RCVTIMEO, stream.standing)


cdef double _limit(Stream *stream, int option) except -1 nogil:
    """Set how long the next call of the socket may take, in seconds, unless it is set well enough already. Raises TimeoutError
    if the deadline has passed."""
    cdef u64 left = stream.patience
    cdef u64 now
    cdef u64 *limit = &stream.sending if option == SO_SNDTIMEO else &stream.receiving
    if stream.deadline:
        now = atomics.now_ns()
        if now >= stream.deadline:
            with gil:
                raise TimeoutError("the server has not answered in time")
        left = stream.deadline - now
    if stream.tls == NULL and not limit[0] - limit[0] // 8 < left <= limit[0]:
        limit[0] = left
        _set_limit(stream.fd, option, left)
    return left / 1e9


cdef int _interrupted() except -1 with gil:
    """After a system call that has failed: return if it is to be repeated. Raises TimeoutError, OSError, or what a signal
    handler raises."""
    if errno == EINTR:
        PyErr_CheckSignals()
        return 0
    if errno == EAGAIN:
        raise TimeoutError("the server has not answered in time")
    PyErr_SetFromErrno(OSError)
    return -1


cdef Py_ssize_t _receive(Stream *stream, char *place, Py_ssize_t length, int flags) except -1 nogil:
    """Receive up to ``length`` bytes, at least one. MSG_WAITALL: all, as a rule."""
    cdef Py_ssize_t got = -1
    cdef double seconds
    while got < 0:
        seconds = _limit(stream, SO_RCVTIMEO)
        if stream.tls == NULL:
            got = recv(stream.fd, place, length, flags)
            if got < 0:
                _interrupted()
        else:
            with gil:
                sock = <object>stream.tls
                sock.settimeout(seconds)
                with PyMemoryView_FromMemory(place, length, PYBUF_WRITE) as view:
                    got = sock.recv_into(view)
    if got == 0:
        with gil:
            raise ConnectionError("the server has closed the connection")
    return got


cdef int _read(Stream *stream, char *place, Py_ssize_t length) except -1 nogil:
    """Copy or receive the next bytes. place: NULL to skip them."""
    cdef char[AHEAD] scratch
    cdef Py_ssize_t count = min(length, stream.end - stream.begin)
    if place != NULL:
        memcpy(place, stream.ahead + stream.begin, count)
    stream.begin += count
    while count < length:
        if place != NULL:
            count += _receive(stream, place + count, length - count, MSG_WAITALL)
        else:
            count += _receive(stream, scratch, min(length - count, <Py_ssize_t>AHEAD), 0)
    return 0


cdef int _need(Stream *stream, Py_ssize_t length) except -1 nogil:
    """Receive until ``length`` bytes are ahead, and as much more as there is."""
    while stream.end - stream.begin < length:
        if stream.begin:
            memmove(stream.ahead, stream.ahead + stream.begin, stream.end - stream.begin)
            stream.end -= stream.begin
            stream.begin = 0
        if stream.end == AHEAD:
            with gil:
                raise ConnectionError("the server's answer is not of the protocol of Redis")
        stream.end += _receive(stream, stream.ahead + stream.end, min(stream.most, AHEAD - stream.end), 0)
    return 0


cdef const char *_line(Stream *stream, Py_ssize_t *length) except NULL nogil:
    """Return the next line, and its length without its end. It is valid until the next call."""
    cdef const char *begin
    cdef const char *end = NULL
    while True:
        begin = stream.ahead + stream.begin
        end = <const char *>memchr(begin, 10, stream.end - stream.begin)
        if end != NULL:
            break
        _need(stream, stream.end - stream.begin + 1)
    stream.begin += end - begin + 1
    length[0] = end - begin - (1 if end > begin and end[-1] == 13 else 0)
    return begin


cdef Py_ssize_t _number(const char *line, Py_ssize_t size) noexcept nogil:
    """Return the number in a line, behind its first byte; -1 for "-1", -2 for anything else."""
    cdef Py_ssize_t found = 0, i
    if size == 3 and line[1] == 45 and line[2] == 49:
        return -1
    if not 1 < size < 18:
        return -2
    for i in range(1, size):
        if not 48 <= line[i] <= 57:
            return -2
        found = 10 * found + line[i] - 48
    return found


cdef int _refuse(const char *line, Py_ssize_t size, what) except -1 with gil:
    """Raise the error that a line tells, or that the line is not what it should be."""
    cdef bytes told = line[:size]
    if told[:1] == b"-":
        raise ConnectionError(told[1:].decode(errors="replace"))
    raise ConnectionError(f"the server's answer is not {what}")


cdef Py_ssize_t _size(Stream *stream, Py_ssize_t *length) except -2 nogil:
    """Return the number of bytes of the value that follows, -1 if there is none. ``length``: that of the line that tells it."""
    cdef const char *line = _line(stream, length)
    cdef Py_ssize_t got = _number(line, length[0])
    if line[0] != 36 or got < -1:
        _refuse(line, length[0], "a value")
    return got


cdef int _send(Stream *stream, iovec *chunks, Py_ssize_t count) except -1 nogil:
    """Send chunks. They are changed."""
    cdef msghdr message
    cdef Py_ssize_t sent
    if stream.tls != NULL:
        _send_by(stream, chunks, count)
        return 0
    memset(&message, 0, sizeof(msghdr))
    while count:
        message.msg_iov, message.msg_iovlen = chunks, count
        _limit(stream, SO_SNDTIMEO)
        sent = sendmsg(stream.fd, &message, MSG_NOSIGNAL)
        if sent < 0:
            _interrupted()
            continue
        while count and sent >= <Py_ssize_t>chunks.iov_len:
            sent -= chunks.iov_len
            chunks += 1
            count -= 1
        if count:
            chunks.iov_base = <char *>chunks.iov_base + sent
            chunks.iov_len -= sent
    return 0


cdef int _send_by(Stream *stream, iovec *chunks, Py_ssize_t count) except -1 with gil:
    """``_send`` of a socket that only Python can use."""
    cdef Py_ssize_t i
    sock = <object>stream.tls
    sock.settimeout(_limit(stream, 0))
    for i in range(count):
        sock.sendall((<char *>chunks[i].iov_base)[:chunks[i].iov_len])
    return 0


@cython.final
@cython.no_gc
@cython.auto_pickle(False)
cdef class _Buffers:
    """Buffers of Python objects, until this is deleted."""
    cdef Py_buffer *each
    cdef Py_ssize_t count

    def __cinit__(self, items, int kind):
        self.each = <Py_buffer *>calloc(max(len(items), 1), sizeof(Py_buffer))
        if self.each == NULL:
            raise MemoryError
        for item in items:
            PyObject_GetBuffer(item, &self.each[self.count], kind)
            self.count += 1

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.count):
            PyBuffer_Release(&self.each[i])
        free(self.each)


def limit(sock, double seconds):
    """Set how long each call of a socket that does not encrypt may take. `mget` and `mset` need not do it then each time."""
    if type(sock) is socket.socket:
        _set_limit(sock.fileno(), SO_SNDTIMEO, <u64>(seconds * 1e9))
        _set_limit(sock.fileno(), SO_RCVTIMEO, <u64>(seconds * 1e9))


def is_silent(sock) -> bool:
    """Return True if a connection on which nothing is awaited has neither data nor an end: it can be used again."""
    cdef char[1] data
    cdef Py_ssize_t got = recv(sock.fileno(), data, 1, MSG_PEEK | MSG_DONTWAIT)
    return got < 0 and errno == EAGAIN


cdef Py_ssize_t _read_what_is_there(Stream *stream, char *place, Py_ssize_t length) noexcept nogil:
    """Copy or receive the next bytes, and some behind them, as far as they have arrived. Return how many are in their place."""
    cdef Py_ssize_t at = min(length, stream.end - stream.begin), got
    cdef iovec[2] chunks
    cdef msghdr message
    memcpy(place, stream.ahead + stream.begin, at)
    stream.begin += at
    if at < length and stream.tls == NULL:
        memset(&message, 0, sizeof(msghdr))
        chunks[0].iov_base, chunks[0].iov_len = place + at, length - at
        chunks[1].iov_base, chunks[1].iov_len = stream.ahead, stream.most
        message.msg_iov, message.msg_iovlen = chunks, 2
        got = recvmsg(stream.fd, &message, MSG_DONTWAIT)  # after an error, and after the end, the next receipt tells of it
        if got > 0:
            stream.begin, stream.end = 0, max(at + got - length, <Py_ssize_t>0)
            at = min(at + got, length)
    return at


cdef enum:
    ABSENT, ARRIVED, RIGHT  # what is known of a piece


cdef class _Pieces:
    """Pieces that are asked for: what they are called, where they belong, and which are right: the bytes behind them are
    ``magic`` and a checksum, that of the piece continued from that of its name."""
    cdef list keys, places
    cdef object crc32c
    cdef bytes magic
    cdef bytearray ends, states
    cdef char *end
    cdef char *state
    cdef Py_ssize_t checked

    cdef int check(self, Py_ssize_t stop) except -1 with gil:
        """Check those up to number ``stop`` that have arrived and have not been checked."""
        cdef Py_ssize_t number
        for number in range(self.checked, stop):
            if self.state[number] == ARRIVED:
                is_right = self.ends[number * TRAILER : (number + 1) * TRAILER] == _trailer(
                    self.magic, self.keys[number], self.places[number], self.crc32c
                )
                self.state[number] = RIGHT if is_right else ABSENT
        self.checked = stop
        return 0

    cdef int take(self, Stream *stream, Py_buffer *target, Py_ssize_t number, Py_ssize_t following) except -1 nogil:
        """Receive a piece into its place. ``following``: bytes behind it and its trailer that may be received with them."""
        cdef Py_ssize_t at
        cdef char *place = <char *>target.buf
        stream.most = TRAILER + following
        at = _read_what_is_there(stream, place, target.len)
        if at < target.len:
            if self.checked < number:
                self.check(number)
            _read(stream, place + at, target.len - at)
        _need(stream, TRAILER)
        _read(stream, self.end + number * TRAILER, TRAILER)
        self.state[number] = ARRIVED
        return 0


cdef list _runs(list blocks, _Buffers buffers):
    """Divide pieces where the next is not the following part of the same value. Return (first, stop) of each run."""
    cdef Py_ssize_t number, first = 0
    cdef tuple before, place
    cdef list found = []
    for number in range(1, buffers.count + 1):
        before, place = blocks[number - 1], blocks[number] if number < buffers.count else None
        if place is not None and before is not None and <bytes>place[0] == <bytes>before[0]:
            if <Py_ssize_t>place[1] == <Py_ssize_t>before[1] + buffers.each[number - 1].len + TRAILER:
                continue
        found.append((first, number))
        first = number
    return found


cdef bytes _word(bytes text):
    cdef Py_ssize_t length = PyBytes_GET_SIZE(text)
    cdef char[24] begin
    cdef Py_ssize_t size = snprintf(begin, 24, b"$%zd\r\n", length)
    cdef bytes word = PyBytes_FromStringAndSize(NULL, size + length + 2)
    cdef char *at = word
    memcpy(at, begin, size)
    memcpy(at + size, PyBytes_AS_STRING(text), length)
    at[size + length], at[size + length + 1] = 13, 10
    return word


cdef bytes _trailer(bytes magic, key, content, crc32c):
    """Return what is behind the bytes of a piece."""
    cdef u64 crc = crc32c(content, crc32c(key, 0, HOLD), HOLD)
    cdef bytes trailer = PyBytes_FromStringAndSize(NULL, TRAILER)
    cdef char *at = trailer
    cdef int i
    memcpy(at, PyBytes_AS_STRING(magic), 4)
    for i in range(4):
        at[4 + i] = <char>(crc >> 8 * i & 0xFF)
    return trailer


def mget(
    sock, list keys not None, list places not None, list blocks not None, Py_ssize_t whole, bytes magic not None, crc32c,
    double deadline, double standing=0, list alone=None,
):
    """Ask for pieces, and receive each into its place. There is one request, whatever values they are in.

    Parameters
    ----------
    sock
        A connected socket without a timeout, with nothing under way.
    keys
        The pieces' names, bytes: those of the values that have one of them each.
    places
        A writable buffer for each.
    blocks
        For each the name of a value that may have it among others, and at which byte it begins there; None if there is none.
    whole
        Bytes of such a value. Where all are wanted, it is asked for like one piece: a server may send that without a copy.
    magic
        Four bytes, with which the 8 bytes behind a piece begin. The others are the checksum.
    crc32c
        Function of the package crc32c. It is called while there is nothing to receive. So the GIL is taken often only if nobody
        else wants it: otherwise more has arrived until it is there.
    deadline
        ``time.monotonic()`` until which all must be here.
    standing
        What `limit` has been called with, in seconds; 0 if it has not. This keeps the limits.
    alone
        A list, to which the numbers of the pieces are added whose names are those of values, whatever is in these.

    Returns
    -------
    list of bool
        True if the piece is there, has this length, and passes its check.

    Raises
    ------
    Exception
        The server does not answer in time, or answers with an error. Then the connection is of no use.
    """
    cdef Stream stream
    cdef iovec request
    cdef _Buffers targets = _Buffers(places, PyBUF_WRITABLE)
    cdef Py_ssize_t count = targets.count, number, length = 0, first, stop, size, got, last
    cdef const char *line
    cdef _Pieces pieces = _Pieces.__new__(_Pieces)
    cdef list names = [*keys], ranges = [], runs = [], parts = []
    if count == 0:  # a server refuses a list of no names
        return []
    for first, stop in _runs(blocks, targets):
        if blocks[first] is None:
            continue
        key, at = blocks[first]
        last = blocks[stop - 1][1] + targets.each[stop - 1].len + TRAILER - 1
        if at == 0 and last + 1 == whole:
            names.append(key)
            runs.append((first, stop))
        else:
            ranges.append(b"*4\r\n$8\r\nGETRANGE\r\n%s%s%s" % (_word(key), _word(b"%d" % at), _word(b"%d" % last)))
            parts.append((first, stop))
    runs += parts
    cdef Py_ssize_t named = len(names)
    cdef list words = [b"*%d\r\n$4\r\nMGET\r\n" % (named + 1), *map(_word, names), *ranges]
    cdef bytes command = b"".join(words)
    pieces.keys, pieces.places, pieces.crc32c, pieces.magic = keys, places, crc32c, magic
    pieces.ends, pieces.states = bytearray(count * TRAILER), bytearray(count)
    pieces.end, pieces.state = pieces.ends, pieces.states
    cdef bytearray owned = bytearray(count)
    cdef char *own = owned  # which pieces' names are those of values
    _open(&stream, sock, deadline, 0, standing)
    request.iov_base, request.iov_len = PyBytes_AS_STRING(command), PyBytes_GET_SIZE(command)
    with nogil:
        _send(&stream, &request, 1)
        line = _line(&stream, &length)
        if line[0] != 42 or _number(line, length) != named:
            _refuse(line, length, "a list of the values asked for")
        for number in range(count):
            got = _size(&stream, &length)
            own[number] = got >= 0
            if got == targets.each[number].len + TRAILER:
                pieces.take(&stream, &targets.each[number], number, 2 + length + 2)  # and a line as this one was
                _read(&stream, NULL, 2)
            elif got >= 0:
                _read(&stream, NULL, got + 2)
    if runs:
        pieces.check(count)
        pieces.checked = 0
    for first, stop in runs:
        size = 0
        for number in range(first, stop):
            size += targets.each[number].len + TRAILER
        with nogil:
            got = _size(&stream, &length)
            if got != size:  # -1 where there is no such value, and 0 for a part of it
                if got >= 0:
                    _read(&stream, NULL, got + 2)
                continue
            for number in range(first, stop):
                if pieces.state[number] == RIGHT:
                    _read(&stream, NULL, targets.each[number].len + TRAILER)
                else:
                    pieces.take(&stream, &targets.each[number], number, 2 + length + 2 if number == stop - 1 else 0)
            _read(&stream, NULL, 2)
    _settle(&stream)
    pieces.check(count)
    if alone is not None:
        alone += [number for number in range(count) if own[number]]
    return [state == RIGHT for state in pieces.states]


def mset(
    sock, list keys not None, list contents not None, list blocks not None, bytes magic not None, crc32c, double patience,
    double standing=0, alone=None,
):
    """Set values, as `mget` expects them.

    Parameters
    ----------
    sock
        As for `mget`.
    keys
        The pieces' names, bytes.
    contents
        A buffer for each.
    blocks
        For each, None if it is a value of its own. Else the name of the value of which it is a part, and at which byte. Such a
        value is made of all those in a row that have its name; what the server has of them under their own is deleted.
    magic, crc32c
        As for `mget`.
    patience
        Seconds that the server may be silent.
    standing
        As for `mget`.
    alone
        The names of those values, a container, of whose pieces the server may have some under their own; None for all.

    Raises
    ------
    Exception
        The server is silent for too long, or refuses. Then the connection is of no use.
    """
    cdef Stream stream
    cdef _Buffers buffers = _Buffers(contents, PyBUF_SIMPLE)
    cdef Py_ssize_t count = buffers.count, number, length = 0, begin, stop, size
    cdef Py_ssize_t first = 0
    cdef bint deletes
    cdef list runs = _runs(blocks, buffers)
    cdef bytes end = b"*%d\r\n$4\r\nMSET\r\n" % (2 * len(runs) + 1)
    cdef iovec[2 * TOGETHER + 1] chunks
    cdef const char *line
    cdef list heads
    cdef dict begins = {}  # what is between the name of a value and its bytes, by the number of its first piece
    cdef list gone = []
    for begin, stop in runs:
        size = 0
        for number in range(begin, stop):
            size += buffers.each[number].len + TRAILER
        name = keys[begin]
        if blocks[begin] is not None:
            name = blocks[begin][0]
            if alone is None or name in alone:
                gone += keys[begin:stop]
        begins[begin] = b"%s$%d\r\n" % (_word(name), size)
    _open(&stream, sock, 0, patience, standing)
    while first < count:
        stop = min(first + (TOGETHER if first else EARLY), count)
        heads = []
        for number in range(first, stop):
            heads.append(end + begins.get(number, b""))
            end = _trailer(magic, keys[number], contents[number], crc32c)
            if number + 1 == count or number + 1 in begins:
                end += b"\r\n"
        if stop == count:
            if gone:
                end += b"*%d\r\n$3\r\nDEL\r\n%s" % (len(gone) + 1, b"".join([_word(key) for key in gone]))
            heads.append(end)
        for number in range(len(heads)):
            chunks[2 * number].iov_base = PyBytes_AS_STRING(heads[number])
            chunks[2 * number].iov_len = PyBytes_GET_SIZE(heads[number])
            if number < stop - first:
                chunks[2 * number + 1].iov_base = buffers.each[first + number].buf
                chunks[2 * number + 1].iov_len = buffers.each[first + number].len
        with nogil:
            _send(&stream, chunks, 2 * (stop - first) + (stop == count))
        first = stop
    if count == 0:
        return
    deletes = len(gone) > 0
    with nogil:
        line = _line(&stream, &length)
        if length != 3 or memcmp(line, b"+OK", 3) != 0:
            _refuse(line, length, "OK")
        if deletes:
            line = _line(&stream, &length)
            if line[0] != 58:
                _refuse(line, length, "how many values were deleted")
        _settle(&stream)
