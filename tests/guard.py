"""No test run hangs, and none leaves a process behind.

pytest-timeout (configured in pyproject.toml) raises in a test that takes too long, by a signal. What that cannot reach:

- a child: a timer is not inherited by fork. It is killed when its test ends, and then the test has failed; and if the tests
  themselves are killed, the kernel kills what they have forked.
- a test that does not return to the interpreter, in compiled code: ``faulthandler_timeout`` ends the whole run later.
- the end of the interpreter, which waits for threads: it is killed after a minute.
- an interrupt that a handler of an earlier test swallows: each test must leave SIGINT and SIGTERM as it found them. And if the
  interrupted test fails with another error (a teardown that finds its work undone, for example), the run ends after it.

A plugin of pytest; ``tests/conftest.py`` registers it. (A conftest's own hooks are not asked about fixtures of the whole
session.)
"""

import contextlib
import ctypes
import faulthandler
import gc
import os
import signal
import threading
import time
from pathlib import Path

import pytest

GRACE = 20  # seconds that a process has to end after it was asked to
HELPERS = b"multiprocessing.resource_tracker", b"multiprocessing.forkserver"  # end with the tests
EXIT = 60  # seconds
_PR_SET_PDEATHSIG = 1
SIGNALS = signal.SIGINT, signal.SIGTERM
_lasting = set()  # the servers of fixtures that outlive a test


def pytest_configure():
    """Make the kernel kill the main thread's children when this process ends. Not grandchildren: some tests need orphans."""
    tests, libc, ours = os.getpid(), ctypes.CDLL(None), []

    def before():
        ours[:] = [os.getpid() == tests and threading.current_thread() is threading.main_thread()]

    def in_child():
        if ours[0]:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != tests:  # it has died since the fork
                os._exit(1)

    os.register_at_fork(before=before, after_in_child=in_child)


def pytest_collection_finish():
    """Leave all tests' own objects, half a million, out of the collections of garbage, which take most of a second else."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    """Kill this process if the interpreter does not end within EXIT seconds."""
    faulthandler.dump_traceback_later(EXIT, exit=True)


def children(known=()):
    """Return this process's running children except the known ones and multiprocessing's helpers: command lines by pid."""
    found = {}
    try:  # for a file of each thread would have to be read
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return found
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for pid in map(int, (task / "children").read_text().split()):
                line = None if pid in known else running(pid)
                if line is not None and not any(helper in line for helper in HELPERS):
                    found[pid] = line
    return found


def running(pid):
    """Return a process's command line, empty in the middle of exec and of exit; None if it has ended."""
    try:
        if Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] == b"Z":
            return None
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef):
    """Let processes that a fixture of a wider scope starts outlive the test, even if the test requests it dynamically."""
    if fixturedef.scope == "function":
        return (yield)
    before = children()
    made = yield
    _lasting.update(children(before))
    return made


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """End the run if a test has failed because it was interrupted."""
    report = yield
    if report.failed and any(isinstance(error, KeyboardInterrupt) for error in behind(call.excinfo.value)):
        item.session.shouldstop = "a test was interrupted, and failed with another error"
    return report


def behind(error):
    """Yield an exception, and all those that led to it."""
    seen, left = set(), [error]
    while left:
        error = left.pop()
        if error is not None and id(error) not in seen:
            seen.add(id(error))
            yield error
            left += [error.__cause__, error.__context__, *getattr(error, "exceptions", ())]


def signals():
    """Return what SIGINT and SIGTERM do in this process: their handlers, and the mask of the main thread."""
    return {number: signal.getsignal(number) for number in SIGNALS}, signal.pthread_sigmask(signal.SIG_BLOCK, ())


@pytest.fixture(autouse=True)
def signals_as_before():
    """Every test leaves SIGINT and SIGTERM as it found them; otherwise nobody could interrupt the tests after it."""
    before = signals()
    yield
    after = signals()
    if after == before:
        return
    for number, handler in before[0].items():
        if handler is not None:  # not one of Python's
            signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, before[1])
    pytest.fail(f"handlers and mask of signals that the test has left behind: {after}; before it: {before}", pytrace=False)


@pytest.fixture(autouse=True)
def no_process_left():
    """Every process that a test starts ends with it."""
    before = set(children())
    yield
    deadline = time.monotonic() + GRACE
    while (left := children(before | _lasting)) and time.monotonic() < deadline:
        time.sleep(0.01)
    for pid in left:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    assert not left, f"processes that the test has left behind: {left}"
