"""Fills by coroutines: a run of folios that a source fills at its home, a loop, while no thread waits.

It is what ``miss.Filler._fill`` does in one thread, divided at the points where the source awaits. ``homes`` makes the steps,
in the loop's thread: it passes ``buffers`` to the source and calls ``full`` for each of them, or ``put`` with all bytes, and in
the end ``end_with``.

A `Flow` that is dropped before its end drops its leases, and they withdraw their folios.
"""
cimport cython
from cpython.buffer cimport PyBuffer_Release
from libc.stdint cimport uint64_t as u64

from .buffers cimport get_readable, release
from .miss cimport Filler
from .steps cimport Steps
from ..mm cimport atomics, layout


cdef class Listener:
    """Who waits for the folio of a flow's first lease."""

    cdef int tell(self, lease, error) except -1:
        """The folio is filled, and the lease is on all of it; or the source has failed before that, and lease is None."""
        raise NotImplementedError


@cython.final
@cython.auto_pickle(False)
cdef class Flow:
    """The fill of a folio, and of the missing folios after it up to unit ``end``, by one call of the source.

    offset, length: of the bytes to read. listener: is told once, about the first folio. at: the unit of the next folio.
    """
    def __init__(self):
        raise TypeError("a flow comes from a miss")

    cdef int _begin(self, lease, u64 index) except -1:
        """Take the lease, which is filling, and add the folios after it."""
        cdef u64 first = self.mapping.widen(lease)
        self.first = self.at = first
        self.run = [lease]
        self.filler._extend(self.mapping, self.run, first, max(self.end, first + self.mapping.units(lease)))
        self.length = sum([self.mapping.bytes(lease) for lease in self.run])
        self.begin = atomics.now_ns()
        return 0

    @property
    def offset(self):
        """The offset of the first byte in the object."""
        return self.first * self.mapping.unit_size

    @property
    def buffers(self):
        """The folios' memory, in order: a new list of writable memoryviews, to be asked for once."""
        for lease in self.run:
            self.mapping.populate(lease)
        self.targets = [self.mapping.target(lease, not self.filler.is_exact) for lease in self.run]
        self.views = [memoryview(target) for target in self.targets]
        return list(self.views)

    def put(self, content):
        """Fill all folios with the bytes that the source has returned. Raises SourceError if these are not ``length`` bytes."""
        cdef Py_ssize_t at = 0
        cdef Py_buffer answer
        get_readable(content, &answer, self.filler.key)
        try:
            self.filler._check_length(self.mapping, answer.len, self.offset, self.length)
            for lease in list(self.run):
                self.mapping.write(lease, <char *>answer.buf + at)
                at += self.mapping.bytes(lease)
                self.full()
        finally:
            PyBuffer_Release(&answer)

    def check(self, got):
        """Raise SourceError if ``got``, which ``readinto`` has returned, is not the number of bytes of the next folio."""
        lease = self.run[self.number]
        self.filler._check_count(self.mapping, got, self.at * self.mapping.unit_size, self.mapping.bytes(lease))

    def full(self):
        """The next buffer is full: complete its folio. Return False if it was the last one."""
        cdef Py_ssize_t number = self.number
        lease = self.run[number]
        if self.views is not None:
            self.filler._release_view(self.views[number], self.targets[number])
        self.at = self.filler._filled(self.mapping, lease, self.at, self.mark, None)
        self.number += 1
        self.run[number] = None  # a reader may drop it before this flow ends
        if number == 0:
            self._tell(lease, None)
        return self.number < <Py_ssize_t>len(self.run)

    def end_with(self, error):
        """The source has returned, or has raised an error (None if not). If folios are left, withdraw them."""
        cdef Py_ssize_t left = len(self.run) - self.number
        cdef u64 offset = self.first * self.mapping.unit_size
        self.mapping.request(self.filler.kind, atomics.now_ns() - self.begin, self.length if left == 0 else 0, left != 0)
        if left == 0:
            if self.at < self.end:  # behind folios that others had filled
                self.filler._ask_ahead(self.mapping, self.at, self.end, self.mark, False, 0)
            return self._drop()
        if error is None:
            error = self.filler._short(self.mapping, self.at * self.mapping.unit_size - offset, offset, self.length)
        try:
            self._fail(error)
        finally:
            self._drop()
            self._tell(None, error)

    cdef int _fail(self, error) except -1:
        """Withdraw the folios that are left, with a record of the failure for those that wait for them."""
        cdef u64 behind = self.at
        cdef list left = self.run[self.number :]
        reason = self.filler.reason(error) if isinstance(error, Exception) else None
        for view in self.views[self.number :] if self.views is not None else ():
            release(view)
        for lease in left:
            behind += self.mapping.units(lease)
            if reason is not None:
                self.mapping.explain(lease, reason)
        if reason is not None:
            for waiting in list(self.filler.pool.engine.waiting):
                waiting.share_failure(self.mapping.identity, self.at, behind, error)
        for lease in left:
            self.mapping.withdraw(lease)
        self.mapping.count(layout.COUNT_ERRORS, 1)
        return 0

    cdef int _drop(self) except -1:
        self.run, self.targets, self.views = [], None, None
        return 0

    cdef int _tell(self, lease, error) except -1:
        listener, self.listener = self.listener, None
        return 0 if listener is None else (<Listener>listener).tell(lease, error)


cdef Flow new_flow(Filler filler, Steps mapping, lease, u64 index, u64 end, mark, Listener listener):
    """Return a flow for a lease that is filling, and for the missing folios after it up to unit ``end``."""
    cdef Flow flow = Flow.__new__(Flow)
    flow.filler, flow.mapping, flow.end, flow.mark, flow.listener = filler, mapping, end, mark, listener
    try:
        flow._begin(lease, index)
    except BaseException:
        flow._drop()
        mapping.withdraw(lease)
        raise
    return flow
