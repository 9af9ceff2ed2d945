"""The miss, for event loops: what ``miss.Filler.miss`` does in one thread, divided into steps between which no thread waits.

A `Miss` is one task's wait for one lease. The loop's thread makes it, starts it and awaits its future. Everything that may
block happens in other threads, which pass the result to the loop:

* ``_begin``, in a thread of the engine: find the folio, or add it. If this process has to fill it, that thread fills it,
  together with the folios after it that were planned. The task continues as soon as its own folio is filled. The fill belongs
  to the engine, and continues if the task is cancelled. If the source is a coroutine, the loop that is its home does this, and
  no thread waits for the fill (``flow``, ``homes``).
* ``look``, in the waiter's thread (``waiter``): another client or thread is filling the folio. No engine thread waits for it.
* ``_take_over``, in a thread of the engine: the filler has died.
* ``late``, in the loop: the wait takes longer than ``fill_timeout``. The bytes are then read privately, or an error says what
  hangs.

If only one thread at a time may call a source, one thread of the engine serves all misses of the source, one after the other.

An exception drops the variables of compiled frames, and a lease that is dropped while it is filling withdraws its folio. So
such a lease is only in compiled frames, or in a `Miss` between two of its steps.
"""
cimport cython
from libc.stdint cimport uint32_t as u32, uint64_t as u64

from .flow cimport Listener, new_flow
from .miss cimport Filler
from .steps cimport FAILED, FILLED, LATE, OURS, Steps
from .waiter cimport Sleeper, sleep_for, wake
from ..mm cimport atomics, layout

from collections import deque

from ..errors import FoliocacheError, SourceError
from ..sizes import quoted
from ..observe import spans
from .source import way_of

cdef enum Step:
    BEGIN
    TAKE_OVER
    PRIVATE
    TOO_LATE


@cython.final
@cython.auto_pickle(False)
cdef class Miss(Sleeper):
    """One wait for a lease on unit ``index``, and up to ``wanted`` units. ``future`` is done when ``take`` has a result.

    begun: a thread of the engine, or the waiter's thread, has started to work on it. told: it has its ``result``, or is
    abandoned. lease: on the folio that another is filling. While the waiter's thread waits for that, no other changes it.
    """
    def __init__(self):
        raise TypeError("a wait for a lease comes from a mapping")

    def start(self, loop):
        """In the loop's thread: begin to wait. Return the future. Raises FoliocacheError if the process can have no thread."""
        self.loop, self.future, self.engine = loop, loop.create_future(), self.filler.pool.engine
        self.progress = self._seen()
        self.engine.waiting.add(self)
        try:
            patience = self.filler._patience() if self.lease is None else self.filler._patience_for(self.mapping, self.index)
            self.timer = loop.call_later(patience / 1e9, self.late)
            if self.filler.pool.closed:
                self.close()
            elif self.lease is not None:
                self._wait(self.lease)
            else:
                self._submit(BEGIN)
        except BaseException:
            self.abandon()
            raise
        return self.future

    def take(self):
        """Return the lease, or raise the error with which the wait ended."""
        lease, self.result = self.result, None
        error, self.error = self.error, None
        if error is not None:
            raise error
        return lease

    def abandon(self):
        """End the wait without a result. A fill that has begun continues."""
        cdef bint waits
        with cython.critical_section(self):
            waits = not self.told
            self.told = True
        self.engine.waiting.discard(self)
        timer, self.timer, self.future = self.timer, None, None
        if timer is not None:
            timer.cancel()
        if not waits:
            self.result = self.error = None
        if self.word != NULL:
            wake(self)  # it drops its lease

    def deliver(self):
        """In the loop's thread: mark the future done."""
        if self.future is not None and not self.future.done():
            self.future.set_result(None)

    def close(self):
        """End the wait with a FoliocacheError: the pool has been closed."""
        self._tell(None, FoliocacheError(
            f"pool {self.filler.pool.name!r} was closed in this process while {quoted(self.filler.key)} was awaited; "
            "open it again"
        ))

    def late(self):
        """In the loop's thread, after ``fill_timeout``: read privately, fail, or wait longer if others make progress."""
        cdef u64 progress = self._seen()
        if self.told:
            return
        if not self.begun and progress == self.progress:
            self._tell(None, self._stuck())
        elif self.begun:
            if not self.engine.submit(_step(self, TOO_LATE)):
                self._tell(None, self._stuck())
        else:
            self.progress = progress
            self.timer = self.loop.call_later(self.filler._patience() / 1e9, self.late)

    def share_failure(self, identity, u64 first, u64 end, error):
        """The source has failed for units first .. end - 1 of an object: fail with the same error if this waits for one."""
        if self.told or not first <= self.index < end or self.mapping.identity != identity:
            return
        with cython.critical_section(self):
            if self.word != NULL:
                self.failure = error  # the folio's flags end the wait; another process may be filling it
                return
        if not self.begun:
            self._tell(None, error)

    def release(self):
        """Called by the request: it has filled the wanted folio, or has failed."""
        lease, self.filled = self.filled, None
        request, self.request = self.request, None
        if request.error is None:
            self._got(lease)
        else:
            self._tell(None, request.error)

    cdef int _submit(self, int step) except -1:
        """Run a step at the source's home if it is a coroutine, else in a thread of the engine. Raises FoliocacheError
        if there is no thread."""
        cdef Filler filler = self.filler
        call = _step(self, step)
        self.way = way_of(*filler.given[:3]) if step == BEGIN and filler.concurrent else None
        if self.way is not None and self.way.begin(call):
            return 0
        self.way = None
        if not filler.concurrent:
            _turns_of(filler, self.mapping.epoch()).add(call, self.engine)
        elif not self.engine.submit(call):
            raise _no_threads(filler)
        return 0

    cdef int _run(self, int step) except -1:
        if step == BEGIN and self.told:
            return 0
        try:
            self.begun = True
            if step == BEGIN:
                self._begin()
            elif step == TAKE_OVER:
                self._take_over()
            elif step == PRIVATE:
                self._tell(self.filler.read_privately(self.mapping, self.index), None)
            elif not self.told:
                self._tell(self.filler._read_late(self.mapping, self.index), None)
        except BaseException as error:
            self._tell(None, error)
        return 0

    cdef int _begin(self) except -1:
        cdef Steps mapping = self.mapping
        cdef u64 stop
        count, mark = 1, None
        if not mapping.probe(self.index, True):  # another miss may have filled it while this one waited for a thread
            count, mark = self.filler._plan(mapping, self.index, self.wanted)
        stop = self.filler._first_stop(mapping, self.index, count)
        lease = mapping.grab(self.index, stop - self.index)
        if lease is None and self.way is not None:
            self.way = None  # what follows may take long, so a thread does it
            if not self.engine.submit(_step(self, BEGIN)):
                raise _no_threads(self.filler)
            return 0
        if lease is None and mapping.reap():
            lease = mapping.grab(self.index, stop - self.index)  # reaping has freed pages of dead processes
        if lease is None:
            return self._tell(self.filler.read_privately(mapping, self.index), None)
        return self._fill(lease, stop, count, mark) if mapping.is_filling(lease) else self._wait(lease)

    cdef int _fill(self, lease, u64 stop, u64 count, mark) except -1:
        """Fill the folio of a lease, and start filling the folios after it that are wanted, too."""
        cdef Steps mapping = self.mapping
        cdef Filler filler = self.filler
        cdef u64 index = self.index
        try:
            mapping.count(layout.COUNT_MISSES, 1)
            if filler.concurrent and index + count > stop:
                filler._ask_ahead(mapping, stop, index + count, mark, False, count)
            if self.way is not None:
                return self._flow(lease, stop, mark)
            self.request = filler._request(mapping, index, stop, mark, False)
        except BaseException:
            mapping.withdraw(lease)
            raise
        request = self.request
        self.filled, request.lease, request.told_by = lease, lease, self
        lease = None
        request()
        return 0

    cdef int _flow(self, lease, u64 stop, mark) except -1:
        """At the source's home: have it fill the folio of a lease, and those after it up to unit ``stop``."""
        cdef _Told told = _Told.__new__(_Told)
        told.miss = self
        self.way.fill(new_flow(self.filler, self.mapping, lease, self.index, stop, mark, told))
        return 0

    cdef int _take_over(self) except -1:
        """Fill a folio whose filler has died."""
        cdef Steps mapping = self.mapping
        cdef u64 first
        lease, self.lease = self.lease, None
        first = mapping.widen(lease)
        if self.told or mapping.bytes(lease) == 0:  # its words are damaged: what to fill is not known
            mapping.withdraw(lease)
            return 0 if self.told else self._tell(self.filler.read_privately(mapping, self.index), None)
        self.filler._fill(mapping, lease, first, 1, None, None)
        self._got(lease)
        mapping.reap()
        return 0

    cdef int _wait(self, lease) except -1:
        """Begin to wait for a folio that another client or thread is filling."""
        self.lease, self.begun = lease, True
        self.word = self.mapping.sleeper(lease, &self.expected)
        if self.word == NULL:
            return self._woken(self.mapping.wait(lease, 0))
        self.mapping.count(layout.COUNT_WAITS, 1)
        self.since = atomics.now_ns()
        sleep_for(self)
        return 0

    cdef bint look(self, bint closely) except -1:
        cdef u32 *word
        cdef int end
        if self.told:
            self.lease = None
            return True
        while True:
            word = self.mapping.sleeper(self.lease, &self.expected)
            if word != NULL and not closely:
                return False
            end = self.mapping.wait(self.lease, 0)  # checks whether the filler is alive
            if end != LATE:
                self._woken(end)
                return True
            closely = False

    cdef int fail(self, error) except -1:
        self.lease = None
        return self._tell(None, error)

    cdef int _woken(self, int end) except -1:
        """Take the next step after the other filler's end, which is FILLED, FAILED, OURS or FOREIGN."""
        self.word = NULL
        if self.since:
            self.mapping.waited(atomics.now_ns() - self.since)
            self.since = 0
        if end == OURS:
            return self._submit(TAKE_OVER)
        lease, self.lease = self.lease, None
        if end == FILLED:
            return self._got(lease)
        return self._failed(lease) if end == FAILED else self._submit(PRIVATE)

    cdef int _failed(self, lease) except -1:
        with cython.critical_section(self):
            failure = self.failure
        if failure is not None:
            return self._tell(None, failure)
        self.filler._raise_failure(self.mapping, lease, self.index)
        self.tries += 1
        return self._submit(BEGIN if self.tries < <int>layout.GRAB_TRIES else PRIVATE)

    cdef int _got(self, lease) except -1:
        """End the wait with a lease, whose folio is filled."""
        self.mapping.narrow(lease, self.index)
        self.mapping.previous = self.index + min(self.wanted, self.mapping.units(lease)) - 1
        return self._tell(lease, None)

    cdef int _tell(self, lease, error) except -1:
        """End the wait with a lease or an error. A result that comes after the end is dropped."""
        with cython.critical_section(self):
            if self.told:
                return 0
            self.result, self.error = lease, error
            self.told = True
        self.engine.waiting.discard(self)
        try:
            self.loop.call_soon_threadsafe(self.deliver)
        except RuntimeError:  # the loop has been closed, and all its tasks are gone
            self.result = self.error = None
        return 0

    cdef u64 _seen(self) except? 0xFFFFFFFFFFFFFFFF:
        """Return a number that grows while earlier requests make progress, before a miss that has not begun."""
        if self.way is not None:
            return self.way.served
        return self.engine.served if self.filler.concurrent else self.filler.calls

    cdef object _stuck(self):
        return SourceError(
            f"{quoted(self.filler.key)} at offset {self.index * self.mapping.unit_size}: the calls of sources that come before "
            f"have not returned for {self.filler.pool.fill_timeout:g} s; the origin hangs, or it needs concurrent=True"
        )


@cython.final
@cython.auto_pickle(False)
cdef class _Told(Listener):
    """What a flow tells its Miss."""
    cdef Miss miss

    cdef int tell(self, lease, error) except -1:
        return self.miss._got(lease) if error is None else self.miss._tell(None, error)


@cython.final
@cython.auto_pickle(False)
cdef class _Step:
    """One step of a Miss, as a callable for the engine. context: that of the reader, in which its spans are made."""
    cdef Miss miss
    cdef int step
    cdef object context

    def __call__(self):
        context, self.context = self.context, None
        if context is not None:
            context.run(self)
        else:
            self.miss._run(self.step)


cdef _Step _step(Miss miss, int step):
    cdef _Step call = _Step.__new__(_Step)
    call.miss, call.step = miss, step
    if spans.emit is not None:
        call.context = spans.context()
    return call


@cython.final
@cython.auto_pickle(False)
cdef class _Turns:
    """The queued steps of the misses of a source that one thread at a time may call."""
    cdef object steps, engine
    cdef u32 epoch
    cdef bint serving

    cdef int add(self, _Step step, engine) except -1:
        with cython.critical_section(self):
            self.steps.append(step)
            self.engine = engine
            if self.serving:
                return 0
            self.serving = True
        return self._serve(step.miss.filler)

    cdef int _serve(self, filler) except -1:
        if not self.engine.submit(self):
            with cython.critical_section(self):
                self.serving = False
                self.steps.clear()
            raise _no_threads(filler)
        return 0

    def __call__(self):
        while True:
            with cython.critical_section(self):
                if not self.steps:
                    self.serving = False
                    return
                step = self.steps.popleft()
            step()


cdef _Turns _turns_of(Filler filler, u32 epoch):
    """Return the filler's _Turns in this process."""
    cdef _Turns turns
    with cython.critical_section(filler.guard):
        turns = filler.turns
        if turns is None or turns.epoch != epoch:
            turns = _Turns.__new__(_Turns)
            turns.steps, turns.epoch = deque(), epoch
            filler.turns = turns
        return turns


@cython.final
@cython.auto_pickle(False)
cdef class _Ahead:
    """A callable for the engine: read the next window, after a hit on the mark of the last one."""
    cdef Filler filler
    cdef Steps mapping
    cdef u64 first, behind

    def __call__(self):
        self.filler.read_ahead_from(self.mapping, self.first, self.behind)


def _no_threads(Filler filler):
    if filler.pool.closed:
        return FoliocacheError(f"pool {filler.pool.name!r} has been closed in this process; open it again")
    return FoliocacheError(f"{quoted(filler.key)} is not cached, and this process can have no thread that reads it")


cdef Miss new_miss(Filler filler, Steps mapping, u64 index, u64 wanted, lease):
    """Return a Miss, which is not started. lease: on the folio, if another client or thread is filling it; or None."""
    cdef Miss miss = Miss.__new__(Miss)
    miss.filler, miss.mapping, miss.index, miss.wanted, miss.lease = filler, mapping, index, wanted, lease
    return miss


cdef int read_ahead(Filler filler, Steps mapping, u64 first, u64 behind) except -1:
    """Do what ``Filler.read_ahead_from`` does, in a thread of the engine, because that probes all folios of a window."""
    cdef _Ahead ahead
    if filler.concurrent:
        ahead = _Ahead.__new__(_Ahead)
        ahead.filler, ahead.mapping, ahead.first, ahead.behind = filler, mapping, first, behind
        filler.pool.engine.submit(ahead)
    return 0
