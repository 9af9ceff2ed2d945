"""Several requests at a time in one thread, of a source that has ``read_ranges``: an HTTP server's connections, for example.

With a thread for each request, handing over, waking up and taking the interpreter's lock take longer than a small request does.
A `Server` is one call for a thread of the engine. The source takes the ranges from it, each when it is to be requested; their
folios are locked then, as those of any request are. Whatever the source cannot do in this way, ``read_into`` does, in another
thread of the engine, with the same leases: so a failure is told, and is recorded for others, in one way only.

Two rules of ``miss`` hold here, too. Only compiled frames, and what is reached from them alone, have a lease that is filling:
a `Server` is reached from the source's frames, but has none when its call ends. And nothing waits for another filler.
"""
cimport cython
from libc.stdint cimport uint32_t as u32, uint64_t as u64

from .buffers cimport release
from .calls cimport _Reading, _reading, _reads
from .miss cimport Filler, Group, Request
from .steps cimport Steps
from ..mm cimport atomics, layout

from ..errors import SourceError
from ..observe import notices
from ..sizes import quoted
from .engine import CONCURRENCY_FIRST
from .source import iterator_of


@cython.final
@cython.auto_pickle(False)
cdef class Run:
    """Missing folios of a request, which are being filled: those from ``full`` on are locked, and begin at unit ``at``. A call
    for a thread of the engine: fill these by ``read_into``."""
    cdef Filler filler
    cdef Request request
    cdef Group group
    cdef _Reading reading
    cdef list leases, targets, views
    cdef Py_ssize_t full
    cdef bint populated
    cdef u64 first, at, behind, since, length

    def __init__(self):
        raise TypeError("a run is a request's")

    def __call__(self):
        cdef list leases
        leases, self.leases = self.leases[self.full :], []
        try:
            self.filler._fill_locked(
                self.request.mapping, leases, self.at, self.behind - self.at, self.request.mark, self.request
            )
        finally:
            self.leave_group()

    def __del__(self):
        self.leave_group()

    cdef int leave_group(self) except -1:
        group, self.group = self.group, None
        return 0 if group is None else (<Group>group).leave()

    cdef int fill_up_to(self, Py_ssize_t full) except -1:
        """So many of the buffers are full: complete their folios."""
        cdef Steps mapping = self.request.mapping
        if not self.full <= full <= <Py_ssize_t>len(self.leases):
            raise SourceError(f"the source of {quoted(self.filler.key)} has filled {full} of {len(self.leases)} buffers")
        while self.full < full:
            lease = self.leases[self.full]
            self.filler._release_view(self.views[self.full], self.targets[self.full])
            self.at = self.filler._filled(mapping, lease, self.at, self.request.mark, self.request)
            self.leases[self.full] = None  # the folio may be evicted from now on
            self.full += 1
        if self.is_full():
            context = self.request.context
            if context is not None:
                context.run(self.count)
            else:
                self.count()
            self.leave_group()
        return 0

    cdef int populate(self) except -1:
        cdef Steps mapping = self.request.mapping
        self.populated = True
        for lease in self.leases:
            mapping.populate(lease)
        return 0

    cdef bint is_full(self) noexcept:
        return self.full == <Py_ssize_t>len(self.leases)

    def count(self):
        """Count it as a call of the source."""
        self.request.mapping.request(self.filler.kind, atomics.now_ns() - self.since, self.length, False)

    cdef int withdraw(self) except -1:
        """The source has kept a buffer, and may write to it at any time."""
        cdef Steps mapping = self.request.mapping
        reason = self.filler.reason(self.filler._kept())
        for lease in self.leases[self.full :]:
            if reason is not None:
                mapping.explain(lease, reason)
            mapping.withdraw(lease)
        self.leases = self.leases[: self.full]
        mapping.count(layout.COUNT_ERRORS, 1)
        return self.leave_group()

    cdef bint release_views(self) except -1:
        """Release the views of what is not full. Return False if the source has kept one."""
        cdef Py_ssize_t n
        cdef bint fine = True
        for n in range(self.full, len(self.views)):
            fine = release(self.views[n]) and self.targets[n].views == 0 and fine
        self.targets = self.views = None
        return fine


@cython.final
@cython.auto_pickle(False)
cdef class Server:
    """A call for a thread of the engine: serve what is wanted of a filler, until there is nothing more. For the source, an
    iterator of (offset, buffers).

    It is one of the filler's servers while it takes requests. When it takes no more, and waits for those that it has taken, it
    is none: it may wait for long, and another may have to serve what is wanted meanwhile.
    """
    cdef Filler filler
    cdef object engine
    cdef dict runs  # that the source has taken and not filled, by number
    cdef u64 taken
    cdef u32 epoch
    cdef bint is_counted, is_looked_at

    def __init__(self):
        raise TypeError("a server is a filler's")

    def __iter__(self):
        return self

    def __next__(self):
        cdef Run run
        cdef Request request
        while True:
            # One more, since the next is taken before it is said that another is full. There are too many if other threads
            # have begun to serve, and the source does not look at ``at_once``; it is called again when it has filled these.
            if not self.is_looked_at and len(self.runs) > <Py_ssize_t>self.engine.at_once:
                self._leave_servers(False)
                self.filler._start_servers()
                raise StopIteration
            request = self.filler._next_wanted(self.engine)
            if request is None:
                if self._leave_servers(True):
                    raise StopIteration
                continue
            run = self._run(request)
            if run is not None:
                self.runs[self.taken] = run
                self.taken += 1
                self.engine.under_way.append(None)
                return run.first * request.mapping.unit_size, list(run.views)

    @property
    def at_once(self):
        """How many ranges the source should have under way now. A source that asks this takes no more."""
        self.is_looked_at = True
        return self.engine.may_have(len(self.runs))

    def __call__(self):
        self.engine.serving.append(None)
        try:
            self._serve()
        finally:
            self.engine.serving.pop()

    def __del__(self):
        if self.filler is not None:
            self._leave_servers(False)
            if self.engine.closed:
                self.filler._drop_wanted()

    cdef bint _leave_servers(self, bint if_empty) noexcept:
        """Be one of the filler's servers no longer; if_empty: if nothing is wanted. Return True if it is none now."""
        cdef Filler filler = self.filler
        cdef bint leaves
        with cython.critical_section(filler.guard):
            leaves = self.is_counted and not (if_empty and len(filler.wanted))
            if leaves:
                self.is_counted = False
                filler.servers -= self.epoch == filler.wanted_epoch  # a forked child begins with none
        return not self.is_counted

    cdef bint _is_needed(self) except -1:
        if self.is_counted:
            return not self._leave_servers(True)
        self.is_counted = self.filler._counts_server(self.engine)
        return self.is_counted

    cdef int _serve(self) except -1:
        cdef Request request
        cdef u64 before
        cdef bint takes = True
        while self._is_needed():
            before = self.taken
            self._stream(self.engine.at_once_most)
            if self.taken != before:
                takes = True
            elif (request := self.filler._next_wanted(self.engine)) is None:
                continue
            elif takes:
                takes = False  # after one answer, the source may be able to do more
                for _ in range(CONCURRENCY_FIRST - 1):  # these need not wait for it
                    other = self.filler._next_wanted(self.engine)
                    if other is not None:
                        self.engine.later(other)
                        other = None
                request()
            else:
                self.engine.later(request)
            request = None  # it has ended when no one has it
        return 0

    cdef Run _run(self, Request request):
        """Lock the first missing folios of a request. Return None if there are none. The rest of it is wanted again."""
        cdef Steps mapping = request.mapping
        cdef Filler filler = self.filler
        cdef u64 index = request.first
        cdef Run run
        lease = None
        while index < request.end:
            lease = mapping.grab(index, request.end - index)
            if lease is None or mapping.is_filling(lease):
                break
            index += mapping.units(lease)
            lease = None
        if lease is None:
            request.dequeue()
            request.leave_group()
            return None
        run = Run.__new__(Run)
        run.filler, run.request, run.leases = filler, request, [lease]
        run.first = run.at = run.behind = mapping.widen(lease)
        lease = None
        filler._extend(mapping, run.leases, run.first, request.end)
        for lease in run.leases:
            run.behind += mapping.units(lease)
            run.length += mapping.bytes(lease)
        lease = None
        run.targets = [mapping.target(each, not filler.is_exact) for each in run.leases]
        run.views = [memoryview(target) for target in run.targets]
        run.reading = _reading(mapping, run.first, run.behind - run.first, False)
        _reads().append(run.reading)
        run.since = atomics.now_ns()
        if run.behind < request.end:
            if request.group is not None:
                run.group = request.group
                run.group.join()
            request.first = run.behind
            filler.wanted.appendleft(request)
        else:
            run.group, request.group = request.group, None
            request.dequeue()
        return run

    cdef int _stream(self, int at_once) except -1:
        """Have the source fill what it takes. The rest of that is left to ``read_into``."""
        cdef Run run
        cdef u64 first = self.taken  # the source counts from 0 in each call
        answer = None
        try:
            answer = iterator_of(self.filler.call_read_ranges(self, at_once))
            for nth, full in answer:
                number = first + nth
                run = self.runs[number]
                if not run.populated:  # not before: the request is on its way meanwhile
                    run.populate()
                if full >= 0:
                    run.fill_up_to(full)
                if full < 0 or run.is_full():
                    self._leave(number)
        except BaseException as error:  # what ``read_into`` says of the same ranges is told
            self._notice(error)
        run = None
        try:
            close = getattr(answer, "close", None)
            if close is not None:
                close()
        except BaseException as error:
            self._notice(error)
        for number in list(self.runs):
            self._leave(number)
        return 0

    cdef int _notice(self, error) except -1:
        """The source's ``read_ranges`` has failed. It may do so each time, and reads are slower then."""
        if not self.filler.pool.closed:
            notices.single_reads(getattr(self.filler.pool, "name", ""), error)
        return 0

    cdef int _leave(self, number) except -1:
        """The source has ended with a run. If it is not full, have it filled."""
        cdef Run run = self.runs.pop(number)
        self.engine.under_way.pop()
        cdef bint fine = run.release_views()
        _reads().remove(run.reading)
        if not fine:
            run.withdraw()
        elif not run.is_full() and not self.engine.submit(run):
            run()
        return 0


def server(Filler filler not None):
    """Return a `Server`, which the filler has counted."""
    cdef Server made = Server.__new__(Server)
    made.filler, made.engine = filler, filler.pool.engine
    made.runs, made.epoch, made.is_counted = {}, filler.wanted_epoch, True
    return made
