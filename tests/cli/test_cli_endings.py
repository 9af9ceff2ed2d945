"""Whatever ends a command, or one of its processes, in the middle of its work: nothing waits for ever, and no process stays."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import endings
import pytest
from cli_command import LIMIT, environment, pattern
from endings import SOON, children, ends

import foliocache
from foliocache.check import parallel

WHOLE = ["verify", "death/", "--jobs", "2"]  # tasks for two workers, for minutes
SPREAD = ["verify", "death/path-truncate-again", "--model", "tso", "--jobs", "2"]  # one task, cut up


def started(*arguments: object) -> AbstractContextManager[subprocess.Popen[str]]:
    """A command in a session of its own; no process of it is left in the end."""
    return endings.started([sys.executable, "-m", "foliocache", *map(str, arguments)], environment())


@pytest.mark.parametrize("command", [WHOLE, SPREAD], ids=["verify", "one scenario"])
class TestProcesses:
    @pytest.mark.parametrize("target", ["the command", "all"])
    @pytest.mark.parametrize(
        ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
    )
    def test_a_signal(self, command, target, number, code, word):
        with started(*command) as process:
            children(process, 2)
            (os.kill if target == "the command" else os.killpg)(process.pid, number)
            ends(process, code, f"foliocache: {word}")

    def test_the_command_is_killed(self, command):
        with started(*command) as process:
            children(process, 2)
            process.kill()
            process.communicate(timeout=SOON)

    def test_a_worker_is_killed(self, command):
        with started(*command) as process:
            os.kill(children(process, 2)[1], signal.SIGKILL)
            ends(process, 3, r"foliocache: a worker process .*exit code -9.*")


def test_a_worker_that_raises_says_where():
    def work(number):
        raise LookupError(f"number {number}") if number == 3 else KeyboardInterrupt

    with pytest.raises(LookupError, match="number 3") as raised:
        list(parallel.each(work, [3], 2))
    assert "in a worker process" in raised.value.__notes__[0] and "in work" in raised.value.__notes__[0]
    with pytest.raises(parallel.WorkerDied, match="exit code 1"):
        list(parallel.each(work, [4], 2))


def test_an_exception_that_cannot_be_pickled_is_described():
    class Local(Exception):
        pass

    def work(number):
        raise Local("by name alone")

    with pytest.raises(RuntimeError, match="Local: by name alone"):
        list(parallel.each(work, [1], 1))


def test_workers_have_default_handlers_and_the_signal_mask_of_their_parent():
    before = signal.signal(signal.SIGTERM, lambda *args: None), signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    numbers = signal.SIGINT, signal.SIGTERM, signal.SIGUSR1

    def work(thing):
        return [signal.getsignal(number) for number in numbers], signal.pthread_sigmask(signal.SIG_BLOCK, ())

    try:
        ((_, (found, mask)),) = parallel.each(work, [0], 1)
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGUSR1, before[1])
    assert found == [signal.SIG_DFL, signal.SIG_DFL, signal.SIG_IGN]
    assert mask == signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_closing_the_generator_ends_the_workers():
    asked = parallel.each(lambda thing: (os.getpid(), signal.pause() if thing == 2 else None), range(10), 2)
    pids = [next(asked)[1][0] for _ in range(3)]
    asked.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Files for the demo."""
    made = tmp_path / "dataset"
    made.mkdir()
    for number in range(40):
        (made / f"{number}.bin").write_bytes(pattern(number, 20_000))
    return made


@pytest.fixture
def demo(dataset: Path) -> list[str]:
    """A demo that takes minutes."""
    return ["demo", "--dataset", str(dataset), "--workers", "2", "--shards", "1", "--latency", "500", "--epochs", "50"]


def until(process: subprocess.Popen[str], word: str) -> None:
    """Read stderr until a line begins with the word."""
    for line in process.stderr:
        if line.startswith(word):
            return
    raise AssertionError(f"it never came to {word}")


@pytest.mark.parametrize(("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")])
def test_a_signal_to_the_demo_alone(demo, shared_memory, number, code, word):
    with started(*demo) as process:
        until(process, "uncached")
        children(process, 2, "spawn_main")
        process.send_signal(number)
        ends(process, code, f"foliocache: {word}")
    assert os.listdir(shared_memory) == []


def test_the_demos_origin_is_killed(demo, shared_memory):
    with started(*demo) as process:
        until(process, "uncached")
        children(process, 2, "spawn_main")
        os.kill(children(process, 1, "foliocache.cli.demo.origin")[0], signal.SIGKILL)
        ends(process, 3, "foliocache: (worker . failed|the origin server).*")
    assert os.listdir(shared_memory) == []


def test_the_output_of_the_demo_is_closed(dataset, shared_memory):
    """Neither its progress nor its report can be written; it cleans up all the same."""
    command = [sys.executable, "-m", "foliocache", "demo", "--dataset", str(dataset), "--workers", "1", "--latency", "0"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, env=environment(), stdout=writer, stderr=writer, timeout=LIMIT, check=False)
    os.close(writer)
    assert done.returncode == 0
    assert os.listdir(shared_memory) == []


@pytest.mark.parametrize("arguments", [["ls"], ["ls", "--json"], ["stat"], ["stat", "--json"], ["--help"]], ids=" ".join)
def test_what_cannot_be_written(pool_name, arguments):
    """No traceback, and no message or exit code of the interpreter's own, also where the last flush is the first write."""
    foliocache.open(pool_name, size="4MiB")
    command = [sys.executable, "-m", "foliocache", *arguments, *([] if "--help" in arguments else [pool_name])]
    reader, writer = os.pipe()
    os.close(reader)
    options = {"env": environment(), "timeout": LIMIT, "check": False}
    left = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, **options)
    os.close(writer)
    assert (left.returncode, left.stderr) == (0, b"")
    with open("/dev/full", "w") as full:
        no_room = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, **options)
    assert (no_room.returncode, no_room.stderr) == (3, b"foliocache: [Errno 28] No space left on device\n")
    closed = subprocess.run(["bash", "-c", '"$@" >&-', "bash", *command], stderr=subprocess.PIPE, **options)
    assert b"Traceback" not in closed.stderr


class Hanging(ThreadingHTTPServer):
    """A server of one large object, which answers so many requests of ranges, and never the next ones."""

    daemon_threads = True
    size = 64 * 2**20

    def __init__(self, answers: int):
        super().__init__(("127.0.0.1", 0), Slow)
        self.answers = answers
        self.hanging = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/object"


class Slow(BaseHTTPRequestHandler):
    """Handles its requests."""

    server: Hanging

    def do_HEAD(self) -> None:
        self.head(200, self.server.size)

    def head(self, status: int, length: int, **more: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(length), "Accept-Ranges": "bytes", "ETag": '"1"', **more}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def do_GET(self) -> None:
        start, end = map(int, re.findall(r"\d+", self.headers["Range"]))
        self.server.answers -= 1
        if self.server.answers < 0:
            self.server.hanging.set()
            self.connection.recv(1)  # until the client has gone
            self.close_connection = True
        else:
            self.head(206, end - start + 1, Content_Range=f"bytes {start}-{end}/{self.server.size}")
            self.wfile.write(bytes(end - start + 1))

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(params=[0, 3], ids=["at once", "later"])
def hanging(request: pytest.FixtureRequest) -> Iterator[Hanging]:
    """A server that hangs at once, or later."""
    server = Hanging(request.param)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")])
def test_a_signal_to_warm(hanging, pool_name, number, code, word):
    with started("warm", hanging.url, "--name", pool_name, "--size", "16MiB") as process:
        assert hanging.hanging.wait(LIMIT)
        process.send_signal(number)
        ends(process, code, f"foliocache: {word}")
    pool = foliocache.attach(pool_name)
    assert pool.audit() == [] and pool.stat().pins == 0


def test_warm_is_killed(hanging, pool_name):
    with started("warm", hanging.url, "--name", pool_name, "--size", "16MiB") as process:
        assert hanging.hanging.wait(LIMIT)
        process.kill()
        process.communicate(timeout=SOON)
    pool = foliocache.attach(pool_name)
    assert pool.audit() == [] and pool.stat().pins == 0
