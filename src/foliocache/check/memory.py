"""Simulated memory: what the core's functions take as ``mem`` when they run under the checker.

:class:`Direct` is a dictionary. It serves the sequential parts of a scenario, before the threads start and after they end.
``machine.Machine`` runs one thread against an execution graph: it answers operations that the graph has already, and adds the
first one that the graph lacks. Threads are ordinary Python calls, one after the other; a thread that must wait for another is
unwound by an exception and run again later, so no call is ever suspended.
"""

from . import facade_threads


class Blocked(BaseException):
    """The thread cannot continue in this graph. ``why`` is spin, stutter, futex, await, assume or replay."""

    def __init__(self, why, reads=(), detail=None):
        super().__init__(why)
        self.why, self.reads, self.detail = why, reads, detail


class Abandon(BaseException):
    """This graph has no consistent continuation; its revisits have been queued."""


class Died(BaseException):
    """A mortal thread has chosen to die here."""


class Failure(Exception):
    """An execution that must not happen: what is wrong in it (``kind``, ``message``), and in which thread."""

    def __init__(self, kind, message, thread=None):
        super().__init__(message)
        self.kind, self.message, self.thread = kind, message, thread


class Geometry:
    """The base class of both memories: the numbers that the facade asks ``mem`` for."""

    def __init__(self, geometry):
        for name in facade_threads.GEOMETRY:
            setattr(self, name, geometry.get(name, 0))
        self.size = geometry.get("size", 0)

    @property
    def handle(self):
        return self

    def write_once(self, loc, value):
        self.store(loc, value, "relaxed")

    def read_once(self, loc):
        return self.load(loc, "relaxed")


class Direct(Geometry):
    """Sequential memory: ``values`` by location; ``clients`` as in ``Program``."""

    def __init__(self, geometry, values=None, clients=None):
        super().__init__(geometry)
        self.values = {} if values is None else values
        self.processes = clients or {}

    def load(self, loc, order):
        return self.values.get(loc, 0)

    def store(self, loc, value, order):
        self.values[loc] = value

    def rmw(self, loc, order, compute):
        old = self.values.get(loc, 0)
        new = compute(old)
        if new is not None:
            self.values[loc] = new
        return old

    def read(self, loc):
        return self.values.get(loc, 0)

    def write(self, loc, value):
        self.values[loc] = value

    def fence(self, order):
        pass

    def membarrier(self):
        pass

    def asymmetric_fence_light(self):
        pass

    def client_alive(self, client):
        return self.values.get(("dead", self.processes.get(client))) != 1

    def choose(self, n):
        return 0

    def relax(self):
        raise Failure("spin", "a sequential part of the scenario spins, and there is no other thread to end that")

    def wait(self, loc, expected):
        raise Failure("sleep", "a sequential part of the scenario sleeps, and there is no other thread to wake it")

    def wake(self, loc, n):
        return 0
