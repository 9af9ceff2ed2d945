"""The miss: a process that adds a missing folio fills it, and with it the missing ones right behind it that are wanted.

What is wanted is cut into *requests*: one call of the source for a run of folios, one pin on each until it is done. A filler
never waits for another folio while it holds locked ones, so fillers cannot wait for each other in a circle.

A source that may be called by several threads at once gets several requests at a time, in the threads of the pool's engine,
which locks the folios of a request when it begins. What Python's main thread waits for is filled there, too: so a fill goes on
when its caller is interrupted. The two share the lease, and the caller waits for the request. Other sources are called by the
threads that want the data, one at a time.

The module is compiled because a traceback keeps the variables of Python's frames alive, and must not keep a locked folio: here,
a lease that is filling goes with the exception, and withdraws its folio.
"""
cimport cython
from cpython.buffer cimport PyBuffer_Release
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.memoryview cimport PyMemoryView_FromObject
from libc.stdint cimport uint32_t as u32, uint64_t as u64

import operator
import threading
from _thread import allocate_lock, get_ident

from .buffers cimport get_readable, release
from .steps cimport FAILED, FILLED, FOREIGN, LATE, OURS, Steps
from ..mm cimport atomics, layout
from ..errors import SourceError
from . import failure
from . import engine
from .source import called, read_into_of

cdef u64 TIMEOUT_MAX_NS = (<u64>1) << 62
cdef u64 REQUEST_MIN = 1 << 20  # bytes of a request that is one of several
cdef u64 REQUEST_MAX = 4 << 20
cdef u64 REQUESTS = engine.CONCURRENCY
cdef u64 REGION = 64  # units around a miss that are looked at
cdef u64 DENSE = 4  # of them one in so many is cached where a reader works through them in an order of its own
cdef u64 AROUND = 16  # units that are read there
cdef int NESTED_MAX = 2  # private reads of one folio within each other; a signal's handler may come in the middle of one


@cython.final
@cython.auto_pickle(False)
cdef class _Reading:
    """Folios that a thread is reading, as long as this is among its ``_reads``: in its source, or about to call it."""
    cdef object identity
    cdef u64 first, end, since
    cdef u32 epoch
    cdef bint private

    cdef bint has(self, Steps mapping, u64 index) except -1:
        return self.first <= index < self.end and self.identity == mapping.identity


_thread = threading.local()
cdef list _late = []  # private reads of all threads here, because a filler took too long


cdef list _reads():
    """What this thread is reading, the innermost last."""
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
    """How often this thread is reading a folio of this object already; private: only those reads that are."""
    cdef _Reading reading
    cdef int count = 0
    for reading in _reads():
        if (reading.private or not private) and reading.has(mapping, index):
            count += 1
    return count


@cython.final
@cython.auto_pickle(False)
cdef class Request:
    """Folios first .. end - 1 of an object, to be filled as far as they are missing: what a thread of the engine calls.

    ``lease`` is on folio first, and filling, if a caller waits for that; ``wait`` returns when it is filled.
    """
    def __call__(self):
        cdef Filler filler = self.filler
        if filler is None:
            raise TypeError("requests are made by a Filler")
        lease, self.lease = self.lease, None
        if self.is_ahead and self.epoch == self.mapping.epoch():
            filler.queued -= 1
        try:
            filler._serve(self.mapping, lease, self.first, self.end, self.mark, self)
        except BaseException as error:
            self.tell(error)
        else:
            self.tell(None)

    cdef int wait(self, u64 timeout_ns) except -1:
        """FILLED; LATE after timeout_ns. Raises the source's error, and what a signal's handler raises."""
        cdef double seconds = min(<double>timeout_ns / 1e9, threading.TIMEOUT_MAX)
        if not self.told.acquire(True, seconds):
            return LATE
        if self.error is not None:
            raise self.error
        return FILLED

    cdef int tell(self, error) except -1:
        """Wake who waits: the folio is filled, or the source has failed. Further calls do nothing."""
        told, self.told_by = self.told_by, None
        if told is not None:
            self.error = error
            told.release()
        return 0


@cython.auto_pickle(False)
cdef class Filler:
    """Fills the folios of one mapping from its source.

    read, readinto, source: where missing bytes come from, see ``Pool.mapping``; concurrent: several threads may call it at
    once. readahead says how far to read, and ``mark`` is the unit that it has marked last. pool has ``fill_timeout``,
    ``closed`` and ``engine``. ``request_size`` may be set: bytes of each of several requests; 0, for 1 to 4 MiB.
    """
    def __init__(self, key, pool, read, readinto, source, bint concurrent, readahead):
        self.key, self.pool, self.readahead = key, pool, readahead
        self.given = read, readinto, source, concurrent
        self.call_read, self.call_readinto, self.call_read_into = called(read), called(readinto), read_into_of(source)
        self.origin, self.concurrent = source, concurrent
        self.lock = threading.RLock()
        self.mark = layout.HASH_MASK

    @property
    def source(self):
        """read, readinto, source and concurrent, as they were given."""
        return self.given

    cdef object miss(self, Steps mapping, u64 index, u64 wanted):
        """A lease on unit index and those behind it in its folio. ``wanted`` units are about to be asked for. Raises what the
        source raises."""
        cdef u64 stop
        count, mark = self._plan(mapping, index, wanted)
        stop = self._first_stop(mapping, index, count)
        for _ in range(layout.GRAB_TRIES):
            lease = mapping.grab(index, stop - index)
            if lease is None and mapping.reap():
                lease = mapping.grab(index, stop - index)  # dead processes still had some room
            if lease is None:
                break
            if mapping.is_filling(lease):
                lease = self._fill_missing(mapping, lease, index, count, mark)
                if lease is None:
                    return self._read_late(mapping, index)
                # It is no use yet in reclaim's sense: a scan must not look like one.
                mapping.narrow(lease, index)
                mapping.previous = index + min(wanted, mapping.units(lease)) - 1
                return lease
            lease = self._join(mapping, lease, index, wanted)
            if lease is not None:
                return lease
        return self.read_privately(mapping, index)

    cdef object join(self, Steps mapping, lease, u64 index, u64 wanted):
        """As ``miss``, where another is filling the folio of a lease already."""
        lease = self._join(mapping, lease, index, wanted)
        return self.miss(mapping, index, wanted) if lease is None else lease

    cdef object _join(self, Steps mapping, lease, u64 index, u64 wanted):
        """The lease, once its folio is filled. None if the filler gave up; an exception if its source failed; privately read if
        it takes too long; filled here if the filler has died."""
        cdef bint nested = _nested(mapping, index, False) > 0
        if not nested:
            mapping.count(layout.COUNT_WAITS, 1)
        end = mapping.wait(lease, 0 if nested else self._patience())  # nested: this thread may be the one that fills it
        if end == OURS:
            first = mapping.widen(lease)
            if mapping.bytes(lease) == 0:  # its words are damaged: nobody can tell what is to be filled
                mapping.withdraw(lease)
                return self.read_privately(mapping, index)
            self._fill(mapping, lease, first, 1, None, None)
            mapping.narrow(lease, index)
            mapping.reap()
        elif end == LATE:
            lease = None
            return self.read_privately(mapping, index) if nested else self._read_late(mapping, index)
        elif end == FAILED:
            self._raise_failure(mapping, lease, index)
            return None
        elif end == FOREIGN:
            return self.read_privately(mapping, index)
        mapping.previous = index + min(wanted, mapping.units(lease)) - 1
        return lease

    cdef int _raise_failure(self, Steps mapping, lease, u64 index) except -1:
        """Raise what a folio's filler has written down about its source, if that is it."""
        cdef bytes told = mapping.explanation(lease)
        reason = None if told is None else failure.read(told)
        if reason is not None:
            raise self.failed(reason, index * mapping.unit_size)
        return 0

    def failed(self, reason, offset):
        """The exception for one that waited while another process (or thread) asked the source, and that failed."""
        told = f"the process that was reading {self.key!r} at offset {offset} failed: {reason.kind}: {reason.text}"
        error = SourceError(told) if reason.errno is None else SourceError(reason.errno, told)
        translate = getattr(self.origin or self.call_read or self.call_readinto, "failure", None)
        return error if translate is None else translate(error)

    cdef u64 _patience(self) except? 0:
        """How long to wait for another, in ns."""
        cdef double seconds = self.pool.fill_timeout
        return TIMEOUT_MAX_NS if seconds * 1e9 >= TIMEOUT_MAX_NS else <u64>(seconds * 1e9) if seconds > 0 else 0

    # Planning.

    cdef object _fill_missing(self, Steps mapping, lease, u64 index, u64 count, mark):
        """Fill the folio that a reader has missed, and have those behind it filled, up to unit index + count.

        Returns its lease, or None if that takes too long.
        """
        cdef u64 stop = self._first_stop(mapping, index, count)
        cdef Request request
        mapping.count(layout.COUNT_MISSES, 1)
        if not self.concurrent:
            self._fill(mapping, lease, index, count, mark, None)
            return lease
        if index + count > stop:
            self._ask_ahead(mapping, stop, index + count, mark, False)
        if get_ident() == threading.main_thread().ident:
            request = self._request(mapping, index, stop, mark, False)
            request.lease, request.told_by = lease, request.told
            if self.pool.engine.run(request):
                return lease if request.wait(self._patience()) == FILLED else None
            request.lease = None
        self._serve(mapping, lease, index, stop, mark, None)
        return lease

    cdef object _plan(self, Steps mapping, u64 index, u64 wanted):
        """How many units to read from index on, and which one to mark, or None."""
        if self.queued_epoch != mapping.epoch():  # the requests of a parent are none of ours
            self.queued, self.queued_epoch = 0, mapping.epoch()
        if self.queued and self.queued_first <= index < self.queued_end:  # what is behind has been asked for
            return min(wanted, self.queued_end - index, self._request_units(mapping, wanted)), None
        count, mark = self.readahead.on_miss(index, wanted, mapping.previous if mapping.previous < mapping.unit_count else None)
        self.mark = layout.HASH_MASK if mark is None else mark
        if self.concurrent and count == wanted < AROUND and self.readahead.most > 1 and self._is_dense(mapping, index):
            count = AROUND
        return count, mark

    cdef bint _is_dense(self, Steps mapping, u64 index) except -1:
        """True if so much around unit index is cached that what is not will be wanted, too.

        Reads of a few random places stay below that, and fetch what they ask for.
        """
        cdef u64 unit = index - index % REGION
        cdef u64 end = min(unit + REGION, mapping.unit_count)
        cdef u64 enough = max((end - unit) // DENSE, <u64>2)
        cdef u64 cached = 0
        cdef u64 there
        while unit < end and cached < enough:
            there = min(mapping.probe(unit, True), end - unit)
            cached += there
            unit += max(there, <u64>1)
        return cached >= enough

    cdef bint has_reached(self, u64 first, u64 behind, u64 last) noexcept:
        """True if who uses unit last of a marked folio, of units first .. behind - 1, is to have the next window read.

        One who reads a header again and again is not, even if its folio is large. Another process's mark is a folio's only.
        """
        if first <= self.mark < behind:
            return last >= self.mark
        return last > first or behind - first == 1

    cdef int read_ahead_from(self, Steps mapping, u64 first, u64 behind) except -1:
        """The folio of units first .. behind - 1 is used, which the last window marked: have the next window read."""
        cdef u64 missing = behind
        cdef u64 end
        cdef u64 there = 1
        if not self.concurrent:
            return 0
        end = min(first + <u64>self.readahead.most, mapping.unit_count)
        while missing < end and there:
            there = mapping.probe(missing, False)
            missing += there
        if self.queued and self.queued_epoch == mapping.epoch() and self.queued_first <= missing < self.queued_end:
            missing = self.queued_end  # a thread will come to it, and would not mark it for this window
        start, count, mark = self.readahead.on_mark(first, behind, missing)
        self.mark = layout.HASH_MASK if mark is None else mark
        return self._ask_ahead(mapping, start, min(<u64>start + <u64>count, mapping.unit_count), mark, True)

    def read_ahead(self, Steps mapping not None, u64 first, u64 end):
        """Have folios first .. end - 1 read in the background, if the source allows that."""
        if self.concurrent:
            self._ask_ahead(mapping, first, end, None, True)

    cdef int _ask_ahead(self, Steps mapping, u64 first, u64 end, mark, bint is_readahead) except -1:
        """Have folios first .. end - 1 read, in requests that the engine serves when it has threads to spare."""
        cdef u64 size = self._request_units(mapping, end - first if first < end else 1)
        cdef u64 stop
        cdef Request request
        end = min(end, mapping.unit_count)
        if self.queued_epoch != mapping.epoch() or not self.queued:
            self.queued, self.queued_epoch, self.queued_first = 0, mapping.epoch(), first
        self.queued_end = end
        while first < end:
            stop = min((first // size + 1) * size, end)
            request = self._request(mapping, first, stop, mark, is_readahead)
            request.is_ahead = True
            self.queued += 1
            self.pool.engine.later(request)
            first = stop
        return 0

    cdef u64 _request_units(self, Steps mapping, u64 units) noexcept:
        """How many units each of several requests for so many has."""
        cdef u64 size = REQUEST_MAX
        if self.request_size:
            size = self.request_size
        else:
            while size > REQUEST_MIN and size * REQUESTS > units * mapping.unit_size:
                size >>= 1
        return max(size // mapping.unit_size, <u64>1)

    cdef u64 _first_stop(self, Steps mapping, u64 index, u64 count) noexcept:
        """Where the first of the requests for so many units from index on ends: requests begin at multiples of their size."""
        cdef u64 size = self._request_units(mapping, count) if self.concurrent else count
        return min(index + count if count <= size else (index // size + 1) * size, mapping.unit_count)

    cdef Request _request(self, Steps mapping, u64 first, u64 end, mark, bint is_readahead):
        cdef Request request = Request.__new__(Request)
        request.filler, request.mapping, request.epoch = self, mapping, mapping.epoch()
        request.first, request.end, request.mark, request.is_readahead = first, end, mark, is_readahead
        request.told = allocate_lock()
        request.told.acquire()
        return request

    # Filling.

    cdef int _serve(self, Steps mapping, lease, u64 index, u64 end, mark, Request request) except -1:
        """Fill the missing ones of units index .. end - 1. lease: on the first of them, which is filling; or None."""
        while index < end:
            if lease is None:
                lease = mapping.grab(index, end - index)
                if lease is None:
                    break
            if mapping.is_filling(lease):
                index += self._fill(mapping, lease, index, end - index, mark, request)
            else:
                index += mapping.units(lease)
            lease = None
        return 0

    cdef u64 _fill(self, Steps mapping, lease, u64 index, u64 count, mark, Request request) except? 0:
        """Fill the folio that has unit index, whose lease is filling, and those behind it that can be added, up to unit
        index + count. Returns how many units from index on."""
        cdef list run = [lease], reads = _reads()
        cdef u64 first = mapping.widen(lease)
        cdef u64 end = max(index + count, first + mapping.units(lease))
        cdef _Reading reading = _reading(mapping, first, end - first, False)
        cdef u64 behind = first
        reads.append(reading)
        try:
            self._extend(mapping, run, first, end)
            for lease in run:  # before any is complete: what its caller gets may be on fewer
                behind += mapping.units(lease)
            self._fill_run(mapping, run, first, mark, request)
        except BaseException:
            for lease in run:
                if mapping.is_filling(lease):
                    mapping.withdraw(lease)
            mapping.count(layout.COUNT_ERRORS, 1)
            raise
        finally:
            reads.remove(reading)
        return behind - index

    cdef u64 _filled(self, Steps mapping, lease, u64 index, mark, Request request) except? 0:
        """The folio that begins at unit index has its content. Returns the unit behind it."""
        cdef u64 behind = index + mapping.units(lease)
        cdef u64 length = mapping.bytes(lease)
        mapping.complete(lease, mark is not None and index <= <u64>mark < behind)
        mapping.count(layout.COUNT_FILLS, 1)
        mapping.count(layout.COUNT_FILL_BYTES, length)
        if request is not None:
            if request.is_readahead:
                mapping.count(layout.COUNT_READAHEAD, 1)
            if index <= request.first < behind:
                request.tell(None)
        return behind

    cdef int _extend(self, Steps mapping, list run, u64 index, u64 end) except -1:
        """Add missing folios right behind the first one, which begins at unit index, up to unit end."""
        cdef u64 behind = index + mapping.units(run[0])
        end = min(end, mapping.unit_count)
        while behind < end:
            lease = mapping.grab(behind, end - behind)
            if lease is None or not mapping.is_filling(lease):
                break
            run.append(lease)
            behind += mapping.units(lease)
        return 0

    cdef int _fill_run(self, Steps mapping, list run, u64 index, mark, Request request) except -1:
        """One call of the source for a whole run of folios, unless all that it has is ``readinto``, for one. A failure is
        written down for those who wait for one of them."""
        cdef bytes reason
        cdef u64 count = 0
        cdef u64 at = index
        for lease in run:
            count += mapping.units(lease)
        lock = self._take_turn(mapping)
        try:
            if self.call_read_into is not None:
                self._stream_run(mapping, run, index, mark, request)
            elif self.call_readinto is None or (self.call_read is not None and len(run) > 1):
                self._read_run(mapping, run, index)
            else:
                for lease in run:
                    self._read_into_page(mapping, lease, at)
                    at += mapping.units(lease)
            if self.call_read_into is None:
                at = index
                for lease in run:
                    at = self._filled(mapping, lease, at, mark, request)
        except Exception as error:
            reason = self.reason(error)
            if reason is not None:
                for lease in run:
                    mapping.explain(lease, reason)
                for waiting in list(self.pool.engine.waiting):
                    waiting.share_failure(mapping.identity, index, index + count, error)
            raise
        finally:
            if lock is not None:
                lock.release()
        return 0

    cdef int _stream_run(self, Steps mapping, list run, u64 index, mark, Request request) except -1:
        """Each folio is completed as soon as the source has filled it."""
        cdef Py_ssize_t number = 0
        cdef Py_ssize_t length = sum([mapping.bytes(lease) for lease in run])
        cdef u64 at = index
        cdef list targets = [mapping.target(lease) for lease in run]
        cdef list views = [memoryview(target) for target in targets]
        answer = self.call_read_into(index * mapping.unit_size, views)
        try:
            for _ in answer:
                if number == <Py_ssize_t>len(run):
                    break
                self._release_view(views[number], targets[number])
                at = self._filled(mapping, run[number], at, mark, request)
                number += 1
            if number < <Py_ssize_t>len(run):
                raise self._short(mapping, (at - index) * mapping.unit_size, index * mapping.unit_size, length)
        finally:
            close = getattr(answer, "close", None)
            if close is not None:
                close()
            for view in views[number:]:
                release(view)
        return 0

    cdef int _release_view(self, memoryview view, target) except -1:
        """End a source's access to a folio. Raises SourceError if it has kept the buffer."""
        if not release(view) or target.views != 0:
            raise SourceError(f"the source of {self.key!r} kept the buffer that it was given to fill")
        return 0

    cdef int _read_run(self, Steps mapping, list run, u64 index) except -1:
        cdef Py_ssize_t at = 0, length = 0
        cdef u64 offset = index * mapping.unit_size
        cdef Py_buffer answer
        for lease in run:
            length += mapping.bytes(lease)
        content = self._read(offset, length)
        get_readable(content, &answer, self.key)
        try:
            self._check_length(mapping, answer.len, offset, length)
            for lease in run:
                mapping.write(lease, <char *>answer.buf + at)
                at += mapping.bytes(lease)
        finally:
            PyBuffer_Release(&answer)
        return 0

    cdef int _read_into_page(self, Steps mapping, lease, u64 index) except -1:
        target = mapping.target(lease)
        view = PyMemoryView_FromObject(target)
        try:
            self._readinto(mapping, index * mapping.unit_size, view)
        except BaseException:
            release(view)  # the frames of the traceback may keep it
            raise
        self._release_view(view, target)
        return 0

    # Private reads.

    cdef object _read_late(self, Steps mapping, u64 index):
        """Read privately what takes its filler too long. Not if another thread here has been at that for too long already: it
        may be in the source, which reads its own mapping in yet another thread, and would do so for ever."""
        cdef _Reading reading = _reading(mapping, index, 1, True)
        cdef _Reading other
        cdef u64 patience = max(self._patience(), <u64>1_000_000_000)
        for other in _late:
            if other.epoch == reading.epoch and reading.since - other.since >= patience and other.has(mapping, index):
                raise SourceError(
                    f"{self.key!r} at offset {index * mapping.unit_size}: two calls of its source have not returned for "
                    f"{self.pool.fill_timeout:g} s each; the origin hangs, or the source reads its own mapping in a thread"
                )
        _late.append(reading)
        try:
            return self.read_privately(mapping, index)
        finally:
            _late.remove(reading)

    cdef object read_privately(self, Steps mapping, u64 index):
        """A lease on bytes of this process's own: every page is in use, or another takes too long."""
        cdef list reads = _reads()
        cdef _Reading reading = _reading(mapping, index, 1, True)
        if _nested(mapping, index, True) >= NESTED_MAX:
            raise SourceError(
                f"the source of {self.key!r} reads the same bytes of its own mapping, at offset "
                f"{index * mapping.unit_size}, and would do so for ever"
            )
        mapping.count(layout.COUNT_BYPASSES, 1)
        reads.append(reading)
        try:
            return mapping.private(self._content(mapping, index))
        finally:
            reads.remove(reading)

    cdef bytes _content(self, Steps mapping, u64 index):
        """Unit index, from the source."""
        cdef u64 offset = index * mapping.unit_size
        cdef Py_ssize_t length = mapping.length(index)
        cdef Py_buffer answer
        lock = self._take_turn(mapping)
        try:
            if self.call_read_into is not None:
                target = bytearray(length)
                with memoryview(target) as view:
                    if sum(1 for _ in self.call_read_into(offset, [view])) != 1:
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
        finally:
            if lock is not None:
                lock.release()

    # The source.

    cdef object _read(self, u64 offset, u64 length):
        """The source's answer, whatever it is."""
        if self.call_read is None:
            raise SourceError(f"{self.key!r} is not cached at offset {offset}, and its mapping was opened without a source")
        return self.call_read(offset, length)

    cdef int _readinto(self, Steps mapping, u64 offset, target) except -1:
        cdef Py_ssize_t length = len(target)
        got = self.call_readinto(offset, target)
        try:
            count = operator.index(got)
        except TypeError:
            raise SourceError(
                f"the source of {self.key!r} returned {got!r}; readinto must return how many bytes it has written"
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
            f"the source of {self.key!r} gave {got} bytes at offset {offset} instead of {length}; "
            f"has it changed since its size was {mapping.size}?"
        )

    def reason(self, error):
        """What those who wait for the same bytes are told of the source's error; None if it does not concern the origin."""
        if self.pool.closed or (self.call_read is None and self.call_readinto is None and self.origin is None):
            return None
        return failure.record(error)

    cdef object _take_turn(self, Steps mapping):
        """Returns the lock of a source that one thread calls at a time, held; None for one that several may call.

        A thread that is within the source already may call it again. Waits as long as other threads' calls come to an end.
        """
        cdef double seconds
        cdef u64 calls
        if self.concurrent:
            return None
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
                    f"the source of {self.key!r} has not returned for {seconds:g} s in another thread, and this mapping calls "
                    "it in one thread at a time; open it with concurrent=True if it may be called by several"
                )
