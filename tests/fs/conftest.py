"""Pools, origins and helpers for the tests of the fsspec adapter."""

from __future__ import annotations

import itertools
import os
import random
import time

import fsspec
import pytest
from origin import Origin, Proxy, moto

import foliocache
import foliocache.adapters.fsspec
from foliocache.adapters.fsspec import FolioFileSystem, identities
from foliocache.adapters.fsspec.target import target_for

_numbers = itertools.count()


@pytest.fixture(autouse=True)
def nothing_remembered():
    """The tests use the same names again and again."""
    identities._tables.clear()


@pytest.fixture
def pool():
    """The `folio` options of a pool that is this test's own."""
    options = {"name": f"test-fs-{os.getpid()}-{next(_numbers)}", "size": "16MiB"}
    yield options
    FolioFileSystem.clear_instance_cache()  # or its instances would hold the memory of all the tests' pools
    foliocache.open(**options).close()
    foliocache.remove(options["name"])


@pytest.fixture(scope="session")
def _origin():
    with Origin().running() as server:
        yield server


@pytest.fixture
def origin(_origin):
    """The HTTP origin, empty."""
    _origin.things.clear()
    _origin.before_get = lambda path, headers: None
    _origin.forget_counts()
    return _origin


@pytest.fixture(scope="session")
def _s3():
    pytest.importorskip("s3fs")
    with moto() as url, Proxy(url).running() as proxy:
        yield proxy


@pytest.fixture
def s3(_s3):
    """The counting proxy of a real S3 endpoint; `s3.options` for s3fs; an empty bucket `bucket`."""
    _s3.options = {"key": "k", "secret": "s", "endpoint_url": _s3.url, "client_kwargs": {"region_name": "eu-west-1"}}
    fsspec.get_filesystem_class("s3").clear_instance_cache()  # with the listings that its instances remember of other tests
    bare = fsspec.filesystem("s3", **_s3.options, use_listings_cache=False)
    if bare.exists("bucket"):
        bare.rm("bucket", recursive=True)
    bare.mkdir("bucket")
    _s3.bare = bare
    _s3.deaf = False
    _s3.forget_counts()
    return _s3


@pytest.fixture
def data():
    """2 MiB and a bit that no mistake of offset reads right."""
    return random.Random(7).randbytes((2 << 20) + 4321)


@pytest.fixture
def settled(tmp_path):
    """Waits until a file's stamps are old enough to tell a rewrite; until then each open is a version of its own."""

    def settled(path):
        target = target_for(fsspec.filesystem("file"))
        deadline = time.monotonic() + 10
        while target.identify(str(path)) != target.identify(str(path)):
            assert time.monotonic() < deadline, "its stamps never settle"
        return str(path)

    return settled


@pytest.fixture
def local(pool):
    """folio over files."""
    return FolioFileSystem(target_protocol="file", target_options={"auto_mkdir": True}, **pool)


@pytest.fixture
def http(pool):
    """folio over http."""
    return FolioFileSystem(target_protocol="http", **pool)
