"""The server that the recipes read from, and the processes that run them."""

import tempfile
from pathlib import Path

import pytest
from running import Kitchen, serving


@pytest.fixture(scope="session")
def _server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("origin")) as server:
        yield server


@pytest.fixture
def server(_server):
    """The server, with nothing counted."""
    _server.forget()
    return _server


@pytest.fixture
def kitchen(server, tmp_path):
    with tempfile.TemporaryDirectory(prefix="foliocache-test-", dir="/dev/shm") as pools:
        yield Kitchen(server, tmp_path, Path(pools))
