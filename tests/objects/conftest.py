"""One pool for a whole file of tests; each test uses keys of its own."""

import contextlib
import os
import threading
import uuid

import pytest

import foliocache


@pytest.fixture(scope="module")
def shared():
    """A pool of 64 MiB, sound at the end."""
    name = f"test-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    with contextlib.suppress(foliocache.PoolNotFoundError):
        pool = foliocache.open(name, size="64MiB")
        yield pool
        assert pool.audit() == []
        foliocache.remove(name)


@pytest.fixture
def key(request):
    return request.node.name


@pytest.fixture
def asleep(shared, monkeypatch):
    """An event that is set when something in this process sleeps until another has made an object."""
    slept = threading.Event()
    table = shared.objects._names._table

    class Watched:
        def __getattr__(self, name):
            return getattr(table, name)

        def wait(self, *arguments):
            slept.set()
            return table.wait(*arguments)

    monkeypatch.setattr(shared.objects._names, "_table", Watched())
    return slept
