"""Reads at the interpreter's end, in finalizers and in signal handlers; reads where there are no more threads."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from foliocache.adapters.fsspec import FolioFileSystem
from foliocache.adapters.fsspec.gather import gather

_PATIENCE = 60

BEGIN = """
import atexit, contextlib, sys, threading
from foliocache.adapters.fsspec import FolioFileSystem

protocol, url, name = sys.argv[1:]
fs = FolioFileSystem(target_protocol=protocol, name=name, size="16MiB")
paths = [f"{url}/{number}" for number in range(4)]

def read():
    return len(fs.cat(paths)), len(fs.cat_ranges(paths, 0, 9)), len(fs.cat_file(paths[0]))
"""

ENDINGS = {
    "atexit": "atexit.register(lambda: print(read()))",
    "finalizer": """
class Last:
    def __del__(self):
        try:
            print(read())
        except RuntimeError as error:
            print(error)
_last = Last()  # names with an underscore go first
""",
    "daemon": """
def on_and_on():
    with contextlib.suppress(Exception):  # fsspec closes the session under it
        while True:
            read()
threading.Thread(target=on_and_on, daemon=True).start()
print(read())
""",
    "thread": """
def later():
    threading.main_thread().join()
    print(read())
threading.Thread(target=later).start()
""",
    # A signal handler runs between any two instructions; here one runs at each line, of ours and of the standard library.
    "handler": """
running = threading.get_ident()
count = 0
def trace(frame, event, argument):
    global count
    count += 1
    if count % 7 == 0:
        assert read() == (4, 4, 1000)
    return trace
read()
sys.settrace(trace)
read()
sys.settrace(None)
print(read())
""",
}


def run(code, *args):
    ended = subprocess.run(
        [sys.executable, "-c", BEGIN + code, *args], capture_output=True, text=True, timeout=_PATIENCE, env=os.environ
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout.strip()


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("protocol", ["file", "http"])
def test_reads_at_the_end(pool, origin, tmp_path, protocol, ending):
    """The loop of async targets has stopped when modules are torn down: then it is refused, where fsspec would wait for
    ever."""
    for number in range(4):
        (tmp_path / str(number)).write_bytes(b"x" * 1000)
        origin.put(f"/{number}", b"x" * 1000)
    said = run(ENDINGS[ending], protocol, str(tmp_path) if protocol == "file" else origin.url, pool["name"])
    if (protocol, ending) == ("http", "finalizer"):
        assert "HTTPFileSystem can't be asked any more" in said
    else:
        assert said == "(4, 4, 1000)"


def test_written_file_that_is_dropped_at_the_end(pool, tmp_path):
    run('file = fs.open(paths[0], "wb"); file.write(b"data"); sys.keep = file', "file", str(tmp_path), pool["name"])
    assert (tmp_path / "0").read_bytes() == b"data"


# Several at a time


def test_no_more_threads(monkeypatch):
    """As under `ulimit -u`, or when the interpreter has begun to end (CPython 3.12 and later): the caller does it all."""

    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert gather(lambda number: number * 2, [(number,) for number in range(100)]) == list(range(0, 200, 2))


def test_helper_that_never_begins_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(threading.Thread, "start", lambda self: None)
    assert gather(lambda number: number * 2, [(number,) for number in range(100)]) == list(range(0, 200, 2))


def test_eight_at_a_time():
    together = threading.Barrier(8)
    assert gather(lambda number: together.wait(_PATIENCE) >= 0, [(number,) for number in range(64)]) == [True] * 64


def test_quick_jobs_are_the_callers():
    threads = gather(lambda _: threading.get_ident(), [(n,) for n in range(30)], "raise", lambda number: number != 7)
    assert set(threads) == {threading.get_ident()}


def test_first_failure_is_raised_when_all_that_has_begun_is_done():
    second_failed, begun, ended = threading.Event(), set(), set()

    def work(number):
        begun.add(number)
        try:
            if number == 1:
                second_failed.set()
                raise ValueError(number)
            assert second_failed.wait(_PATIENCE)
            if number == 0:
                raise KeyError(number)
        finally:
            ended.add(number)

    with pytest.raises(KeyError):
        gather(work, [(number,) for number in range(1000)])
    assert begun == ended and len(begun) < 1000


def test_failures_in_place_of_results():
    results = gather(lambda number: 1 / number, [(1,), (0,), (2,)], "return")
    assert (results[0], results[2]) == (1, 0.5) and isinstance(results[1], ZeroDivisionError)


def test_what_ends_a_helper_is_raised():
    caller, taken = threading.get_ident(), threading.Event()

    def work(number):
        if threading.get_ident() != caller:
            taken.set()
            raise SystemExit(number)
        assert taken.wait(_PATIENCE)

    with pytest.raises(SystemExit):
        gather(work, [(number,) for number in range(100)], "return")


def test_interrupt_does_not_wait_for_what_has_begun():
    caller, begun, may_end, done = threading.get_ident(), threading.Event(), threading.Event(), []

    def work(number):
        if threading.get_ident() == caller:
            assert begun.wait(_PATIENCE)
            raise KeyboardInterrupt
        begun.set()
        assert may_end.wait(_PATIENCE)
        done.append(number)

    with pytest.raises(KeyboardInterrupt):
        gather(work, [(number,) for number in range(100)])
    assert not done
    may_end.set()


def test_forks_beside_a_thread_that_cats(pool, tmp_path):
    fs = FolioFileSystem(target_protocol="file", check_files=False, **pool)
    paths = [f"{tmp_path}/{number}" for number in range(16)]
    fs.pipe({path: path.encode() * 100 for path in paths})
    stop = threading.Event()

    def cat():
        while not stop.is_set():
            fs.invalidate_cache()
            assert len(fs.cat(paths)) == len(paths)

    worker = threading.Thread(target=cat)
    worker.start()
    try:
        for _ in range(30):
            if (child := os.fork()) == 0:
                fine = fs.cat(paths) == {path: path.encode() * 100 for path in paths}
                os._exit(0 if fine else 1)
            assert _exit_code(child) == 0
    finally:
        stop.set()
        worker.join()


def _exit_code(child):
    """Of a child that must not hang."""
    timer = threading.Timer(_PATIENCE, os.kill, (child, 9))
    timer.start()
    try:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        timer.cancel()


def test_a_file_that_outlives_its_modules_is_closed(tmp_path, pool_name):
    """The interpreter clears modules in the reverse of the order in which they were imported."""
    script = """
import os, sys
from foliocache.adapters.fsspec import FolioFileSystem, file
written = FolioFileSystem(target_protocol="file", name=sys.argv[1], size="4MiB").open(sys.argv[2], "wb")
written.write(b"content")
os.kept = file, written
"""
    path = tmp_path / "written"
    ended = subprocess.run(
        [sys.executable, "-W", "always", "-c", script, pool_name, path], capture_output=True, text=True, timeout=_PATIENCE
    )
    assert (ended.returncode, ended.stderr, path.read_bytes()) == (0, "", b"content")
