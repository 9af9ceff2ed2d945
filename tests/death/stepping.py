"""Forked children that run one operation and are killed at a chosen instruction of it."""

import collections
import contextlib
import ctypes
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import traceback

import foliocache

_INSTRUCTIONS_MAX = 3_000_000
FAILED, REACHED, ENDED = -1, 0, 1

Point = collections.namedtuple("Point", "step pc nth")
Point.__doc__ = "Right before step number ``step`` of a path, which is the nth time on it that ``pc`` is reached."
AT_THE_END = Point(None, 0, 0)


class Range(ctypes.Structure):
    _fields_ = [("start", ctypes.c_uint64), ("end", ctypes.c_uint64)]


class Stepper:
    """Runs children that use a segment which this process has attached."""

    def __init__(self, mem):
        self.library = _compile()
        self.core = _core()
        self.ranges = (Range * len(self.core))(*(Range(start, end) for start, end, _, _ in self.core))
        # mem points to an fc_mem: base, ro, size.
        self.base, _, self.size = (ctypes.c_uint64 * 3).from_address(mem)
        self.gate = _gate()

    def instructions(self, prepare):
        """Return an operation's path: every instruction of the core in it, from the first to the last."""
        return self._path(prepare, self.library.step_trace)

    def stores(self, prepare):
        """Only those that write to the segment. What a killed process leaves is the segment and nothing else, so the deaths
        between two stores are one and the same."""
        return self._path(prepare, self.library.step_stores, *map(ctypes.c_uint64, (self.gate, self.base, self.size)))

    def kill(self, prepare, point):
        """Run a child up to a point and kill it there: REACHED; or ENDED if it never came there, and was killed at the end."""
        with self.stopped(prepare, point) as (_, outcome):
            return outcome

    @contextlib.contextmanager
    def stopped(self, prepare, point):
        """Run a child up to a point and stop it there; it is killed at the end. Gives its pid, and the result as of
        ``kill``."""
        pid = self._start(prepare)
        try:
            outcome = self.library.step_to(pid, ctypes.c_uint64(point.pc), ctypes.c_long(point.nth))
            assert outcome != FAILED, f"a child was lost on its way to {point}"
            yield pid, outcome
        finally:
            _kill(pid)

    def go_on(self, pid):
        """Let a stopped child finish its operation."""
        assert self.library.step_on(pid), "a child that had been stopped did not come to the end of its operation"

    def where(self, pc):
        """Return an address as module + offset, for objdump."""
        return next(
            (f"{name}+{pc - start + offset:#x}" for start, end, name, offset in self.core if start <= pc < end), "at the end"
        )

    def _path(self, prepare, trace, *memory):
        path = (ctypes.c_uint64 * _INSTRUCTIONS_MAX)()
        pid = self._start(prepare)
        steps = trace(pid, *memory, self.ranges, len(self.ranges), path, ctypes.c_long(len(path)))
        _kill(pid)
        assert steps > 0, "the operation did not come to its end while it was traced"
        seen = collections.Counter()
        points = []
        for step, pc in enumerate(path[:steps]):
            seen[pc] += 1
            points.append(Point(step, pc, seen[pc]))
        return points

    def _start(self, prepare):
        """Start a child that stops right before the operation, which ``prepare()`` returns."""
        pid = os.fork()
        if pid == 0:
            try:
                operation = prepare()
                self.library.step_begin()
                operation()
                self.library.step_end()
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        _, status = os.waitpid(pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), f"a child failed before its operation: {status:#x}"
        return pid


def _kill(pid):
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        while os.WIFSTOPPED(os.waitpid(pid, 0)[1]):
            pass


def _compile():
    with tempfile.TemporaryDirectory() as folder:
        target = os.path.join(folder, "step.so")
        source = pathlib.Path(__file__).with_name("step.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", target, source], check=True, timeout=120)
        library = ctypes.CDLL(target)
    library.step_trace.restype = library.step_stores.restype = ctypes.c_long
    return library


def _core():
    """Where the compiled core lies in this process, and so in every child of it: [(start, end, name, offset in the file)]."""
    folder = os.path.dirname(foliocache.__file__)
    line = re.compile(r"(\w+)-(\w+) r-xp (\w+) \S+ \S+ +(.*\.so)")
    found = filter(None, map(line.match, pathlib.Path("/proc/self/maps").read_text().splitlines()))
    core = [(int(m[1], 16), int(m[2], 16), os.path.basename(m[4]), int(m[3], 16)) for m in found if m[4].startswith(folder)]
    assert len(core) >= 20, "the core is not loaded, or not compiled"
    return core


def _gate():
    """Return the address of a syscall instruction."""
    start = ctypes.cast(ctypes.CDLL(None).syscall, ctypes.c_void_p).value
    return start + ctypes.string_at(start, 64).index(b"\x0f\x05")
