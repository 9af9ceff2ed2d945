"""The miss, for event loops: what ``miss.Filler.miss`` does in a thread that waits, in steps between which no thread waits.

A `Miss` is one wait of one task for one lease. Its loop's thread makes it, starts it and awaits its future. All that may block
is done in other threads, and they tell the loop how it ends:

* ``_begin``, in a thread of the engine: the folio is looked for and added. If it is this process's to fill, that thread fills
  it, and what was planned with it, to the end; the task goes on as soon as it has its folio. The fill is the engine's: whether
  anybody still awaits it does not matter to it.
* ``look``, in the waiter's thread (``waiter``): another is filling the folio. No thread of the engine waits for that.
* ``_take_over``, in a thread of the engine: the other has died.
* ``late``, in the loop: it takes longer than ``fill_timeout``. Then the bytes are read privately, or an error says what hangs.

A source that is to be called by one thread at a time has one thread of the engine serve its misses, one after the other.

The variables of compiled frames go with an exception, so a lease that is filling is in those, or in a `Miss` between two of its
steps; one that is dropped withdraws its folio.
"""
cimport cython
from libc.stdint cimport uint32_t as u32, uint64_t as u64

from .miss cimport Filler
from .steps cimport FAILED, FILLED, LATE, OURS, Steps
from .waiter cimport Sleeper, sleep_for, wake
from ..mm cimport layout

from collections import deque

from ..errors import FoliocacheError, SourceError

cdef enum Step:
    BEGIN
    TAKE_OVER
    PRIVATE
    TOO_LATE


@cython.final
@cython.auto_pickle(False)
cdef class Miss(Sleeper):
    """One wait for a lease on unit ``index``, and up to ``wanted`` units. ``future`` ends when there is something to ``take``.

    begun: a thread of the engine, or the waiter's, has it or had it. told: it is over.
    """
    def __init__(self):
        raise TypeError("a wait for a lease comes from a mapping")

    def start(self, loop):
        """In the loop's thread: begin to wait. Returns the future. Raises FoliocacheError if no wait is possible."""
        self.loop, self.future, self.engine = loop, loop.create_future(), self.filler.pool.engine
        self.progress = self._seen()
        self.engine.waiting.add(self)
        try:
            self.timer = loop.call_later(self.filler._patience() / 1e9, self.late)
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
        """The lease. Raises what there is to raise."""
        lease, self.lease = self.lease, None
        error, self.error = self.error, None
        if error is not None:
            raise error
        return lease

    def abandon(self):
        """Nobody awaits it any more. What has begun goes on."""
        cdef bint waits = not self.told
        self.told = True
        self.engine.waiting.discard(self)
        timer, self.timer, self.future = self.timer, None, None
        if timer is not None:
            timer.cancel()
        if not waits:
            self.lease = self.error = None
        elif self.word != NULL:
            wake(self)

    def deliver(self):
        """In the loop's thread: the wait is over."""
        if self.future is not None and not self.future.done():
            self.future.set_result(None)

    def close(self):
        """The pool has been closed."""
        self._tell(None, FoliocacheError(
            f"pool {self.filler.pool.name!r} was closed in this process while {self.filler.key!r} was awaited; open it again"
        ))

    def late(self):
        """In the loop's thread: it takes longer than ``fill_timeout``."""
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
        """The source has failed to give units first .. end - 1 of an object: that is the answer to all who await one now."""
        if self.told or not first <= self.index < end or self.mapping.identity != identity:
            return
        if self.word != NULL:
            self.failure = error  # the folio tells, and may be another's
        elif not self.begun:
            self._tell(None, error)

    def release(self):
        """A request has the wanted folio, or has failed."""
        lease, self.filled = self.filled, None
        request, self.request = self.request, None
        if request.error is None:
            self._got(lease)
        else:
            self._tell(None, request.error)

    cdef int _submit(self, int step) except -1:
        """Have a step taken in a thread of the engine."""
        cdef Filler filler = self.filler
        if not filler.concurrent:
            _turns_of(filler, self.mapping.epoch()).add(_step(self, step), self.engine)
        elif not self.engine.submit(_step(self, step)):
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
        if not mapping.probe(self.index, True):  # one that waited for its turn may find what it wants
            count, mark = self.filler._plan(mapping, self.index, self.wanted)
        stop = self.filler._first_stop(mapping, self.index, count)
        lease = mapping.grab(self.index, stop - self.index)
        if lease is None and mapping.reap():
            lease = mapping.grab(self.index, stop - self.index)  # dead processes still had some room
        if lease is None:
            return self._tell(self.filler.read_privately(mapping, self.index), None)
        return self._fill(lease, stop, count, mark) if mapping.is_filling(lease) else self._wait(lease)

    cdef int _fill(self, lease, u64 stop, u64 count, mark) except -1:
        """Fill the folio of a lease, and have those behind it filled that are about to be asked for."""
        cdef Steps mapping = self.mapping
        cdef Filler filler = self.filler
        cdef u64 index = self.index
        try:
            mapping.count(layout.COUNT_MISSES, 1)
            if filler.concurrent and index + count > stop:
                filler._ask_ahead(mapping, stop, index + count, mark, False)
            self.request = filler._request(mapping, index, stop, mark, False)
        except BaseException:
            mapping.withdraw(lease)
            raise
        request = self.request
        self.filled, request.lease, request.told_by = lease, lease, self
        lease = None
        request()
        return 0

    cdef int _take_over(self) except -1:
        """Fill a folio whose filler has died."""
        cdef Steps mapping = self.mapping
        cdef u64 first
        lease, self.lease = self.lease, None
        first = mapping.widen(lease)
        if self.told or mapping.bytes(lease) == 0:  # its words are damaged: nobody can tell what is to be filled
            mapping.withdraw(lease)
            return 0 if self.told else self._tell(self.filler.read_privately(mapping, self.index), None)
        self.filler._fill(mapping, lease, first, 1, None, None)
        self._got(lease)
        mapping.reap()
        return 0

    cdef int _wait(self, lease) except -1:
        """Wait for a folio that another is filling."""
        self.lease, self.begun = lease, True
        self.word = self.mapping.sleeper(lease, &self.expected)
        if self.word == NULL:
            return self._woken(self.mapping.wait(lease, 0))
        self.mapping.count(layout.COUNT_WAITS, 1)
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
            end = self.mapping.wait(self.lease, 0)  # finds out whether the filler lives
            if end != LATE:
                self._woken(end)
                return True
            closely = False

    cdef int fail(self, error) except -1:
        self.lease = None
        return self._tell(None, error)

    cdef int _woken(self, int end) except -1:
        """The fill that was waited for has ended."""
        self.word = NULL
        if end == OURS:
            return self._submit(TAKE_OVER)
        lease, self.lease = self.lease, None
        if end == FILLED:
            return self._got(lease)
        return self._failed(lease) if end == FAILED else self._submit(PRIVATE)

    cdef int _failed(self, lease) except -1:
        if self.failure is not None:
            return self._tell(None, self.failure)
        self.filler._raise_failure(self.mapping, lease, self.index)
        self.tries += 1
        return self._submit(BEGIN if self.tries < <int>layout.GRAB_TRIES else PRIVATE)

    cdef int _got(self, lease) except -1:
        """The wait is over: the lease is on a folio that is filled."""
        self.mapping.narrow(lease, self.index)
        self.mapping.previous = self.index + min(self.wanted, self.mapping.units(lease)) - 1
        return self._tell(lease, None)

    cdef int _tell(self, lease, error) except -1:
        """The wait is over, unless it is already: what comes too late is dropped."""
        if self.told:
            return 0
        self.told = True
        self.lease, self.error = lease, error
        self.engine.waiting.discard(self)
        try:
            self.loop.call_soon_threadsafe(self.deliver)
        except RuntimeError:  # the loop has been closed, and all its tasks are gone
            self.lease = self.error = None
        return 0

    cdef u64 _seen(self) except? 0xFFFFFFFFFFFFFFFF:
        """Grows as long as those get anywhere who come before a miss that has not begun."""
        return self.engine.served if self.filler.concurrent else self.filler.calls

    cdef object _stuck(self):
        return SourceError(
            f"{self.filler.key!r} at offset {self.index * self.mapping.unit_size}: the calls of sources that come before have "
            f"not returned for {self.filler.pool.fill_timeout:g} s; the origin hangs, or it needs concurrent=True"
        )


@cython.final
@cython.auto_pickle(False)
cdef class _Step:
    """What a thread of the engine calls."""
    cdef Miss miss
    cdef int step

    def __call__(self):
        self.miss._run(self.step)


cdef _Step _step(Miss miss, int step):
    cdef _Step call = _Step.__new__(_Step)
    call.miss, call.step = miss, step
    return call


@cython.final
@cython.auto_pickle(False)
cdef class _Turns:
    """The steps that wait for a source that is called by one thread at a time."""
    cdef object steps, engine
    cdef u32 epoch
    cdef bint serving

    cdef int add(self, _Step step, engine) except -1:
        self.steps.append(step)
        self.engine = engine
        return 0 if self.serving else self._serve(step.miss.filler)

    cdef int _serve(self, filler) except -1:
        self.serving = True
        if not self.engine.submit(self):
            self.serving = False
            self.steps.clear()
            raise _no_threads(filler)
        return 0

    def __call__(self):
        while self.steps:
            self.steps.popleft()()
        self.serving = False


cdef _Turns _turns_of(Filler filler, u32 epoch):
    """Those of this process."""
    cdef _Turns turns = filler.turns
    if turns is None or turns.epoch != epoch:
        turns = filler.turns = _Turns.__new__(_Turns)
        turns.steps, turns.epoch = deque(), epoch
    return turns


@cython.final
@cython.auto_pickle(False)
cdef class _Ahead:
    """A hit has found the mark of a readahead window."""
    cdef Filler filler
    cdef Steps mapping
    cdef u64 first, behind

    def __call__(self):
        self.filler.read_ahead_from(self.mapping, self.first, self.behind)


def _no_threads(Filler filler):
    if filler.pool.closed:
        return FoliocacheError(f"pool {filler.pool.name!r} has been closed in this process; open it again")
    return FoliocacheError(f"{filler.key!r} is not cached, and this process can have no thread that reads it")


cdef Miss new_miss(Filler filler, Steps mapping, u64 index, u64 wanted, lease):
    """A wait for a lease. lease: one on the folio, which another is filling; or None."""
    cdef Miss miss = Miss.__new__(Miss)
    miss.filler, miss.mapping, miss.index, miss.wanted, miss.lease = filler, mapping, index, wanted, lease
    return miss


cdef int read_ahead(Filler filler, Steps mapping, u64 first, u64 behind) except -1:
    """As ``Filler.read_ahead_from``, in a thread of the engine: it looks at a window's folios."""
    cdef _Ahead ahead
    if filler.concurrent:
        ahead = _Ahead.__new__(_Ahead)
        ahead.filler, ahead.mapping, ahead.first, ahead.behind = filler, mapping, first, behind
        filler.pool.engine.submit(ahead)
    return 0
