"""Windows of large chunks that stay open: they leave room in the pool, whatever the number of stores and processes."""

import gc
import os
import time

import numpy
import pytest
import zarr
from zarr.storage import LocalStore

import foliocache
from foliocache.adapters.zarr import held as module
from foliocache.zarr import FolioStore

SIZE = 16 << 20
CHUNK = (1024, 700)
STORES = 16
PATIENCE = 30  # seconds


@pytest.fixture(autouse=True)
def pipeline():
    with zarr.config.set({"codec_pipeline.path": "foliocache.zarr.CachedCodecPipeline"}):
        yield


@pytest.fixture
def pool(pool_name):
    pool = foliocache.open(pool_name, size=SIZE)
    yield pool
    assert pool.audit() == []


@pytest.fixture
def store(pool, tmp_path):
    for n in range(STORES):
        array = zarr.create_array(LocalStore(tmp_path), name=f"{n}", shape=(3 * CHUNK[0], CHUNK[1]), chunks=CHUNK, dtype="u1")
        array[:] = n + 1
    return FolioStore(LocalStore(tmp_path), pool)


def read(store, n):
    """Read a column of each chunk, through a store of its own, and return the array."""
    array = zarr.open_array(store, path=f"{n}", mode="r")
    for first in range(0, array.shape[0], CHUNK[0]):
        assert numpy.all(array[first : first + CHUNK[0], :5] == n + 1)
    return array


def test_stores_of_one_process_hold_no_more_than_one(store, pool):
    arrays = [read(store, n) for n in range(STORES)]
    assert len({id(each.store) for each in arrays}) == STORES
    held = store.held
    assert all(each.store.held is held for each in arrays)
    assert 0 < held._bytes == sum(map(len, held._windows.values())) <= SIZE // module.SHARE
    assert pool.stat().counters.bypasses == 0  # there was room for every chunk
    del held, arrays, store.held
    deadline = time.monotonic() + PATIENCE
    while pool.stat().pins and time.monotonic() < deadline:
        gc.collect()  # tasks of Zarr's loop, which ends them in its own thread
    assert pool.stat().pins == 0


def test_stores_of_other_data_hold_other_windows(store, pool, tmp_path):
    """The keys of two stores may be equal."""
    other = FolioStore(LocalStore(tmp_path / "other"), pool)
    array = zarr.create_array(other, name="0", shape=CHUNK, chunks=CHUNK, dtype="u1")
    array[:] = 1
    for _ in range(3):
        for each in store, other:
            read(each, 0)
    chunks = [key for key, _ in store.held._windows]
    assert other._prefix + "0/c/0/0" in chunks and store._prefix + "0/c/2/0" in chunks


def test_processes_share_the_part_of_the_pool_that_they_hold(store, pool, pool_name, monkeypatch):
    monkeypatch.setattr(module, "COUNT_SECONDS", 0)
    read(store, 0)
    alone = store.held._bytes
    assert alone > SIZE // module.SHARE // 2
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            foliocache.open(pool_name).stat()
            pool.get_or_create("joins", lambda: b"1")
            os.write(ready[1], b"x")
            os.read(go[0], 1)
        finally:
            os._exit(0)
    try:
        assert os.read(ready[0], 1) == b"x"
        read(store, 1)
        assert 0 < store.held._bytes <= SIZE // module.SHARE // 2
    finally:
        os.write(go[1], b"x")
        os.waitpid(child, 0)


def test_a_forked_child_holds_windows_though_a_thread_of_its_parent_was_here(store):
    read(store, 0)
    with store.held._lock:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                read(store, 1)
                status = not any("/1/" in key for key, _ in store.held._windows)
            finally:
                os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert numpy.all(read(store, 0)[:] == 1)
