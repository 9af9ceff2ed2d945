"""Which values a FolioStore finds: those of the same place, whatever the root and the kind of the store that has them."""

import asyncio
import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
import zipfile

import fsspec
import numpy
import pytest
import zarr
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.http import HTTPFileSystem
from test_zarr import PROTOTYPE
from zarr.core.buffer import cpu
from zarr.storage import FsspecStore, LocalStore, LoggingStore, MemoryStore, WrapperStore, ZipStore
from zarr.testing.store import LatencyStore

import foliocache
from foliocache.zarr import FolioStore


def content(text):
    return cpu.Buffer.from_bytes(text)


async def read(store, key):
    found = await store.get(key, PROTOTYPE)
    return None if found is None else found.to_bytes()


def by_url(path):
    return FsspecStore.from_url(f"file://{path}")


def relative(path):
    return LocalStore(os.path.relpath(path))


def slashes(path):
    return FsspecStore(by_url(path).fs, path=f"{path}//")


def auto(path):
    return FsspecStore.from_url(f"file://{path}", storage_options={"auto_mkdir": True})


def below(path):
    folder = DirFileSystem(path=str(path.parent), fs=fsspec.filesystem("file"))
    return FsspecStore(fsspec.implementations.asyn_wrapper.AsyncFileSystemWrapper(folder, asynchronous=True), path=path.name)


def linked(path):
    link = path.parent / f"link to {path.name}"
    if not link.exists():
        link.symlink_to(path)
    return LocalStore(link)


KINDS = [LocalStore, by_url, relative, slashes, auto, below, linked]


@pytest.mark.parametrize("kind", KINDS)
async def test_stores_with_other_roots_see_what_is_written(tmp_path, zarr_pool, kind):
    (tmp_path / "x").mkdir()
    (tmp_path / "xy").mkdir()
    whole, part = FolioStore(kind(tmp_path), zarr_pool), FolioStore(kind(tmp_path / "x"), zarr_pool)
    plain = FolioStore(LocalStore(tmp_path), zarr_pool)
    await part.set("a", content(b"1"))
    assert [await read(whole, "x/a"), await read(part, "a"), await read(plain, "x/a")] == [b"1"] * 3
    await whole.set("x/a", content(b"2"))
    assert [await read(whole, "x/a"), await read(part, "a"), await read(plain, "x/a")] == [b"2"] * 3
    await plain.set("x/a", content(b"3"))
    assert [await read(whole, "x/a"), await read(part, "a"), await read(plain, "x/a")] == [b"3"] * 3
    await plain.delete("x/a")
    assert await read(part, "a") is None


@pytest.mark.parametrize("how", ["delete_dir", "clear"])
async def test_what_is_forgotten_is_what_lies_below(tmp_path, zarr_pool, how):
    keys = ["a/1", "a/b/2", "ab/3", "c"]
    for folder in ("x", "x2"):
        (tmp_path / folder).mkdir()
    whole, part = FolioStore(LocalStore(tmp_path), zarr_pool), FolioStore(auto(tmp_path / "x"), zarr_pool)
    for key in keys:
        await part.set(key, content(b"old"))
        await whole.set(f"x2/{key}", content(b"old"))
    for key in keys:
        assert await read(part, key) == await read(whole, f"x2/{key}") == b"old"
        (tmp_path / "x2" / key).write_bytes(b"new")
        (tmp_path / "x" / key).write_bytes(b"new")
    gone = keys[:2] if how == "delete_dir" else keys
    await (whole.delete_dir("x/a") if how == "delete_dir" else FolioStore(LocalStore(tmp_path / "x"), zarr_pool).clear())
    assert [await read(part, key) for key in keys] == [None if key in gone else b"old" for key in keys]
    assert [await read(whole, f"x2/{key}") for key in keys] == [b"old"] * 4


async def test_what_lies_below_a_long_path_is_forgotten(tmp_path, zarr_pool):
    """The pool keeps 168 bytes of a key; of two folders that begin with the same ones, both are forgotten."""
    folders = [tmp_path / ("f" * 200) / name for name in "ab"]
    for folder in folders:
        folder.mkdir(parents=True)
    one, other = (FolioStore(LocalStore(folder), zarr_pool) for folder in folders)
    for store in (one, other):
        await store.set("d/k", content(b"1"))
        assert await read(store, "d/k") == b"1"
    await FolioStore(LocalStore(tmp_path), zarr_pool).delete_dir(f"{'f' * 200}/a")
    assert await read(one, "d/k") is None
    assert await read(other, "d/k") == b"1"


def test_the_root_of_all_has_a_place(zarr_pool, tmp_path):
    store = FolioStore(LocalStore("/"), zarr_pool)
    (tmp_path / "k").write_bytes(b"1")
    array = zarr.create_array(FolioStore(LocalStore(tmp_path), zarr_pool), name="n", shape=(3,), dtype="i4", fill_value=7)
    assert array[:].tolist() == [7, 7, 7]
    found = zarr.open_array(store, path=f"{str(tmp_path)[1:]}/n")
    found[:] = [1, 2, 3]
    assert array[:].tolist() == [1, 2, 3]


class Prefixed(WrapperStore):
    """A store whose keys are others in the store inside it."""

    async def get(self, key, prototype=None, byte_range=None):
        return await super().get(f"p/{key}", prototype or PROTOTYPE, byte_range)


class Derived(LocalStore):
    """One that has other values, for all that is known of it."""


class Ours(FolioStore):
    """One that users derive."""


@pytest.mark.parametrize("kind", [Prefixed, Derived, Ours])
async def test_stores_that_may_change_keys_or_values_need_a_name(tmp_path, zarr_pool, kind):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "k").write_bytes(b"below")
    (tmp_path / "k").write_bytes(b"above")
    inner = tmp_path if kind is Derived else LocalStore(tmp_path)
    store = kind(inner, zarr_pool) if kind is Ours else kind(inner)
    with pytest.raises(ValueError, match=f"{kind.__name__} does not say where its data are; give name="):
        FolioStore(store, zarr_pool)
    named = FolioStore(store, zarr_pool, name=str(tmp_path))
    assert await read(FolioStore(LocalStore(tmp_path), zarr_pool), "k") == b"above"
    assert await read(named, "k") == (b"below" if kind is Prefixed else b"above")


@pytest.mark.parametrize("kind", [WrapperStore, LoggingStore, LatencyStore])
async def test_wrappers_of_zarr_have_the_place_of_what_they_wrap(tmp_path, zarr_pool, kind):
    store, plain = FolioStore(kind(LocalStore(tmp_path)), zarr_pool), FolioStore(LocalStore(tmp_path), zarr_pool)
    await store.set("k", content(b"1"))
    assert await read(plain, "k") == b"1"
    await store.set("k", content(b"2"))
    assert await read(plain, "k") == b"2"


async def test_a_folio_store_has_the_place_of_the_one_in_it(zarr_pool, pool_name, tmp_path):
    """Its name, too, if it has one."""
    other = foliocache.open(pool_name, size="16MiB")
    inside = [FolioStore(MemoryStore(), other, name=f"{tmp_path} {number}") for number in range(2)]
    stores = [FolioStore(each, zarr_pool) for each in inside]
    for number, store in enumerate(stores):
        await store.set("k", content(b"%d" % number))
    assert [await read(store, "k") for store in stores] == [b"0", b"1"]


# ZIP files.


def make_zip(path, value):
    """Put an array into a ZIP file, which takes the place of the one that is there."""
    new = path.with_suffix(".new")
    with ZipStore(new, mode="w") as store:
        zarr.create_array(store, shape=(20,), chunks=(5,), dtype="i4", compressors=None)[:] = value
    os.replace(new, path)


def values(store):
    return set(zarr.open_array(store, mode="r")[:].tolist())


def test_a_zip_file_that_is_replaced_is_other_data(tmp_path, zarr_pool):
    path = tmp_path / "data.zip"
    make_zip(path, 1)
    first = FolioStore(ZipStore(path), zarr_pool)
    late = FolioStore(ZipStore(path), zarr_pool)
    array = zarr.open_array(first, mode="r")
    assert array[:5].tolist() == [1] * 5
    pickled = pickle.dumps(first)
    make_zip(path, 2)
    again = pickle.loads(pickled)
    assert values(again) == {2}
    assert set(array[:].tolist()) == {1}  # of the file that it has open
    assert values(late) == {1}
    assert values(FolioStore(ZipStore(path), zarr_pool)) == {2}


async def test_a_store_that_is_closed_and_opened_again_has_the_new_file(tmp_path, zarr_pool, pool_name):
    """Also one that opens it with the first read."""
    path = tmp_path / "data.zip"
    store, number, other = None, 1, foliocache.open(pool_name, size="16MiB")
    for close in (FolioStore.close, lambda store: store.__exit__(None, None, None)):
        for is_outer in (False, True):
            make_zip(path, number)
            if store is None:
                store = FolioStore(ZipStore(path), zarr_pool)
            outer = FolioStore(WrapperStore(store), other) if is_outer else store
            first = [await read(outer, "c/0"), values(store)]
            assert first == [numpy.full(5, number, "<i4").tobytes(), {number}]
            close(outer)
            number += 1
    make_zip(path, number)
    assert await read(store, "c/0") == numpy.full(5, number, "<i4").tobytes()
    assert values(store) == values(FolioStore(ZipStore(path), zarr_pool)) == {number}
    assert store._prefix == FolioStore(ZipStore(path), zarr_pool)._prefix


@pytest.mark.parametrize("mode", ["w", "a"])
def test_a_zip_file_that_may_be_written_needs_a_name(tmp_path, zarr_pool, mode):
    path = tmp_path / "data.zip"
    with pytest.raises(ValueError, match="ZipStore does not say where its data are; give name="):
        FolioStore(ZipStore(path, mode=mode), zarr_pool)
    assert not path.exists()
    with FolioStore(ZipStore(path, mode=mode), zarr_pool, name=str(tmp_path)) as store:
        array = zarr.create_array(store, shape=(5,), dtype="i4")
        array[:] = 3
        assert array[:].tolist() == [3] * 5


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_has_a_position_of_its_own_in_the_file_that_is_open(tmp_path, zarr_pool):
    """Even if the path has another file meanwhile, and a thread of the parent was reading."""
    path = tmp_path / "data.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("k", bytes(100_000))
    inner = ZipStore(path)
    store = FolioStore(inner, zarr_pool)
    make_zip(path, 2)
    fork = multiprocessing.get_context("fork")
    answers = fork.SimpleQueue()

    def child():
        with inner._lock:
            answers.put((inner._zf.read("k") == bytes(100_000), store._prefix))

    holding, done = threading.Event(), threading.Event()

    def hold():
        with inner._lock, inner._zf._lock:
            holding.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert holding.wait(60)
    position = os.lseek(inner._zf.fp.fileno(), 0, os.SEEK_CUR)
    process = fork.Process(target=child)
    process.start()
    process.join(60)
    process.kill()  # if it waits for a lock
    done.set()
    thread.join(60)
    assert process.exitcode == 0
    assert answers.get() == (True, store._prefix)
    assert os.lseek(inner._zf.fp.fileno(), 0, os.SEEK_CUR) == position


# Paths of other file systems.


def s3(path="bucket/data", **options):
    return FsspecStore.from_url(f"s3://{path}", storage_options=options)


def place(store, pool):
    return FolioStore(store, pool)._prefix


def test_options_of_a_file_system_are_part_of_its_place(zarr_pool):
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    one = place(s3(anon=True), zarr_pool)
    assert one == place(s3("bucket/data/", anon=True), zarr_pool) != place(s3(anon=False), zarr_pool)
    assert one == place(s3("bucket", anon=True), zarr_pool) + "data/"
    with_all = FsspecStore(s3(anon=True).fs, path="/")
    assert one == place(with_all, zarr_pool) + "bucket/data/"
    assert one == place(FsspecStore(s3(anon=True).fs, path="/bucket/data"), zarr_pool)
    ordered = [{"anon": True, "endpoint_url": "http://x"}, {"endpoint_url": "http://x", "anon": True}]
    assert place(s3(**ordered[0]), zarr_pool) == place(s3(**ordered[1]), zarr_pool) != one


@pytest.mark.filterwarnings("ignore:.*was not created with .asynchronous=True.*")
def test_how_a_file_system_is_called_is_no_part_of_its_place(zarr_pool):
    fs = HTTPFileSystem(block_size=5)
    by_hand = place(FsspecStore(fs, path="http://localhost/d"), zarr_pool)
    assert by_hand == place(FsspecStore(HTTPFileSystem(block_size=5, asynchronous=True), path="http://localhost/d/"), zarr_pool)


@pytest.mark.parametrize("options", [{"client_kwargs": {"timeout": object()}}, {"get_client": make_zip}])
def test_options_without_json_need_a_name(zarr_pool, options):
    store = FsspecStore.from_url("http://localhost/d", storage_options={**options, "skip_instance_cache": True})
    with pytest.raises(ValueError, match="FsspecStore does not say where its data are; give name="):
        FolioStore(store, zarr_pool)
    assert FolioStore(store, zarr_pool, name="without json")


@pytest.mark.parametrize("url", ["memory://d", "simplecache::memory://d"])
def test_files_that_only_this_process_has_need_a_name(zarr_pool, url):
    with pytest.raises(ValueError, match="give name="):
        FolioStore(FsspecStore.from_url(url), zarr_pool)


# In event loops.


class Waiting(LocalStore):
    """One that reads a value when it may."""

    def __init__(self, root):
        super().__init__(root)
        self.started, self.may = asyncio.Event(), asyncio.Event()

    async def get(self, *args):
        self.started.set()
        await self.may.wait()
        return await super().get(*args)


async def test_a_synchronous_read_beside_a_task_of_its_loop_waits_for_fill_timeout(tmp_path, pool_name):
    (tmp_path / "k").write_bytes(b"1")
    inner = Waiting(tmp_path)
    store = FolioStore(inner, foliocache.open(pool_name, size="16MiB", fill_timeout=0.5), name="waiting")
    task = asyncio.ensure_future(read(store, "k"))
    await inner.started.wait()
    start = time.monotonic()
    assert store.get_sync("k").to_bytes() == b"1"
    assert time.monotonic() - start >= 0.5
    inner.may.set()
    assert await task == b"1"


# What is given, and what it is called.


async def test_what_is_given_is_checked(zarr_pool, tmp_path):
    with pytest.raises(TypeError, match="name must be a string"):
        FolioStore(LocalStore(tmp_path), zarr_pool, name=5)
    with pytest.raises(TypeError, match="store must be a store of zarr"):
        await FolioStore.open("x", zarr_pool)
    with pytest.raises(TypeError, match="store must be a store of zarr"):
        await FolioStore.open("x", zarr_pool, read_only=True)
    with pytest.raises(TypeError, match="pool must be a pool"):
        await FolioStore.open(LocalStore(tmp_path), 5)


def test_what_is_wrong_creates_no_pool(pool_name):
    with pytest.raises(ValueError, match="listings"):
        FolioStore(MemoryStore(), pool_name, name="n", listings="x")
    with pytest.raises(foliocache.PoolNotFoundError):
        foliocache.attach(pool_name)


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda store: pickle.loads(pickle.dumps(store))])
def test_a_store_is_called_by_its_public_name(zarr_pool, tmp_path, clone):
    store = FolioStore(LocalStore(tmp_path), zarr_pool, expiry=5)
    other = clone(store)
    assert other == store and type(other) is type(store) and isinstance(other, FolioStore)
    assert other._prefix == store._prefix and other.expiry == 5 and other.pool is zarr_pool
    array = zarr.create_array(other, shape=(3,), dtype="i4")
    array[:] = [1, 2, 3]
    assert numpy.sum(zarr.open_array(store, mode="r")[:]) == 6
    assert array.info._store_type == type(store).__name__ == "FolioStore"
    assert "_Sync" not in repr(type(store))


# The codec pipeline, for those who only name it.

PIPELINE = "foliocache.zarr.CachedCodecPipeline"
OPENED = "array = zarr.create_array({}, shape=(3,), dtype='i4'); print(type(array.async_array.codec_pipeline).__name__)"


def run(code, **environment):
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=100)


def test_the_pipeline_needs_no_import(tmp_path):
    by_variable = run("import zarr; " + OPENED.format("{}"), ZARR_CODEC_PIPELINE__PATH=PIPELINE)
    by_config = run(f"import zarr; zarr.config.set({{'codec_pipeline.path': {PIPELINE!r}}}); " + OPENED.format("{}"))
    assert [(each.stdout, each.stderr) for each in (by_variable, by_config)] == [("CachedCodecPipeline\n", "")] * 2


def test_zarr_alone_does_not_import_it():
    """Nor an array that it does not read, but for what only has its name."""
    loaded = "print([name for name in sys.modules if name.startswith('foliocache')])"
    found = run(f"import sys, zarr; {loaded}")
    assert (found.stdout, found.stderr) == ("[]\n", "")
    found = run(
        "import sys, zarr; zarr.create_array({}, shape=(3,), dtype='i4'); print('foliocache.adapters.zarr' in sys.modules)"
    )
    assert (found.stdout, found.stderr) == ("False\n", "")


@pytest.mark.parametrize("before", ["import foliocache.zarr; ", "zarr.create_array({}, shape=(3,), dtype='i4'); ", ""])
def test_zarr_knows_the_class_itself_when_it_is_used(before):
    """Whichever of the two was imported first."""
    code = f"""import zarr; {before}zarr.config.set({{"codec_pipeline.path": {PIPELINE!r}}})
array = zarr.create_array({{}}, shape=(3,), dtype="i4")
from foliocache.zarr import CachedCodecPipeline
kind = zarr.registry.get_pipeline_class()
print(kind is CachedCodecPipeline is type(array.async_array.codec_pipeline), kind.__module__, kind.__qualname__)"""
    found = run(code)
    assert (found.stdout, found.stderr) == ("True foliocache.zarr CachedCodecPipeline\n", "")


def test_what_cannot_be_imported_fails_no_other_array():
    """As with a version of Zarr that has not what the stores need."""
    code = "import sys, zarr; sys.modules['foliocache.adapters.zarr.store'] = None; " + OPENED.format("{}")
    found = run(code)
    assert (found.stdout, found.stderr) == ("BatchedCodecPipeline\n", "")
    configured = run(code, ZARR_CODEC_PIPELINE__PATH=PIPELINE)
    assert "import of foliocache.adapters.zarr.store halted" in configured.stderr and configured.returncode == 1


def test_a_store_is_kept_once_in_a_pool(zarr_pool, tmp_path):
    inner = FolioStore(LocalStore(tmp_path), zarr_pool)
    with pytest.raises(ValueError, match="already; use it as it is"):
        FolioStore(inner, zarr_pool)
    with pytest.raises(ValueError, match="already; use it as it is"):
        FolioStore(LoggingStore(inner), zarr_pool)
    FolioStore(inner, zarr_pool, name="of its own")


@pytest.fixture
def two_folders(tmp_path, monkeypatch):
    """A function that makes what leads to a folder lead to another one, which has other values, and the store that is led."""
    for name in "one", "two":
        (tmp_path / name / "x").mkdir(parents=True)
        for key in "k", "j":
            (tmp_path / name / "x" / key).write_bytes(name.encode())

    def link_to(name):
        link = tmp_path / "link"
        link.unlink(missing_ok=True)
        link.symlink_to(tmp_path / name)

    def store_of(how):
        if how == "chdir":
            return lambda name: monkeypatch.chdir(tmp_path / name), lambda: LocalStore("x")
        kind = {"link": LocalStore, "url": by_url, "below": below}[how]
        return link_to, lambda: kind(tmp_path / "link" / "x")

    return store_of


@pytest.mark.parametrize("is_nested", [False, True])
@pytest.mark.parametrize("how", ["link", "url", "below", "chdir"])
async def test_a_root_that_becomes_another_folder(two_folders, tmp_path, zarr_pool, pool, how, is_nested):
    """What is read there is never taken for what the old folder has, and what is written there is seen."""
    lead, make = two_folders(how)
    lead("one")
    store = FolioStore(FolioStore(make(), pool), zarr_pool) if is_nested else FolioStore(make(), zarr_pool)
    fixed = {name: FolioStore(LocalStore(tmp_path / name / "x"), zarr_pool) for name in ("one", "two")}
    assert await read(store, "k") == b"one"
    lead("two")
    assert await read(store, "j") == b"two"  # not kept yet
    assert [await read(store, key) for key in "jk"] == [b"two", b"two"]
    assert [await read(fixed["one"], key) for key in "jk"] == [b"one", b"one"]
    assert [await read(fixed["two"], key) for key in "jk"] == [b"two", b"two"]
    lead("one")
    await store.set("k", content(b"new"))
    assert [await read(each, "k") for each in (store, fixed["one"], fixed["two"])] == [b"new", b"new", b"two"]
    lead("two")
    await store.delete_dir("")
    assert [await read(each, "k") for each in (store, fixed["one"], fixed["two"])] == [None, b"new", None]


async def test_a_link_that_is_changed_while_a_value_is_read(two_folders, tmp_path, zarr_pool, monkeypatch):
    lead, make = two_folders("link")
    get = LocalStore.get

    async def late(self, *arguments):
        lead("two")
        return await get(self, *arguments)

    lead("one")
    store = FolioStore(make(), zarr_pool)
    monkeypatch.setattr(LocalStore, "get", late)
    assert await read(store, "k") == b"two"
    monkeypatch.undo()
    assert await read(FolioStore(LocalStore(tmp_path / "one" / "x"), zarr_pool), "k") == b"one"


@pytest.mark.parametrize("how", ["get", "list"])
async def test_another_task_finds_the_new_place_while_one_reads(two_folders, tmp_path, zarr_pool, monkeypatch, how):
    """What the first one reads is not kept as the old folder's."""
    lead, make = two_folders("link")

    async def keys(store):
        return sorted([key async for key in store.list()])

    (tmp_path / "two" / "x" / "new").write_bytes(b"")
    lead("one")
    options = {"listings": 100}
    store = FolioStore(make(), zarr_pool, **options)
    get, listed = LocalStore.get, LocalStore.list

    async def other():
        monkeypatch.undo()
        lead("two")
        assert await read(store, "j") == b"two"

    async def late_get(self, *arguments):
        await other()
        return await get(self, *arguments)

    async def late_list(self):
        await other()
        async for key in listed(self):
            yield key

    monkeypatch.setattr(LocalStore, how, late_get if how == "get" else late_list)
    fixed = FolioStore(LocalStore(tmp_path / "one" / "x"), zarr_pool, **options)
    if how == "get":
        assert await read(store, "k") == b"two"
        assert await read(fixed, "k") == b"one"
    else:
        assert await keys(store) == ["j", "k", "new"]
        assert await keys(fixed) == ["j", "k"]


def test_an_array_whose_root_becomes_another_folder(tmp_path, zarr_pool):
    for n in 1, 2:
        array = zarr.create_array(LocalStore(tmp_path / f"{n}"), shape=(4,), chunks=(2,), dtype="i4")
        array[:] = n
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "1")
    with zarr.config.set({"codec_pipeline.path": "foliocache.zarr.CachedCodecPipeline"}):
        array = foliocache.zarr.FolioArray(zarr.open_array(FolioStore(LocalStore(link), zarr_pool), mode="r"))
        assert array[:2].tolist() == array[:2].tolist() == [1, 1]
        link.unlink()
        link.symlink_to(tmp_path / "2")
        assert array[2:].tolist() == [2, 2]
        assert array[:].tolist() == [2, 2, 2, 2]
        fixed = FolioStore(LocalStore(tmp_path / "1"), zarr_pool)
        assert foliocache.zarr.FolioArray(zarr.open_array(fixed, mode="r"))[:].tolist() == [1, 1, 1, 1]


def test_only_a_path_that_may_lead_elsewhere_is_looked_at_again(tmp_path, zarr_pool, monkeypatch):
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    plain = tmp_path / "x"
    for store in LocalStore(plain), by_url(plain), slashes(plain), LocalStore("/"), LoggingStore(LocalStore(plain)):
        assert not FolioStore(store, zarr_pool)._may_move
    for store in (
        LocalStore("x"),
        LocalStore(tmp_path / "link" / "x"),
        by_url(tmp_path / "link"),
        FsspecStore(by_url("/").fs, path="x"),
    ):
        assert FolioStore(store, zarr_pool)._may_move
        assert not FolioStore(store, zarr_pool, name="x")._may_move
