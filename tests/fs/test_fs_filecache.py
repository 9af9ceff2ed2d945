"""cache_type="folio" on filesystems that know nothing of us."""

from __future__ import annotations

import os
import pickle

import fsspec
import pytest
from fsspec.caching import caches
from test_fs_http import begins_earlier
from test_fs_identity import other
from together import together

from foliocache import ChangedError
from foliocache.adapters.fsspec import FolioCache, FolioFileSystem

BIG = 1 << 30  # HTTPFile.read() of more than a block goes past any cache


@pytest.fixture(params=["http", "s3"])
def place(request, data):
    """(open function, counting origin, path, write)."""
    server = request.getfixturevalue("origin" if request.param == "http" else "s3")
    fs = fsspec.filesystem("http") if request.param == "http" else server.bare
    path = f"{server.url}/x" if request.param == "http" else "bucket/x"

    def write(data):
        server.put("/x", data) if request.param == "http" else fs.pipe_file(path, data)

    write(data)
    server.forget_counts()
    return fs, server, path, write


def sent(server):
    return sum(count for path, count in server.sent.items() if path.endswith("/x"))


def opened(fs, path, pool, **options):
    return fs.open(path, "rb", block_size=BIG, cache_type="folio", cache_options={"pool": pool, **options})


def test_is_registered():
    assert caches["folio"] is FolioCache


def test_object_is_fetched_once(place, pool, data):
    fs, server, path, _ = place
    for _ in range(3):
        with opened(fs, path, pool) as file:
            assert isinstance(file.cache, FolioCache)
            assert file.read() == data
            file.seek(1000)
            assert file.read(50) == data[1000:1050]
            buffer = bytearray(100)
            assert file.readinto(buffer) == 100
            assert buffer == data[1050:1150]
    assert sent(server) == len(data)


def test_pages_are_those_of_the_filesystem(place, pool, data):
    fs, server, path, _ = place
    folio = FolioFileSystem(fs=fs, **pool)
    assert folio.cat_file(path) == data
    with opened(fs, path, pool) as file:
        assert file.read() == data
    assert sent(server) == len(data)


def test_changed_object(place, pool, data):
    fs, _, path, write = place
    with opened(fs, path, pool) as file:
        assert file.read(10) == data[:10]
        write(other(data))
        file.seek(len(data) - 10)
        with pytest.raises(OSError):  # ChangedError, or s3fs's own FileExpired
            file.read()
    with opened(fs, path, pool) as file:
        assert file.read() == other(data)


def test_pickled_file_keeps_its_pool(place, pool, data):
    fs, server, path, _ = place
    with opened(fs, path, pool) as file:
        assert file.read() == data
        file.seek(1000)
        pickled = pickle.dumps(file)
    assert together("spawn", 1, read_pickled, pickled, pool["name"]) == [data[1000:1010]]
    assert sent(server) == len(data)


def read_pickled(number, pickled, pool_name):
    file = pickle.loads(pickled)
    assert file.cache._mapping.pool.name == pool_name
    return file.read(10)


def test_file_does_not_survive_a_fork_in_silence(origin, pool, data):
    """fsspec's own files hang in a forked child, waiting for the parent's loop. What is cached is read, the rest refused."""
    with opened(fsspec.filesystem("http"), origin.put("/x", data), pool) as file:
        assert file.read(10) == data[:10]
        assert together("fork", 1, read_inherited, file) == [(data[:10], "folio: this file was opened before the fork")]


def read_inherited(number, file):
    file.seek(0)
    cached = file.read(10)
    file.seek(-10, os.SEEK_END)
    with pytest.raises(RuntimeError) as error:
        file.read()
    return cached, str(error.value).partition(",")[0]


def test_explicit_identity(pool, data):
    fetched = []

    def fetch(start, end):
        fetched.append(end - start)
        return data[start:end]

    for _ in range(2):
        cache = FolioCache(1, fetch, len(data), pool=pool, key="object", version="1")
        assert cache._fetch(0, None) == data
        assert cache._fetch(5, 5) == cache._fetch(len(data), len(data) + 5) == b""
    assert sum(fetched) == len(data)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"pool": {"pagesize": 1}}, TypeError, "'pagesize'"),
        ({"key": "k"}, ValueError, "both or neither"),
        ({}, ValueError, "cache_options"),
    ],
)
def test_bad_options(options, error, words):
    with pytest.raises(error, match=words):
        FolioCache(1, lambda start, end: b"", 5, **options)


def test_empty_object_and_size_that_is_out_of_date(origin, pool, data):
    fs = fsspec.filesystem("http")
    assert FolioCache(1, lambda start, end: b"", 0, pool=pool)._fetch(0, 10) == b""
    url = origin.put("/x", data)
    with pytest.raises(ChangedError):
        fs.open(url, cache_type="folio", cache_options={"pool": pool}, size=17)


def test_file_opened_with_options_of_its_own_is_not_cached(origin, pool, data):
    """They may choose other bytes than the path names, and nobody else asked for those."""
    url = origin.put("/x", data)
    fs = fsspec.filesystem("http")
    cache = {"cache_type": "folio", "cache_options": {"pool": pool}}
    with fs.open(url, "rb", block_size=BIG, headers={"Accept-Language": "de"}, **cache) as file:
        assert file.cache._mapping is None
        assert file.read(10) == data[:10]
    with fs.open(url, "rb", block_size=BIG, **cache) as file:
        assert file.cache._mapping is not None


def test_answer_that_begins_elsewhere_is_not_filed(origin, pool, data):
    url = origin.put("/x", data, twist=begins_earlier(data))
    fs = fsspec.filesystem("http")
    for _ in range(2):
        with opened(fs, url, pool) as file:
            for offset in (600_000, 450_000):
                file.seek(offset)
                assert file.read(100) == data[offset : offset + 100]


def test_what_nothing_proves_is_not_cached(origin, pool, data):
    fs = fsspec.filesystem("http")
    for content in (data, other(data)):
        with opened(fs, origin.put("/x", content, etag=None), pool) as file:
            assert file.cache._mapping is None
            assert file.read() == content
    with opened(fs, origin.put("/x", data, etag=None), pool, trust_info=True) as file:
        assert file.cache._mapping is not None
        assert file.read() == data
