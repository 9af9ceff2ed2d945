"""Several processes at once: each page crosses the wire once, by spawn and by fork, over http and over s3."""

from __future__ import annotations

import gc
import hashlib
import os
import pickle
import random

import fsspec
import pytest
from test_fs_identity import other
from together import together

import foliocache
from foliocache.adapters.fsspec import FolioFileSystem

WORKERS = 3


@pytest.fixture(params=["http", "s3"])
def place(request, pool, data):
    """(url, fsspec options, path at the origin, counting origin)."""
    if request.param == "http":
        origin = request.getfixturevalue("origin")
        return f"folio::{origin.put('/x', data)}", {"folio": pool}, "/x", origin
    s3 = request.getfixturevalue("s3")
    s3.bare.pipe_file("bucket/x", data)
    s3.forget_counts()
    return "folio::s3://bucket/x", {"folio": pool, "s3": s3.options}, "/bucket/x", s3


def digest(data):
    return hashlib.sha256(data).hexdigest()


def read_shuffled(number, url, options, size):
    """The whole object in pieces that cross folios, in this worker's own order."""
    with fsspec.open(url, **options) as file:
        pieces = {}
        starts = list(range(0, size, 50_001))
        random.Random(number).shuffle(starts)
        for start in starts:
            file.seek(start)
            pieces[start] = file.read(50_001)
        assert file.seek(0, os.SEEK_END) == size
    return digest(b"".join(pieces[start] for start in sorted(pieces)))


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_each_page_is_fetched_once(place, method, data):
    url, options, path, origin = place
    assert together(method, WORKERS, read_shuffled, url, options, len(data)) == [digest(data)] * WORKERS
    assert origin.sent[path] == len(data)


def read_all(number, fs, path):
    return digest(fs.cat_file(path)), bytes(fs.lease(path, 7, 9)), number


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_filesystem_travels_to_workers(place, method, data):
    """Pickled by spawn, inherited by fork; in both cases it has been used before, so it has sessions that must not travel."""
    url, options, path, origin = place
    fs, name = fsspec.url_to_fs(url, **options)
    assert fs.cat_file(name, 0, 10) == data[:10]
    assert together(method, WORKERS, read_all, fs, name) == [(digest(data), data[7:16], number) for number in range(WORKERS)]
    assert fs.cat_file(name) == data
    assert origin.sent[path] == len(data)


def read_rest(number, file):
    return digest(file.read())


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_open_file_travels_to_workers(place, method, data):
    url, options, path, origin = place
    with fsspec.open(url, **options) as file:
        file.read(1000)
        assert together(method, WORKERS, read_rest, file) == [digest(data[1000:])] * WORKERS
        assert digest(file.read()) == digest(data[1000:])
    assert origin.sent[path] == len(data)


def test_fork_in_the_middle_of_a_fetch(pool, origin, data):
    """The child is forked while the parent's loop thread is at work, and another thread of the parent waits for it."""
    fs = FolioFileSystem(target_protocol="http", **pool)
    url = origin.put("/x", data)
    answers = []

    def fork_now(path, headers):
        origin.before_get = lambda path, headers: None
        answers.extend(together("fork", 1, read_other, fs, url.replace("/x", "/y")))

    origin.put("/y", other(data))
    origin.before_get = fork_now
    assert fs.cat_file(url) == data
    assert answers == [digest(other(data))]


def test_child_that_tidies_up_does_not_cut_the_parent_off(pool, origin, data):
    """Its garbage collector closes sessions that it inherited, on a loop whose epoll set is the parent's too."""
    aiohttp = pytest.importorskip("aiohttp")
    options = {"client_kwargs": {"timeout": aiohttp.ClientTimeout(20)}}

    def read(path):  # leaves no reference behind: fsspec's instance cache is all that holds the session
        return FolioFileSystem(target_protocol="http", target_options=options, **pool).cat_file(origin.put(path, data))

    assert read("/x") == data
    together("fork", 1, tidy_up)
    assert read("/y") == data


def tidy_up(number):
    for kind in (FolioFileSystem, fsspec.get_filesystem_class("http")):
        kind.clear_instance_cache()
    gc.collect()


def test_forking_leaves_the_garbage_collector_as_it_was():
    for enabled in (True, False):
        (gc.enable if enabled else gc.disable)()
        try:
            assert together("fork", 1, is_collecting) == [enabled]
            assert gc.isenabled() == enabled
        finally:
            gc.enable()


def is_collecting(number):
    return gc.isenabled()


def read_other(number, fs, url):
    return digest(fs.cat_file(url))


def read_then_wait(number, fs, url, changed):
    first = fs.cat_file(url)
    changed.wait(60)
    return digest(first), digest(fs.cat_file(url))


def test_change_is_seen_by_all(http, origin, data):
    import multiprocessing

    url = origin.put("/x", data)
    barrier = multiprocessing.get_context("spawn").Barrier(WORKERS)
    assert (
        together("spawn", WORKERS, read_change_read, http, url, other(data), barrier)
        == [(digest(data), digest(other(data)))] * WORKERS
    )
    assert origin.sent["/x"] == 2 * len(data)


def read_change_read(number, fs, url, new, barrier):
    first = fs.cat_file(url)
    if barrier.wait(60) == 0:
        fs.fs.pipe_file(url, new)  # behind the cache's back
    barrier.wait(60)
    return digest(first), digest(fs.cat_file(url))


def test_delete_in_one_process_is_seen_by_another(local, tmp_path, data):
    path = f"{tmp_path}/x"
    local.pipe_file(path, data)
    assert local.cat_file(path) == data
    together("spawn", 1, remove, local, path)
    assert local.pool.mappings() == []
    with pytest.raises(FileNotFoundError):
        local.cat_file(path)


def remove(number, fs, path):
    fs.rm(path)


def test_pool_is_the_same_object_in_one_process(pool, local):
    assert pickle.loads(pickle.dumps(local)).pool is local.pool is foliocache.open(**pool)


# What a path means is asked for once by the machine.


def read_names(number, url, options):
    with fsspec.open(url, **options) as file:
        return digest(file.read())


@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.parametrize("options", [{"expiry": 60}, {"check_files": False}])
def test_the_origin_is_asked_once(pool, origin, data, method, options):
    url = f"folio::{origin.put('/x', data)}"
    assert together(method, WORKERS, read_names, url, {"folio": pool | options}) == [digest(data)] * WORKERS
    assert origin.requests["HEAD"] == 0
    assert origin.sent["/x"] == len(data)


def test_by_default_each_open_asks(pool, origin, data):
    url = f"folio::{origin.put('/x', data)}"
    together("spawn", WORKERS, read_names, url, {"folio": pool})
    assert origin.requests["HEAD"] == WORKERS - 1
    assert origin.sent["/x"] == len(data)


def open_ten_times(number, url, options):
    return {digest(fsspec.open(url, **options).open().read()) for _ in range(10)}


@pytest.mark.parametrize(("options", "asked"), [({"expiry": 60}, 0), ({"check_files": False}, 0), ({}, 4 * 10 - 1)])
def test_four_workers_open_an_object_ten_times(pool, origin, data, options, asked):
    """With an expiry the machine asks once, and the question brings the object. By default each further open has its HEAD."""
    small = data[:200_000]
    url = f"folio::{origin.put('/x', small)}"
    assert together("spawn", 4, open_ten_times, url, {"folio": pool | options}) == [{digest(small)}] * 4
    assert origin.requests == {"GET": 1} | ({"HEAD": asked} if asked else {})


def write(number, options, path, data):
    FolioFileSystem(target_protocol="file", **options).pipe_file(path, data)


def test_another_process_writes(pool, tmp_path, data):
    """Through the same pool: at once, whatever is remembered here."""
    path = str(tmp_path / "x")
    options = pool | {"check_files": False}
    fs = FolioFileSystem(target_protocol="file", **options)
    fs.pipe_file(path, data)
    assert fs.cat_file(path) == data
    together("spawn", 1, write, options, path, other(data))
    assert fs.cat_file(path) == other(data)


def remove_tree(number, options, path):
    FolioFileSystem(target_protocol="file", **options).rm(path, recursive=True)


def test_another_process_removes_a_tree(pool, tmp_path, data):
    options = pool | {"check_files": False}
    fs = FolioFileSystem(target_protocol="file", target_options={"auto_mkdir": True}, **options)
    path = str(tmp_path / "folder" / "x")
    fs.pipe_file(path, data)
    assert fs.cat_file(path) == data
    together("spawn", 1, remove_tree, options, str(tmp_path / "folder"))
    with pytest.raises(FileNotFoundError):
        fs.cat_file(path)


def is_missing(number, url, options):
    try:
        fsspec.open(url, **options).open()
    except FileNotFoundError:
        return True
    return False


@pytest.mark.parametrize(("options", "asked"), [({"expiry": 60}, 1), ({"check_files": False}, WORKERS)])
def test_that_there_is_nothing_is_remembered_with_expiry_alone(pool, origin, options, asked):
    url = f"folio::{origin.url}/nothing"
    assert together("spawn", WORKERS, is_missing, url, {"folio": pool | options}) == [True] * WORKERS
    assert origin.requests == {"GET": asked}


def test_another_account_asks_for_itself(pool, origin, data):
    url = origin.put("/x", data)
    for token in ("one", "two", "one"):
        target = {"client_kwargs": {"headers": {"Authorization": token}}}
        assert FolioFileSystem(target_protocol="http", target_options=target, expiry=60, **pool).cat_file(url) == data
    assert origin.requests["HEAD"] == 0
    assert origin.sent["/x"] == 2 * len(data)  # whose headers may choose other bytes
