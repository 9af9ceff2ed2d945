"""The miss: a process that adds a missing folio fills it, together with the missing folios that follow it and are wanted, too.

The wanted units are divided into *requests*. A request is one call of the source for a run of folios, with one pin on each
folio until the call ends. A filler never waits for another folio while it holds locked ones, so fillers cannot wait for each
other in a circle.

A source that several threads may call at once gets several requests at a time, in the threads of the pool's engine. The folios
of such a request are locked when it begins. A folio that Python's main thread waits for is filled by an engine thread, too, so
that the fill continues if its caller is interrupted. Both share the lease, and the caller waits for the request. Other sources
are called by the threads that want the data, one at a time.

The module is compiled because a traceback keeps the variables of Python frames alive, and must not keep a locked folio. In
compiled frames, a lease that is filling is dropped when the exception passes, and withdraws its folio.
"""
cimport cython
from cpython.buffer cimport PyBuffer_Release
from cpython.exc cimport PyErr_CheckSignals
from cpython.memoryview cimport PyMemoryView_FromObject
from libc.stdint cimport uint32_t as u32, uint64_t as u64

import threading
from collections import deque
from _thread import allocate_lock, get_ident

from .buffers cimport get_readable, release
from .calls cimport Calls, _Reading, _nested, _reading, _reads
from .steps cimport FAILED, FILLED, FOREIGN, LATE, OURS, Steps
from ..mm cimport atomics, layout
from ..errors import SourceError
from ..sizes import quoted
from ..observe import spans
from . import failure
from . import engine

cdef u64 REQUEST_MIN = 1 << 20  # bytes of a request, if there are several
cdef u64 REQUEST_MAX = 4 << 20
cdef u64 REQUESTS = engine.CONCURRENCY
# An origin that answers so soon, in seconds, loses little by many requests; and the smaller they are, the sooner are the first
# bytes there, and the more connections are used.
cdef double QUICK = 0.002
cdef double SLOW = 0.008  # of one that answers so late, bytes on the way are what counts
cdef u64 QUICK_REQUEST_MIN = 256 << 10
cdef u64 QUICK_REQUEST_MAX = 1 << 20
cdef u64 KEPT_SHARE = 8  # a reader of a long range asks for so small a part of what is requested ahead of it at once
cdef u64 REGION = 64  # units of the aligned region around a miss in which cached units are counted
cdef u64 DENSE = 4  # a region is dense if at least 1/DENSE of it is cached: readers then use all of it, in any order
cdef u64 AROUND = 16  # units that a miss in a dense region reads
cdef u64 GROUP = 2 << 20  # bytes of the requests for which a reader of many ranges waits at a time


@cython.final
@cython.auto_pickle(False)
cdef class Request:
    """A call for a thread of the engine: fill those of units first .. end - 1 of an object that are missing.

    If a caller waits for unit first, ``lease`` is on its folio, and is filling; ``wait`` returns when that folio is filled.
    ``result``: of a caller that wants a copy of all that is filled (``Steps.deliver``); or None.
    """
    def __call__(self):
        cdef Filler filler = self.filler
        if filler is None:
            raise TypeError("requests are made by a Filler")
        lease, self.lease = self.lease, None
        self.dequeue()
        context, self.context = self.context, None
        try:
            if context is not None:
                context.run(filler.serve, self, lease)
            else:
                filler._serve(self.mapping, lease, self.first, self.end, self.mark, self)
        except BaseException as error:
            self.tell(error)
        else:
            self.tell(None)
        self.leave_group()

    def __del__(self):
        self.dequeue()
        self.leave_group()

    cdef int dequeue(self) except -1:
        """It is queued no longer, since it is served, or dropped."""
        if self.is_ahead and self.epoch == self.mapping.epoch():
            with cython.critical_section(self.filler.guard):
                self.filler.queued -= 1
        self.is_ahead = False
        return 0

    cdef int leave_group(self) except -1:
        """It has been served, or is dropped."""
        group, self.group = self.group, None
        return 0 if group is None else (<Group>group).leave()

    cdef int wait(self, u64 timeout_ns) except -1:
        """Return FILLED, or LATE after timeout_ns. Raises the source's error, and what a signal handler raises."""
        cdef u64 deadline = atomics.now_ns() + timeout_ns
        cdef u64 now = 0
        # In slices: a signal that arrives just before the lock's system call does not interrupt it, and compiled code runs no
        # handlers by itself.
        while not self.told.acquire(True, min(deadline - min(now, deadline), layout.WAIT_SLICE_NS) / 1e9):
            PyErr_CheckSignals()
            now = atomics.now_ns()
            if now >= deadline:
                return LATE
        if self.error is not None:
            raise self.error
        return FILLED

    cdef int tell(self, error) except -1:
        """Wake the caller that waits: the folio is filled (error is None), or the source has failed. Later calls do nothing."""
        told, self.told_by = self.told_by, None
        if told is not None:
            self.error = error
            told.release()
        return 0


@cython.final
@cython.auto_pickle(False)
cdef class Group:
    """Requests for whose end a reader waits, so that it wakes once for all of them."""
    def __init__(self):
        raise TypeError("a group is of requests, which are made by a Filler")

    cdef int join(self) except -1:
        with cython.critical_section(self):
            self.left += 1
        return 0

    cdef int leave(self) except -1:
        cdef bint is_last
        with cython.critical_section(self):
            self.left -= 1
            is_last = self.left == 0
        if is_last:
            self.gate.release()
        return 0

    def wait(self):
        """Return when all of its requests have been served or dropped, or after the pool's ``fill_timeout``. After that, no
        call waits: most of them may have been served. Raises what a signal handler raises."""
        cdef u64 now = atomics.now_ns()
        cdef u64 deadline = now + self.filler._patience()
        while self.left and not self.is_late and self.epoch == self.mapping.epoch():
            if self.gate.acquire(True, min(deadline - now, layout.WAIT_SLICE_NS) / 1e9):
                self.gate.release()
            PyErr_CheckSignals()
            now = atomics.now_ns()
            self.is_late = now >= deadline


cdef Group _group(Filler filler, Steps mapping):
    """Return a group that ends when its maker leaves it, too."""
    cdef Group group = Group.__new__(Group)
    group.filler, group.mapping, group.epoch, group.gate, group.left = filler, mapping, mapping.epoch(), allocate_lock(), 1
    group.gate.acquire()
    return group


@cython.auto_pickle(False)
cdef class Filler(Calls):
    """Fills the folios of one mapping from its source.

    readahead: decides how far to read; ``mark`` is the unit that it marked last. pool: has an ``engine``, too.
    ``request_size`` may be set to the bytes of a request, if there are several; 0 means 1 to 4 MiB. In critical sections of
    ``guard``, the numbers of what is queued are read and changed.
    """
    def __init__(self, key, pool, read, readinto, source, bint concurrent, readahead):
        Calls.__init__(self, key, pool, read, readinto, source, concurrent)
        self.readahead, self.wanted = readahead, deque()
        self.call_read_ranges = getattr(source, "read_ranges", None) if concurrent else None
        if self.call_read_ranges is not None:
            from .several import server  # here: it imports this module, and there may be no descriptor for that later

            self.server = server
        self.mark = layout.HASH_MASK

    cdef object miss(self, Steps mapping, u64 index, u64 wanted, result=None):
        """Fill the missing folio of unit index. Return a lease on its units from index on. wanted: how many units the caller is
        about to read. result: where threads of the engine deliver what they fill, too. Raises what the source raises."""
        cdef u64 stop
        count, mark = self._plan(mapping, index, wanted)
        stop = self._first_stop(mapping, index, count)
        for _ in range(layout.GRAB_TRIES):
            lease = mapping.grab(index, stop - index)
            if lease is None and mapping.reap():
                lease = mapping.grab(index, stop - index)  # reaping has freed pages of dead processes
            if lease is None:
                break
            if mapping.is_filling(lease):
                lease = self._fill_missing(mapping, lease, index, count, mark, result)
                if lease is None:
                    return self._read_late(mapping, index)
                # The folio is not marked referenced: a scan, which reads each folio once, must not look like use to reclaim.
                mapping.narrow(lease, index)
                mapping.previous = index + min(wanted, mapping.units(lease)) - 1
                return lease
            lease = self._join(mapping, lease, index, wanted)
            if lease is not None:
                return lease
        return self.read_privately(mapping, index)

    cdef object join(self, Steps mapping, lease, u64 index, u64 wanted):
        """Return what ``miss`` returns, when another client or thread is filling the lease's folio already."""
        lease = self._join(mapping, lease, index, wanted)
        return self.miss(mapping, index, wanted) if lease is None else lease

    cdef object _join(self, Steps mapping, lease, u64 index, u64 wanted):
        """Wait for another filler. Return the lease when its folio is filled, or None if the filler withdrew the folio.

        If the filler takes too long, return a lease on a private copy; if it has died, fill the folio here. If its source
        failed, raise what ``failed`` returns.
        """
        cdef bint nested = _nested(mapping, index, False) > 0
        cdef u64 begin = atomics.now_ns()
        if not nested:
            mapping.count(layout.COUNT_WAITS, 1)
        # nested: this thread may itself be the filler
        end = mapping.wait(lease, 0 if nested else self._patience_for(mapping, index))
        if not nested:
            mapping.waited(atomics.now_ns() - begin)
        if end == OURS:
            first = mapping.widen(lease)
            if mapping.bytes(lease) == 0:  # its words are damaged: what to fill is not known
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
        """Raise the error that a folio's filler has recorded about its source. Do nothing if there is no record."""
        cdef bytes told = mapping.explanation(lease)
        reason = None if told is None else failure.read(told)
        if reason is not None:
            raise self.failed(reason, index * mapping.unit_size)
        return 0

    # Planning.

    cdef object _fill_missing(self, Steps mapping, lease, u64 index, u64 count, mark, result):
        """Fill the folio that a reader has missed, and start filling the folios after it, up to unit index + count.

        Return the folio's lease, or None if the fill takes longer than ``fill_timeout``.
        """
        cdef u64 stop = self._first_stop(mapping, index, count)
        cdef Request request
        mapping.count(layout.COUNT_MISSES, 1)
        if not self.concurrent:
            self._fill(mapping, lease, index, count, mark, None)
            return lease
        if index + count > stop:
            self._ask_ahead(mapping, stop, index + count, mark, False, count, result)
        if get_ident() == threading.main_thread().ident:
            request = self._request(mapping, index, stop, mark, False)
            request.told = request.told_by = allocate_lock()
            request.told.acquire()
            request.lease, request.result = lease, result
            if self.pool.engine.run(request):
                return lease if request.wait(self._patience()) == FILLED else None
            request.lease = None
        self._serve(mapping, lease, index, stop, mark, None)
        return lease

    cdef object _plan(self, Steps mapping, u64 index, u64 wanted):
        """Return how many units to read from index on, and which one to mark, or None."""
        cdef u64 queued = 0
        with cython.critical_section(self.guard):
            if self.queued_epoch != mapping.epoch():  # the parent's requests are not this process's
                self.queued, self.queued_epoch = 0, mapping.epoch()
            if self.queued and self.queued_first <= index < self.queued_end:  # requests are queued
                queued = self.queued_end - index
        if queued:
            return min(wanted, queued, self._request_units(mapping, wanted)), None
        count, mark = self.readahead.on_miss(index, wanted, mapping.previous if mapping.previous < mapping.unit_count else None)
        self.mark = layout.HASH_MASK if mark is None else mark
        if self.concurrent and count == wanted < AROUND and self.readahead.most > 1 and self._is_dense(mapping, index):
            count = AROUND
        return count, mark

    cdef bint _is_dense(self, Steps mapping, u64 index) except -1:
        """Return True if so much around unit index is cached that the rest is likely to be wanted, too.

        A few reads at random places stay below that limit, and fetch only what they ask for.
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
        """Return True if the use of unit last of a marked folio, of units first .. behind - 1, should start the next window.

        Repeated reads of a header should not, even if the header's folio is large. Which unit another process has marked is not
        known, only the folio.
        """
        if first <= self.mark < behind:
            return last >= self.mark
        return last > first or behind - first == 1

    cdef int read_ahead_from(self, Steps mapping, u64 first, u64 behind) except -1:
        """Start reading the next window: the marked folio of units first .. behind - 1 of the last window has been used."""
        cdef u64 missing = behind
        cdef u64 end
        cdef u64 there = 1
        if not self.concurrent:
            return 0
        end = min(first + <u64>self.readahead.most, mapping.unit_count)
        while missing < end and there:
            there = mapping.probe(missing, False)
            missing += there
        with cython.critical_section(self.guard):
            if self.queued and self.queued_epoch == mapping.epoch() and self.queued_first <= missing < self.queued_end:
                missing = self.queued_end  # a queued request will read it, with the mark of its own window
        start, count, mark = self.readahead.on_mark(first, behind, missing)
        self.mark = layout.HASH_MASK if mark is None else mark
        return self._ask_ahead(mapping, start, min(<u64>start + <u64>count, mapping.unit_count), mark, True, count)

    cdef u64 keep_ahead(self, Steps mapping, u64 index, u64 asked, u64 end, u64 most, result=None) except? 0:
        """Keep up to ``most`` units requested for a reader of all units up to ``end``, which is at unit index now. result: see
        ``miss``.

        ``asked`` is 0, or what the last call for this reader returned: the end of what has been requested."""
        cdef u64 more = max(most // KEPT_SHARE, min(most // 2, REQUEST_MIN // mapping.unit_size), <u64>1)
        if not self.concurrent:
            return 0
        with cython.critical_section(self.guard):
            if self.queued_epoch == mapping.epoch() and self.queued_first <= index < self.queued_end:
                asked = max(asked, self.queued_end)
        if index < asked < end and asked - index + more <= most:
            more = min(asked + more, end)
            self._ask_ahead(mapping, asked, more, None, False, most, result)
            asked = more
        return asked

    def read_runs(self, Steps mapping not None, list runs, u64 of=0, result=None):
        """Queue requests for runs of units, (first, end) each, in that order, if several threads may call the source. of: how
        many units are requested at a time, if that is more than a run has. result: see ``miss``. Return for each run a group to
        wait for, or None.

        Readers of the units between the first and the last of them do not read ahead while any of the requests is queued.
        """
        cdef u64 least, most, first, end, of_these, size = 0, units = 0, request_units = 0
        cdef Group group = None
        cdef list groups = []
        if not self.concurrent or not runs:
            return [None] * len(runs)
        try:
            for first, end in runs:
                if self.call_read_ranges is not None and (group is None or size + (end - first) * mapping.unit_size > GROUP):
                    if group is not None:
                        group.leave()
                    group, size = _group(self, mapping), 0
                size += (end - first) * mapping.unit_size
                groups.append(group)
                of_these = max(of, end - first if first < end else 1)
                if of_these != units:
                    units, request_units = of_these, self._request_units(mapping, of_these)
                self._queue(mapping, first, end, None, False, request_units, result, group)
        finally:
            self._start_servers()
        if group is not None:
            group.leave()
        least, most = min(runs)[0], max([end for _, end in runs])
        with cython.critical_section(self.guard):
            if self.queued_epoch == mapping.epoch():
                self.queued_first, self.queued_end = min(self.queued_first, least), max(self.queued_end, most)
        return groups

    cdef int _ask_ahead(
        self, Steps mapping, u64 first, u64 end, mark, bint is_readahead, u64 of, result=None
    ) except -1:
        """Queue requests for units first .. end - 1, which the engine serves when it has a free thread. of: how many units are
        requested at a time, if that is more."""
        try:
            return self._queue(
                mapping, first, end, mark, is_readahead,
                self._request_units(mapping, max(of, end - first if first < end else 1)), result, None,
            )
        finally:
            self._start_servers()

    cdef int _queue(
        self, Steps mapping, u64 first, u64 end, mark, bint is_readahead, u64 size, result, Group group
    ) except -1:
        """Queue requests of ``size`` units for units first .. end - 1. The caller then calls ``_start_servers``."""
        cdef u64 stop
        cdef Request request
        end = min(end, mapping.unit_count)
        with cython.critical_section(self.guard):
            if self.queued_epoch != mapping.epoch() or not self.queued:
                self.queued, self.queued_epoch, self.queued_first = 0, mapping.epoch(), first
            self.queued_end = end
            if self.wanted_epoch != mapping.epoch():
                self.wanted, self.servers, self.wanted_epoch = deque(), 0, mapping.epoch()
        while first < end:
            stop = min((first // size + 1) * size, end)
            request = self._request(mapping, first, stop, mark, is_readahead)
            request.is_ahead, request.result = True, result
            if group is not None:
                group.join()
                request.group = group
            with cython.critical_section(self.guard):
                self.queued += 1
            if self.call_read_ranges is None:
                self.pool.engine.later(request)
            else:
                self.wanted.append(request)
                request = None  # it has begun when no server has it
            first = stop
        return 0

    cdef int _start_servers(self) except -1:
        """Have as many more threads of the engine serve what is wanted as there should be. If there is none, or the engine is
        closed, no one must wait for what is wanted: those who read it request it."""
        if self.call_read_ranges is None:
            return 0
        ours = self.pool.engine
        while self._counts_server(ours):
            if not ours.later(self.server(self)):
                self._drop_wanted()
        if ours.closed:
            self._drop_wanted()
        return 0

    cdef bint _counts_server(self, ours) except -1:
        """Count one more server, and return True, if there should be more. ours: the engine."""
        cdef bint counts
        cdef u32 most = ours.servers, at_once = ours.at_once
        with cython.critical_section(self.guard):
            counts = self.servers < most and self.servers * at_once < <u32>len(self.wanted)
            self.servers += counts
        return counts

    cdef Request _next_wanted(self, ours):
        """Return the next request for a server, which has begun; None if there is none. ours: the engine."""
        try:
            if ours.closed:
                self._drop_wanted()
            return self.wanted.popleft()
        except IndexError:
            return None

    cdef int _drop_wanted(self) except -1:
        """The engine serves no more requests: no one must wait for one."""
        wanted, self.wanted = self.wanted, deque()
        wanted.clear()
        return 0

    cdef u64 _request_units(self, Steps mapping, u64 units) except? 0:
        """Return how many units each request has, if ``units`` units are read in several requests."""
        cdef u64 size = self.request_size, length = units * mapping.unit_size
        if not size:
            size = self._request_size(length) if length > REQUEST_MIN else REQUEST_MIN
        return max(size // mapping.unit_size, <u64>1)

    cdef u64 _request_size(self, u64 length) except? 0:
        """Return how many bytes each request has, if ``length`` bytes are read in several requests.

        Of a slow origin, all of them are requested at once, if REQUESTS requests can be that large. Of others, all connections
        are used twice: some requests take longer than others."""
        cdef u64 size = REQUEST_MAX, least = REQUEST_MIN, at_once = REQUESTS
        latency = getattr(self.origin, "latency", None)
        if latency is not None and <double>latency < QUICK:
            size, least = QUICK_REQUEST_MAX, QUICK_REQUEST_MIN
        elif latency is not None and <double>latency >= SLOW:
            at_once = REQUESTS // 2
        while size > least and size * at_once > length:
            size >>= 1
        return size

    cdef u64 _first_stop(self, Steps mapping, u64 index, u64 count) except? 0:
        """Return the end of the first request, if ``count`` units are read from index on. Requests begin at multiples of their
        size."""
        cdef u64 size = self._request_units(mapping, count) if self.concurrent else count
        return min(index + count if count <= size else (index // size + 1) * size, mapping.unit_count)

    cdef Request _request(self, Steps mapping, u64 first, u64 end, mark, bint is_readahead):
        cdef Request request = Request.__new__(Request)
        request.filler, request.mapping, request.epoch = self, mapping, mapping.epoch()
        request.first, request.end, request.mark, request.is_readahead = first, end, mark, is_readahead
        if spans.emit is not None:
            request.context = spans.context()
        return request

    def serve(self, Request request not None, lease):
        """Fill what a request is for, in the context of the read that has caused it."""
        self._serve(request.mapping, lease, request.first, request.end, request.mark, request)

    # Filling.

    cdef int _serve(self, Steps mapping, lease, u64 index, u64 end, mark, Request request) except -1:
        """Fill those of units index .. end - 1 that are missing. lease: on the folio of unit index, and filling; or None."""
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
        """Fill the folio that has unit index, whose lease is filling, and the missing folios after it, up to unit
        index + count. Return how many units from index on are filled."""
        cdef list run = [lease]
        cdef u64 first = mapping.widen(lease)
        cdef u64 behind = first
        self._extend(mapping, run, first, max(index + count, first + mapping.units(lease)))
        for lease in run:  # before any is complete: the caller then narrows its lease
            behind += mapping.units(lease)
        self._fill_locked(mapping, run, first, behind - first, mark, request)
        return behind - index

    cdef int _fill_locked(self, Steps mapping, list run, u64 first, u64 count, mark, Request request) except -1:
        """Fill a run of folios, whose leases are filling, of so many units from unit first on."""
        cdef list reads = _reads()
        cdef _Reading reading = _reading(mapping, first, count, False)
        reads.append(reading)
        try:
            self._fill_run(mapping, run, first, mark, request)
        except BaseException:
            for lease in run:
                if mapping.is_filling(lease):
                    mapping.withdraw(lease)
            mapping.count(layout.COUNT_ERRORS, 1)
            raise
        finally:
            reads.remove(reading)
        return 0

    cdef u64 _filled(self, Steps mapping, lease, u64 index, mark, Request request) except? 0:
        """Complete the folio that begins at unit index, which has its content now. Return the unit after it."""
        cdef u64 behind = index + mapping.units(lease)
        cdef u64 length = mapping.bytes(lease)
        if request is not None and request.result is not None:
            mapping.deliver(lease, request.result)
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
        """Add missing folios to the run, right after its first one, which begins at unit index, up to unit end."""
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
        """Fill a run of folios with one call of the source; with one call each if the source has only ``readinto``. A failure
        is recorded for the clients that wait for one of the folios."""
        cdef bytes reason
        cdef u64 count = 0, length = 0
        cdef u64 at = index
        cdef u64 begin
        cdef bint done = False
        for lease in run:
            count += mapping.units(lease)
            length += mapping.bytes(lease)
        lock = self._take_turn(mapping)
        begin = atomics.now_ns()
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
            done = True
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
            mapping.request(self.kind, atomics.now_ns() - begin, length if done else 0, not done)
        return 0

    cdef int _stream_run(self, Steps mapping, list run, u64 index, mark, Request request) except -1:
        """Fill a run with the source's ``read_into``. Each folio is completed as soon as the source has filled it."""
        cdef Py_ssize_t number = 0
        cdef Py_ssize_t length = sum([mapping.bytes(lease) for lease in run])
        cdef u64 at = index
        cdef list targets = [mapping.target(lease, not self.is_exact) for lease in run]
        cdef list views = [memoryview(target) for target in targets]
        answer = None
        for lease in run:
            mapping.populate(lease)
        try:
            answer = self._begin(index * mapping.unit_size, views)
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
            raise self._kept()
        return 0

    cdef object _kept(self):
        return SourceError(f"the source of {quoted(self.key)} kept the buffer that it was given to fill")

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
        target = mapping.target(lease, True)
        view = PyMemoryView_FromObject(target)
        try:
            self._readinto(mapping, index * mapping.unit_size, view)
        except BaseException:
            release(view)  # the traceback's frames may keep the view
            raise
        self._release_view(view, target)
        return 0
