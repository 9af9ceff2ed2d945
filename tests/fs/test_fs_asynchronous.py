"""The coroutines of ``folio``: the same bytes as by its functions, from any loop, and threads only for what is not cached."""

from __future__ import annotations

import asyncio
import gc
import pickle
import random
import threading
import warnings

import fsspec
import numpy as np
import pytest
from fsspec.asyn import AbstractAsyncStreamedFile
from fsspec.implementations.memory import MemoryFileSystem
from test_fs_identity import other
from together import together

from foliocache import ChangedError
from foliocache.adapters.fsspec import FolioFileSystem
from foliocache.filler import awaiting
from foliocache.filler.engine import THREADS_MAX

LIMIT = 60


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, LIMIT))


@pytest.fixture
def trusting(pool):
    """folio over http, which asks about each object once."""
    return FolioFileSystem(target_protocol="http", check_files=False, asynchronous=True, **pool)


@pytest.fixture(params=["http", "s3", "file"])
def place(request, pool, tmp_path):
    """(filesystem, path, write) over two targets that are asynchronous and one that is not."""
    if request.param == "http":
        origin = request.getfixturevalue("origin")
        return FolioFileSystem(target_protocol="http", **pool), f"{origin.url}/x", lambda data: origin.put("/x", data)
    if request.param == "s3":
        s3 = request.getfixturevalue("s3")
        fs = FolioFileSystem(target_protocol="s3", target_options=s3.options, **pool)
        return fs, "bucket/x", lambda data: s3.bare.pipe_file("bucket/x", data)
    return FolioFileSystem(target_protocol="file", **pool), str(tmp_path / "x"), (tmp_path / "x").write_bytes


def test_reads(place, data):
    fs, path, write = place
    write(data)

    async def read():
        assert await fs._cat_file(path) == data
        assert await fs._cat_file(path, -100) == data[-100:]
        assert await fs._cat([path]) == {path: data}
        assert (await fs._info(path))["size"] == await fs._size(path) == len(data)
        assert await fs._exists(path) and await fs._isfile(path) and not await fs._isdir(path)
        starts, ends = [0, 10, 1_000_000, -5], [5, 20, 1_000_100, None]
        for max_gap in (None, 0, 100):
            found = await fs._cat_ranges([path] * 4, starts, ends, max_gap=max_gap)
            assert found == [data[start:end] for start, end in zip(starts, ends, strict=True)]

    run(read())


def test_changed_object_is_read_anew(place, data):
    fs, path, write = place
    fs._trust = 1e9

    async def read():
        write(data)
        assert await fs._cat_file(path, 0, 10) == data[:10]
        write(other(data))
        assert await fs._cat_ranges([path] * 2, [len(data) - 10] * 2, [None] * 2) == [other(data)[-10:]] * 2
        async with await fs.open_async(path) as file:
            assert await file.read(10) == other(data)[:10]
            write(data)
            file.seek(-10, 2)
            with pytest.raises(ChangedError):
                await file.read()
                file.seek(1_500_000)
                await file.read()

    run(read())


def test_missing_object(place):
    fs, path, _ = place

    async def read():
        for call in (fs._cat_file, fs._info, fs.open_async):
            with pytest.raises(FileNotFoundError):
                await call(path)
        (found,) = await fs._cat_ranges([path], [0], [1])
        assert isinstance(found, FileNotFoundError)
        with pytest.raises(FileNotFoundError):
            await fs._cat_ranges([path], [0], [1], on_error="raise")
        assert not await fs._exists(path)

    run(read())


def test_files(place, data):
    fs, path, write = place
    write(data)

    async def read():
        file = await fs.open_async(path)
        assert isinstance(file, AbstractAsyncStreamedFile)
        assert file.size == len(data)
        pieces = [await file.read(1000), await file.read()]
        assert b"".join(pieces) == data and file.tell() == file.loc == len(data)
        await file.close()
        with pytest.raises(ValueError, match="closed"):
            await file.read()
        for mode in ("r", "w"):
            with pytest.raises(ValueError, match="binary"):
                await fs.open_async(path, mode)

    run(read())


def test_writes(pool, tmp_path, data):
    fs = FolioFileSystem(target_protocol="file", target_options={"auto_mkdir": True}, **pool)
    path = str(tmp_path / "folder" / "x")

    async def write():
        async with await fs.open_async(path, "wb") as file:
            assert await file.write(data) == len(data)
            with pytest.raises(ValueError, match="read mode"):
                await file.read()
        assert await fs._cat_file(path) == data
        await fs._pipe_file(path, other(data))
        assert await fs._cat_file(path) == other(data)
        await fs._cp_file(path, f"{path}2")
        assert sorted(await fs._find(str(tmp_path))) == [path, f"{path}2"]
        assert await fs._ls(str(tmp_path / "folder"), detail=False)
        await fs._get_file(path, f"{path}3")
        await fs._rm(str(tmp_path / "folder"), recursive=True)
        assert not await fs._exists(path)

    run(write())


def test_what_is_cached_needs_no_thread_and_no_loop_but_the_callers(trusting, origin, data, monkeypatch):
    url = origin.put("/x", data)
    assert trusting.cat_file(url) == data

    def refuse(*args, **kwargs):
        raise AssertionError("this is not needed")

    monkeypatch.setattr(awaiting, "_threads_of_callers", refuse)
    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", refuse)

    async def read():
        assert await trusting._cat_file(url, 5, 50) == data[5:50]
        assert await trusting._cat_ranges([url] * 2, [0, 7], [5, 9]) == [data[:5], data[7:9]]

    run(read())
    assert trusting.cat_file(url, 5, 50) == data[5:50]
    assert trusting.cat_ranges([url] * 2, [0, 7], [5, 9]) == [data[:5], data[7:9]]
    assert bytes(trusting.lease(url, 5, 50)) == data[5:55]
    with trusting.open(url) as file:
        assert file.read() == data


@pytest.mark.parametrize("place", ["http", "s3"], indirect=True)
def test_what_is_missing_needs_no_thread_of_ours(place, data, monkeypatch):
    """The target's coroutines ask and read; one answer serves all tasks, also the one that there is no such object."""
    fs, path, write = place
    write(data)
    fs._trust = 60
    fs._mapping_options = {"readahead": 0}
    assert not fs.pool.closed  # making a pool does need one

    def refuse(*args, **kwargs):
        raise AssertionError("this is not needed")

    monkeypatch.setattr(awaiting, "_threads_of_callers", refuse)
    asked = fs.target.identify_async, fs.target.first_async
    questions = []
    monkeypatch.setattr(fs.target, "identify_async", lambda path: questions.append(path) or asked[0](path))
    monkeypatch.setattr(fs.target, "first_async", lambda path, *range: questions.append(path) or asked[1](path, *range))

    async def read():
        parts = await asyncio.gather(*(fs._cat_file(path, start, start + 10) for start in range(0, 1_000_000, 9_999)))
        assert parts == [data[start : start + 10] for start in range(0, 1_000_000, 9_999)]
        assert await fs._cat_ranges([path] * 2, [0, 1_900_000], [5, None]) == [data[:5], data[1_900_000:]]
        absent = await asyncio.gather(*(fs._cat_file(f"{path}y") for _ in range(9)), return_exceptions=True)
        assert {type(one) for one in absent} == {FileNotFoundError}

    run(read())
    assert sorted(set(questions)) == [path, f"{path}y"] and questions.count(path) == 1 and questions.count(f"{path}y") <= 2
    assert len(fs.pool.engine._state.spare) == THREADS_MAX


@pytest.mark.parametrize("max_gap", [None, 0])
def test_long_ranges_are_read_by_one_thread(trusting, origin, pool, monkeypatch, max_gap):
    """As by ``cat_ranges``: beside what is cached, what is short, and what fails, each in its place, and each byte once."""
    data = random.Random(3).randbytes(9 << 20)
    long, absent, empty = origin.put("/long", data), f"{origin.url}/absent", origin.put("/empty", b"")
    threads, read_all = [], trusting._read_all
    starts = range(0, len(data), 300_000)
    paths = [*[long] * len(starts), absent, empty, long]
    asked = paths, [*starts, 0, 0, -10], [*(start + 300_000 for start in starts), 5, None, None]

    async def read():
        assert await trusting._cat_file(long, 0, 100_000) == data[:100_000]
        monkeypatch.setattr(trusting, "_read_all", lambda *job: threads.append(len(job[0])) or read_all(*job))
        for _ in range(2):
            *found, failed, nothing, last = await trusting._cat_ranges(*asked, max_gap=max_gap)
            assert found == [data[start : start + 300_000] for start in starts]
            assert isinstance(failed, FileNotFoundError) and nothing == b"" and last == data[-10:]
            assert len(threads) == (max_gap is None), "merged, it is one range; and the second time, all is cached"
        trusting.invalidate_cache()
        trusting.pool.forget(next(each.key for each in trusting.pool.mappings() if each.size))
        with pytest.raises(FileNotFoundError):
            await trusting._cat_ranges(*asked, max_gap=max_gap, on_error="raise")

    run(read())


def test_long_ranges_of_an_object_that_changes(trusting, origin, data, monkeypatch):
    """All are of the new one, except what was cached of the old."""
    monkeypatch.setattr(origin, "before_get", lambda path, headers: None)
    content = data * 3
    url = origin.put("/x", content)
    starts = list(range(0, len(content), 1 << 20))

    async def read():
        assert await trusting._cat_file(url, 0, 100) == content[:100]
        origin.put("/x", other(content))
        found = await trusting._cat_ranges(
            [url] * len(starts), starts, [start + (1 << 20) for start in starts], on_error="raise"
        )
        assert found[1:] == [other(content)[start : start + (1 << 20)] for start in starts[1:]]

    run(read())


def test_long_ranges_are_cancelled(trusting, origin, monkeypatch):
    """The caller does not wait, and what nobody had requested is not fetched."""
    data = random.Random(4).randbytes(40 << 20)
    url = origin.put("/x", data)
    begun, go = threading.Event(), threading.Event()

    async def read():
        assert await trusting._cat_file(url, 0, 100) == data[:100]

        def hold(path, headers):
            begun.set()
            assert go.wait(LIMIT)

        origin.before_get = hold
        starts = list(range(1 << 20, len(data), 1 << 20))
        task = asyncio.ensure_future(trusting._cat_ranges([url] * len(starts), starts, [at + (1 << 20) for at in starts]))
        await asyncio.to_thread(begun.wait, LIMIT)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(read())
    go.set()
    origin.before_get = lambda path, headers: None
    assert trusting.cat_file(url) == data
    assert trusting.pool.audit() == []


def test_who_is_cancelled_while_others_run_leaves_nothing_to_report(trusting, origin, data):
    """Between cached ranges, while missing ones are fetched."""
    url = origin.put("/x", data)
    told, go, cat_known = [], threading.Event(), trusting._cat_known

    def cancelling(known, mapping, job):
        if job[1] < 500:
            asyncio.current_task().cancel()
        return cat_known(known, mapping, job)

    async def read():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))
        assert await trusting._cat_file(url, 0, 1000) == data[:1000]
        origin.before_get = lambda path, headers: go.wait(LIMIT)
        trusting._cat_known = cancelling
        starts = [*range(200), 1_000_000, 1_500_000]
        with pytest.raises(asyncio.CancelledError):
            await asyncio.ensure_future(trusting._cat_ranges([url] * len(starts), starts, [start + 1 for start in starts]))
        go.set()
        del trusting._cat_known
        assert await trusting._cat_file(url, 999_999, 1_000_001) == data[999_999:1_000_001]

    run(read())
    gc.collect()
    origin.before_get = lambda path, headers: None
    assert not told


def test_a_hundred_tasks_and_two_loops(trusting, origin, data):
    urls = [origin.put(f"/{number}", bytes([number]) * 4096) for number in range(100)]
    results = []

    async def read():
        return await asyncio.gather(*(trusting._cat_file(url) for url in urls))

    threads = [threading.Thread(target=lambda: results.append(run(read()))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert results == [[bytes([number]) * 4096 for number in range(100)]] * 2
    assert origin.requests == {"GET": 100}


def test_who_is_cancelled_leaves_the_others_alone(trusting, origin, data):
    url, started, go = origin.put("/x", data), threading.Event(), threading.Event()

    def before_get(path, headers):
        started.set()
        assert go.wait(LIMIT)

    origin.before_get = before_get

    async def read():
        first, second = (asyncio.ensure_future(trusting._cat_file(url)) for _ in range(2))
        await asyncio.to_thread(started.wait, LIMIT)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        go.set()
        assert await second == data

    try:
        run(read())
    finally:
        go.set()
        origin.before_get = lambda path, headers: None


def read_in_a_loop(number, fs, url):
    return run(fs._cat_file(url))


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_in_other_processes(trusting, origin, data, method):
    url = origin.put("/x", data)
    assert run(trusting._cat_file(url)) == data
    assert together(method, 2, read_in_a_loop, trusting, url) == [data] * 2
    assert origin.sent["/x"] == len(data)


def test_instances(pool):
    options = {"target_protocol": "http", **pool}
    fs = FolioFileSystem(**options)
    assert FolioFileSystem(**options) is fs is pickle.loads(pickle.dumps(fs))
    made = []
    thread = threading.Thread(target=lambda: made.append(FolioFileSystem(**options)))
    thread.start()
    thread.join(LIMIT)
    assert made[0] is not fs  # not every target bears several threads
    loose = FolioFileSystem(asynchronous=True, **options)
    assert loose is not fs and loose.asynchronous and loose.loop is None and fs.loop.is_running()
    assert FolioFileSystem.from_json(loose.to_json()) == loose


def test_asynchronous_target_is_asked_in_fsspecs_loop(pool, origin, data):
    url = origin.put("/x", data)
    target = fsspec.filesystem("http", asynchronous=True)
    for fs in (
        FolioFileSystem(fs=target, **pool),
        FolioFileSystem(target_protocol="http", target_options={"asynchronous": True}, **pool),
    ):
        assert not fs.fs.asynchronous
        assert run(fs._cat_file(url)) == fs.cat_file(url) == data


def test_uncached_target_is_read_in_threads(pool):
    fs = FolioFileSystem(fs=MemoryFileSystem(), **pool)
    fs.pipe_file("/asynchronous/x", b"data")

    async def read():
        async with await fs.open_async("/asynchronous/x") as file:
            return await fs._cat_file("/asynchronous/x", 1), await file.read(2)

    assert run(read()) == (b"ata", b"da")
    fs.rm("/asynchronous", recursive=True)


def test_zarr_takes_it_as_it_is(pool, origin):
    storage = pytest.importorskip("zarr.storage")
    zarr = pytest.importorskip("zarr")
    store = storage.MemoryStore()
    zarr.create_array(store, data=np.arange(4), chunks=(2,))
    for name, buffer in store._store_dict.items():
        origin.put(f"/a.zarr/{name}", buffer.to_bytes())
    url, options = f"folio::{origin.url}/a.zarr", {**pool, "check_files": False}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        by_url = storage.FsspecStore.from_url(url, storage_options={"folio": dict(options)})  # fsspec adds to it
        mapper = fsspec.get_mapper(url, folio=dict(options))
        by_mapper = storage.FsspecStore.from_mapper(mapper)
        given = storage.FsspecStore(FolioFileSystem(target_protocol="http", asynchronous=True, **options), path=by_url.path)
        for one in (by_url, by_mapper, given):
            assert type(one.fs) is FolioFileSystem and one.fs.asynchronous
            assert list(zarr.open_array(one, mode="r")[:]) == [0, 1, 2, 3]
