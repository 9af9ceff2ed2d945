"""Runs an action at one line of the package's Python: that of a signal handler, a finalizer or another thread, or a kill."""

import contextlib
import os
import signal
import sys

import foliocache

PACKAGE = os.path.dirname(foliocache.__file__)
SOAK = "FOLIOCACHE_STRESS_SECONDS" in os.environ
STRIDE = 1 if SOAK else 11  # of the lines that are tried


@contextlib.contextmanager
def at_line(n, action):
    """Run action() before the n-th line of the package's Python that this thread executes within the block."""
    lines = 0

    def trace(frame, event, _):
        nonlocal lines
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line":
            lines += 1
            if lines == n:
                sys.settrace(None)
                action()
        return trace

    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(None)


def count_lines(work):
    """Return how many lines of the package's Python work() executes."""
    lines = 0

    def trace(frame, event, _):
        nonlocal lines
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        lines += event == "line"
        return trace

    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(None)
    return lines


def in_child(work, seconds=20):
    """Run work() in a forked child, which SIGALRM ends after ``seconds``. Return its exit status, as of
    ``waitstatus_to_exitcode``.

    What work() raises is printed, and is status 1.
    """
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(seconds)
        try:
            work()
        except BaseException:
            import traceback

            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def answer_of(work, seconds=20):
    """Return what work() returns in a forked child, as a str; an exception's type and text; or "SIGNAL n" if it was killed."""
    reader, writer = os.pipe()

    def body():
        try:
            said = str(work())
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writer, said.encode()[:60_000])

    status = in_child(body, seconds)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read().decode()
    return f"SIGNAL {-status}" if status < 0 else said
