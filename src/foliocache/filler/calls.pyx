"""The calls of a source: in turn, if one thread at a time may call it; and each answer is checked.

A private read is such a call for bytes that are not cached afterwards: every page is in use, or the filler of a folio takes too
long. A source may read mappings, its own too, so a thread knows what it is reading (``_reads``).
"""
cimport cython
from cpython.buffer cimport PyBuffer_Release
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint64_t as u64

import operator
import threading

from .buffers cimport get_readable
from .steps cimport Steps
from ..mm cimport atomics, layout
from ..errors import SourceError
from ..sizes import quoted
from ..observe import notices
from . import failure
from .source import called, is_threaded, iterator_of, kind_of, read_into_of

cdef u64 TIMEOUT_MAX_NS = (<u64>1) << 62
cdef int NESTED_MAX = 2  # nested private reads of one folio; a signal handler may interrupt one and read the same


@cython.final
@cython.auto_pickle(False)
cdef class _Reading:
    """Units that a thread is reading from its source, or is about to read, while this is in the thread's ``_reads``."""
    cdef bint has(self, Steps mapping, u64 index) except -1:
        return self.first <= index < self.end and self.identity == mapping.identity


_thread = threading.local()
cdef list _late = []  # private reads of all threads of this process that were begun because a filler took too long


cdef list _reads():
    """Return the list of what this thread is reading, the innermost read last."""
    try:
        return _thread.reads
    except AttributeError:
        _thread.reads = []
        return _thread.reads


cdef _Reading _reading(Steps mapping, u64 index, u64 count, bint private):
    cdef _Reading reading = _Reading.__new__(_Reading)
    reading.identity, reading.first, reading.end = mapping.identity, index, index + count
    reading.since, reading.epoch, reading.private = atomics.now_ns(), mapping.epoch(), private
    return reading


cdef int _nested(Steps mapping, u64 index, bint private) except -1:
    """Return how many reads of unit index of this object this thread is in. private: count only private reads."""
    cdef _Reading reading
    cdef int count = 0
    for reading in _reads():
        if (reading.private or not private) and reading.has(mapping, index):
            count += 1
    return count


@cython.auto_pickle(False)
cdef class Calls:
    """The calls of one mapping's source, which is given as to ``Pool.mapping``. concurrent: several threads may call it at
    once. is_threaded: threads read long ranges for event loops, too. pool: has ``fill_timeout`` and ``closed``. guard: the
    mapping's attachment, in whose critical sections a thread takes its turn.
    """
    def __init__(self, key, pool, read, readinto, source, bint concurrent):
        self.key, self.pool, self.origin, self.concurrent = key, pool, source, concurrent
        self.given = read, readinto, source, concurrent
        self.call_read, self.call_readinto, self.call_read_into = called(read), called(readinto), read_into_of(source)
        self.is_threaded = concurrent and is_threaded(read, readinto, source)
        self.is_exact = getattr(source, "is_exact", False) is True
        self.kind = kind_of(read, readinto, source)
        self.late_behind = layout.HASH_MASK  # no unit's number
        self.lock = threading.RLock()

    @property
    def source(self):
        """The tuple of read, readinto, source and concurrent, as they were given."""
        return self.given

    def failed(self, reason, offset):
        """Return the exception for a read that waited for another process or thread, whose source failed."""
        told = f"the process that was reading {quoted(self.key)} at offset {offset} failed: {reason.kind}: {reason.text}"
        error = SourceError(told) if reason.errno is None else SourceError(reason.errno, told)
        translate = getattr(self.origin or self.call_read or self.call_readinto, "failure", None)
        return error if translate is None else translate(error)

    cdef u64 _patience(self) except? 0:
        """Return how many nanoseconds to wait for another filler."""
        cdef double seconds = self.pool.fill_timeout
        return TIMEOUT_MAX_NS if seconds * 1e9 >= TIMEOUT_MAX_NS else <u64>(seconds * 1e9) if seconds > 0 else 0

    cdef u64 _patience_for(self, Steps mapping, u64 index) except? 0:
        """Return how many nanoseconds to wait for another filler of unit index: none right behind a unit whose filler has taken
        too long, for as long again. That one is likely to be filling this unit, too."""
        cdef u64 patience = self._patience()
        if index == self.late_behind and mapping.epoch() == self.late_epoch and atomics.now_ns() < self.late_since + patience:
            return 0
        return patience

    # Private reads.

    cdef object _read_late(self, Steps mapping, u64 index):
        """Return a lease on a private read of unit index, because its filler takes too long.

        Raises SourceError if another thread of this process has been reading the same unit privately for too long already:
        the source may read its own mapping in another thread, which would go on for ever.
        """
        cdef _Reading reading = _reading(mapping, index, 1, True)
        cdef _Reading other
        cdef u64 patience = max(self._patience(), <u64>1_000_000_000)
        for other in _late:
            if other.epoch == reading.epoch and reading.since - other.since >= patience and other.has(mapping, index):
                raise SourceError(
                    f"{quoted(self.key)} at offset {index * mapping.unit_size}: two calls of its source have not returned for "
                    f"{self.pool.fill_timeout:g} s each; the origin hangs, or the source reads its own mapping in a thread"
                )
        if index != self.late_behind or reading.epoch != self.late_epoch or reading.since >= self.late_since + self._patience():
            self.late_since, self.late_epoch = reading.since, reading.epoch
        self.late_behind = index + 1
        _late.append(reading)
        try:
            return self.read_privately(mapping, index)
        finally:
            _late.remove(reading)

    cdef object read_privately(self, Steps mapping, u64 index):
        """Return a lease on a private copy of unit index, read from the source: every page is in use, or the filler takes too
        long."""
        cdef list reads = _reads()
        cdef _Reading reading = _reading(mapping, index, 1, True)
        if _nested(mapping, index, True) >= NESTED_MAX:
            raise SourceError(
                f"the source of {quoted(self.key)} reads the same bytes of its own mapping, at offset "
                f"{index * mapping.unit_size}, and would do so for ever"
            )
        mapping.count(layout.COUNT_BYPASSES, 1)
        notices.private_read(getattr(self.pool, "name", ""))
        reads.append(reading)
        try:
            return mapping.private(self._content(mapping, index))
        finally:
            reads.remove(reading)

    cdef bytes _content(self, Steps mapping, u64 index):
        """Return the bytes of unit index, read from the source."""
        cdef u64 offset = index * mapping.unit_size
        cdef Py_ssize_t length = mapping.length(index)
        cdef u64 begin
        cdef bint done = False
        lock = self._take_turn(mapping)
        begin = atomics.now_ns()
        try:
            content = self._private_content(mapping, offset, length)
            done = True
            return content
        finally:
            if lock is not None:
                lock.release()
            mapping.request(self.kind, atomics.now_ns() - begin, length if done else 0, not done)

    cdef bytes _private_content(self, Steps mapping, u64 offset, Py_ssize_t length):
        """Call the source for bytes that are not cached. The caller has its turn."""
        cdef Py_buffer answer
        cdef Py_ssize_t filled = 0
        if self.call_read_into is not None:
            target = bytearray(length)
            with memoryview(target) as view:
                for _ in self._begin(offset, [view]):
                    filled += 1
                if filled != 1:
                    raise self._short(mapping, 0, offset, length)
            return bytes(target)
        if self.call_read is None and self.call_readinto is not None:
            target = bytearray(length)
            with memoryview(target) as view:
                self._readinto(mapping, offset, view)
            return bytes(target)
        get_readable(self._read(offset, length), &answer, self.key)
        try:
            self._check_length(mapping, answer.len, offset, length)
            return PyBytes_FromStringAndSize(<char *>answer.buf, length)
        finally:
            PyBuffer_Release(&answer)

    # The source.

    cdef object _read(self, u64 offset, u64 length):
        """Return what the source's ``read`` returns, unchecked. Raises SourceError if there is no source."""
        if self.call_read is None:
            raise SourceError(
                f"{quoted(self.key)} is not cached at offset {offset}, and its mapping was opened without a source"
            )
        try:
            return self.call_read(offset, length)
        except StopIteration as error:
            raise self._stopped() from error

    cdef int _readinto(self, Steps mapping, u64 offset, target) except -1:
        cdef Py_ssize_t length = len(target)
        try:
            got = self.call_readinto(offset, target)
        except StopIteration as error:
            raise self._stopped() from error
        return self._check_count(mapping, got, offset, length)

    cdef object _begin(self, u64 offset, list views):
        """Return the iterator that the source's ``read_into`` returns."""
        try:
            return iterator_of(self.call_read_into(offset, views))
        except StopIteration as error:
            raise self._stopped() from error

    cdef object _stopped(self):
        """Return the error for a StopIteration of the source, which would end a loop over pieces."""
        return SourceError(f"the source of {quoted(self.key)} raised StopIteration")

    cdef int _check_count(self, Steps mapping, got, u64 offset, Py_ssize_t length) except -1:
        """Raise SourceError if ``got``, which ``readinto`` has returned, is not the number ``length``."""
        try:
            count = operator.index(got)
        except TypeError:
            raise SourceError(
                f"the source of {quoted(self.key)} returned {quoted(got)}; readinto must return how many bytes it has written"
            ) from None
        if count != length:
            raise self._short(mapping, count, offset, length)
        return 0

    cdef int _check_length(self, Steps mapping, Py_ssize_t got, u64 offset, Py_ssize_t length) except -1:
        if got != length:
            raise self._short(mapping, got, offset, length)
        return 0

    cdef object _short(self, Steps mapping, got, u64 offset, Py_ssize_t length):
        return SourceError(
            f"the source of {quoted(self.key)} gave {got} bytes at offset {offset} instead of {length}; "
            f"has it changed since its size was {mapping.size}?"
        )

    def reason(self, error):
        """Return the record of a source's error for clients that wait for the same bytes; None if it does not concern the
        origin."""
        if self.pool.closed or (self.call_read is None and self.call_readinto is None and self.origin is None):
            return None
        return failure.record(error)

    cdef object _take_turn(self, Steps mapping):
        """Take the lock of a source that one thread may call at a time, and return it; None if several threads may call it.

        A thread that is in the source already may call it again. This waits while other threads' calls of the source return.
        Raises SourceError if none has returned for ``fill_timeout``, and at least 1 s.
        """
        cdef double seconds
        cdef u64 calls
        if self.concurrent:
            return None
        with cython.critical_section(self.guard):
            if self.lock_epoch != mapping.epoch():  # another thread of the parent may have been in the source
                self.lock, self.lock_epoch = threading.RLock(), mapping.epoch()
            lock = self.lock
        seconds = min(max(self._patience() / 1e9, 1), threading.TIMEOUT_MAX)
        while True:
            calls = self.calls
            if lock.acquire(True, seconds):
                self.calls += 1
                return lock
            if calls == self.calls:
                raise SourceError(
                    f"the source of {quoted(self.key)} has not returned for {seconds:g} s in another thread, and this mapping "
                    "calls it in one thread at a time; open it with concurrent=True if it may be called by several"
                )
