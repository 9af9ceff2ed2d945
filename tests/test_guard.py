"""A test that hangs is ended, and so is what it has started: in test runs of their own, with shorter limits."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from guard import running

CONFTEST = """
import guard
guard.GRACE, guard.EXIT = 0.2, 1
def pytest_configure(config):
    config.pluginmanager.register(guard)
"""
OPTIONS = ["-q", "-p", "no:cacheprovider", "-p", "pytest_timeout", "-c", os.devnull, "--rootdir", "."]
PLUGINS = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # to import those that are installed takes longer than the run
LIMITS = ["-o", "timeout=1", "-o", "timeout_method=signal"]


@pytest.fixture
def start(tmp_path):
    """Starts a test run of such a file; the pids that its children write to a pipe are read from its stdout."""
    runs = []

    def call(code, *more):
        (tmp_path / "conftest.py").write_text(CONFTEST)
        (tmp_path / "test_it.py").write_text("import os, signal, subprocess, sys, threading, time\n" + code)
        environment = os.environ | PLUGINS | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path[1:]])}
        environment.pop("CI", None)  # with it, pytest repeats whole messages in its summary
        command = [sys.executable, "-m", "pytest", *OPTIONS, *LIMITS, *more, "test_it.py"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        runs.append(subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True, **pipes))
        return runs[-1]

    yield call
    for run in runs:
        run.kill()
        run.communicate(timeout=60)


def outcome(run):
    """Return exit code and output, once every process of the run has ended."""
    text, _ = run.communicate(timeout=60)
    return run.returncode, text


WAITS = """
def test_for_a_process():
    subprocess.run(["sleep", "1000"])
def test_for_a_forked_child():
    os.waitpid(os.fork() or time.sleep(1000), 0)
def test_for_a_pipe():
    os.read(os.pipe()[0], 1)
def test_for_a_lock():
    threading.Event().wait()
def test_the_next_one():
    pass
"""


def test_a_wait_without_end_fails_and_the_next_test_runs(start):
    code, text = outcome(start(WAITS))
    assert code == 1
    assert text.count("Timeout (>1.0s)") >= 4 and "4 failed, 1 passed" in text, text


LEFT = """
def test_a_program():
    subprocess.Popen(["sleep", "1000"])
def test_a_forked_child_with_the_tests_own_handlers():
    os.fork() or time.sleep(1000)
def test_one_that_ignores_SIGTERM():
    os.fork() or [signal.signal(signal.SIGTERM, signal.SIG_IGN), time.sleep(1000)]
def test_the_next_one():
    pass
"""


def test_a_process_that_is_left_behind_is_ended_and_an_error(start):
    code, text = outcome(start(LEFT, "-o", "timeout=60"))
    assert code == 1
    assert "processes that the test has left behind" in text and "4 passed, 3 errors" in text, text


SIGNALS = """
def test_a_handler():
    signal.signal(signal.SIGINT, lambda *args: None)
def test_one_that_ignores_it():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
def test_a_mask():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
def test_the_next_one():
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
def test_one_that_puts_it_back():
    signal.signal(signal.SIGINT, signal.signal(signal.SIGINT, signal.SIG_IGN))
"""


def test_a_signals_handler_that_is_left_behind_is_an_error(start):
    code, text = outcome(start(SIGNALS, "-o", "timeout=60"))
    assert code == 1
    assert text.count("that the test has left behind") == 3 and "5 passed, 3 errors" in text, text


INTERRUPTED = """
def test_one():
    try:
        signal.raise_signal(signal.SIGINT)
    finally:
        assert not "done"
def test_the_next_one():
    pass
"""


def test_an_interrupt_ends_the_run_whatever_the_test_makes_of_it(start):
    code, text = outcome(start(INTERRUPTED, "-o", "timeout=60"))
    assert code == 2
    assert "a test was interrupted" in text and "1 failed" in text and "passed" not in text, text


SHARED = """
@pytest.fixture(scope="session")
def server():
    yield subprocess.Popen(["sleep", "1000"])
def test_one(request):
    request.getfixturevalue("server")
def test_two(server):
    assert server.poll() is None
    server.kill()
"""


def test_what_a_fixture_of_the_session_starts_may_stay(start):
    code, text = outcome(start("import pytest\n" + SHARED, "-o", "timeout=60"))
    assert (code, "2 passed" in text) == (0, True), text


def test_what_has_been_forked_dies_with_the_tests(start):
    run = start(
        "def test_one():\n    print(os.fork() or [time.sleep(1000)], flush=True)\n    time.sleep(1000)\n",
        "-s",
        "-o",
        "timeout=0",
    )
    pid = int(run.stdout.readline())
    run.send_signal(signal.SIGKILL)
    outcome(run)
    deadline = time.monotonic() + 60
    while running(pid) is not None and time.monotonic() < deadline:  # in the middle of its exit, or not reaped by init yet
        time.sleep(0.01)
    assert running(pid) is None


def test_an_interpreter_that_does_not_end_is_ended(start):
    code, text = outcome(start("def test_one():\n    threading.Thread(target=time.sleep, args=(1000,)).start()\n"))
    assert code == 1
    assert "1 passed" in text and "Timeout (0:00:01)!" in text


def test_compiled_code_that_does_not_come_back_ends_the_run(start):
    hang = "import ctypes\ndef test_one():\n    ctypes.PyDLL(None).sleep(1000)\n    time.sleep(1000)\n"
    options = ["-o", "faulthandler_timeout=1", "-o", "faulthandler_exit_on_timeout=true", "-o", "timeout=0"]
    code, text = outcome(start(hang, *options))
    assert code == 1
    assert "Timeout (0:00:01)!" in text and "test_one" in text
