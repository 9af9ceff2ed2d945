"""Every test has its own pools, which are removed afterwards."""

import contextlib
import fcntl
import os
import signal
import threading
import uuid

import guard
import pytest

import foliocache
from foliocache.pool import names as names_module

# A shell that starts the tests in the background makes them ignore SIGINT, and every process that they start would inherit
# that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config):
    config.pluginmanager.register(guard)


@pytest.fixture
def alone_with_benchmarks(tmp_path_factory):
    """No other process of this run has benchmarks' pools in /dev/shm meanwhile."""
    folder = tmp_path_factory.getbasetemp()
    with open((folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "benchmarks.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture
def pool_name():
    """A name that no other test uses."""
    name = f"test-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    yield name
    with contextlib.suppress(foliocache.PoolNotFoundError):
        foliocache.remove(name)


@pytest.fixture
def pool(pool_name):
    """A pool of 256 pages of 16 KiB. After the test its audit must be empty."""
    pool = foliocache.open(pool_name, size="4MiB")
    yield pool
    assert (foliocache.open(pool_name) if pool.closed else pool).audit() == []


class Source:
    """A source of ``size`` bytes that records its calls."""

    def __init__(self, size, seed=0):
        pattern = bytes((i * 7 + seed) % 251 for i in range(251 * 64))
        self.content = (pattern * (size // len(pattern) + 1))[:size]
        self.calls = []

    @property
    def bytes_read(self):
        return sum(length for _, length in self.calls)

    def read(self, offset, length):
        self.calls.append((offset, length))
        return self.content[offset : offset + length]

    def readinto(self, offset, buffer):
        self.calls.append((offset, len(buffer)))
        buffer[:] = self.content[offset : offset + len(buffer)]
        return len(buffer)


@pytest.fixture
def source():
    """A Source of 500,003 bytes: 31 folios of one page in the pool of the fixture."""
    return Source(500_003)


@pytest.fixture
def make_source():
    return Source


@pytest.fixture
def waited(monkeypatch):
    """An event: a thread has begun to wait for a question that another thread or process asks for a name."""
    slept = threading.Event()
    original = names_module.NameTable

    class Watched:
        def __init__(self, *arguments):
            self.table = original(*arguments)

        def __getattr__(self, name):
            return getattr(self.table, name)

        def wait(self, *arguments):
            slept.set()
            return self.table.wait(*arguments)

        def doze(self, *arguments):
            slept.set()
            return self.table.doze(*arguments)

    monkeypatch.setattr(names_module, "NameTable", Watched)
    return slept
