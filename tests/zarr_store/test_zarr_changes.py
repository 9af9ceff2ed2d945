"""Values that are changed: a writer may be cancelled or killed at any moment, and nobody finds what was there before."""

import asyncio
import functools
import gc
import os
import signal
import threading
import uuid

import pytest
from lines import STRIDE, at_line, count_lines, in_child
from zarr.abc.store import RangeByteRequest
from zarr.core.buffer import cpu, default_buffer_prototype
from zarr.storage import FsspecStore, LocalStore, WrapperStore

from foliocache.adapters.zarr import store as module
from foliocache.objects.found import MISSING
from foliocache.zarr import FolioStore

PATIENCE = 60
PROTOTYPE = default_buffer_prototype()
OLD, NEW = b"old" * 1000, b"new" * 1000
KEY = "a/k"


class Slow(WrapperStore):
    """A store whose changes begin, wait for a signal, and are made; ``after`` is called then."""

    def __init__(self, store, begun, go, after=lambda: None):
        super().__init__(store)
        self.begun, self.go, self.after = begun, go, after

    async def _change(self, coroutine):
        def wait():
            self.begun()
            self.go()

        await asyncio.to_thread(wait)
        await coroutine
        self.after()

    async def set(self, key, value):
        await self._change(super().set(key, value))

    async def delete_dir(self, prefix):
        await self._change(super().delete_dir(prefix))


@pytest.fixture
def name():
    return uuid.uuid4().hex


@pytest.fixture
def store(tmp_path, zarr_pool, name):
    return FolioStore(LocalStore(tmp_path), zarr_pool, name=name)


def buffer(content):
    return cpu.Buffer.from_bytes(content)


async def found(store, key=KEY):
    """All that is kept of a value: it, its size, whether it exists, and a part of it."""
    value = await store.get(key, PROTOTYPE)
    part = await store.get(key, PROTOTYPE, RangeByteRequest(10, 20))
    if value is None:
        assert part is None and not await store.exists(key)
        return None
    assert await store.exists(key) and await store.getsize(key) == len(value)
    assert part.to_bytes() == value.to_bytes()[10:20]
    return value.to_bytes()


async def set_sync(store):
    store.set_sync(KEY, buffer(NEW))


async def delete_sync(store):
    store.delete_sync(KEY)


CHANGES = {
    "set": (lambda store: store.set(KEY, buffer(NEW)), NEW),
    "set_sync": (set_sync, NEW),
    "delete_sync": (delete_sync, None),
    "delete_dir": (lambda store: store.delete_dir("a"), None),
    "clear": (lambda store: store.clear(), None),
}


@pytest.mark.parametrize("change", ["set", "delete_dir"])
def test_a_writer_that_is_killed_when_it_has_written(store, zarr_pool, tmp_path, name, change):
    """What others read while it wrote is not kept."""
    make, result = CHANGES[change]
    begun, go = os.pipe(), os.pipe()

    def write():
        slow = Slow(
            LocalStore(tmp_path),
            lambda: os.write(begun[1], b"x"),
            lambda: os.read(go[0], 1),
            lambda: os.kill(os.getpid(), signal.SIGKILL),
        )
        asyncio.run(make(FolioStore(slow, zarr_pool, name=name)))

    async def read():
        assert await found(store) == OLD  # before it writes
        os.write(go[1], b"x")
        await asyncio.to_thread(os.waitpid, child, 0)
        assert await found(store) == result
        assert await found(store) == result

    asyncio.run(store.set(KEY, buffer(OLD)))
    asyncio.run(found(store))
    child = os.fork()
    if child == 0:
        try:
            write()
        finally:
            os._exit(1)
    assert os.read(begun[0], 1) == b"x"
    asyncio.run(asyncio.wait_for(read(), PATIENCE))


def killed_at(line, store, make):
    with at_line(line, lambda: os.kill(os.getpid(), signal.SIGKILL)):
        asyncio.run(make(store))


@pytest.mark.parametrize("change", CHANGES)
def test_a_writer_that_is_killed_at_any_line(store, tmp_path, change):
    """What is found then is what the store has."""
    make, _ = CHANGES[change]
    if change.endswith("_sync") and not hasattr(store, change):
        pytest.skip("this version of Zarr has no synchronous stores")
    plain = LocalStore(tmp_path)
    asyncio.run(store.set(KEY, buffer(OLD)))
    lines = count_lines(lambda: asyncio.run(make(store)))
    killed = 0
    for line in range(1, lines + 1, STRIDE):
        asyncio.run(store.set(KEY, buffer(OLD)))
        assert asyncio.run(found(store)) == OLD
        killed += in_child(functools.partial(killed_at, line, store, make)) == -signal.SIGKILL
        value = asyncio.run(plain.get(KEY, PROTOTYPE))
        assert asyncio.run(found(store)) == (None if value is None else value.to_bytes())
    assert killed > lines // STRIDE // 2


@pytest.mark.parametrize("change", ["set", "delete_dir"])
def test_a_change_that_is_cancelled_goes_on(zarr_pool, tmp_path, name, change):
    make, result = CHANGES[change]

    async def cancel():
        begun, go = threading.Event(), threading.Event()
        store = FolioStore(Slow(LocalStore(tmp_path), begun.set, lambda: go.wait(PATIENCE)), zarr_pool, name=name)
        await LocalStore(tmp_path).set(KEY, buffer(OLD))
        assert await found(store) == OLD
        task = asyncio.create_task(make(store))
        await asyncio.to_thread(begun.wait, PATIENCE)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await found(store) == OLD
        go.set()
        await asyncio.gather(*module._changes)
        assert await found(store) == result

    asyncio.run(asyncio.wait_for(cancel(), PATIENCE))


@pytest.mark.parametrize("change", ["set", "delete_dir"])
def test_a_change_that_is_cancelled_before_its_turn_is_not_made(zarr_pool, tmp_path, name, change):
    """Otherwise it could come after a later change by the same task, and undo that."""
    make, _ = CHANGES[change]

    async def cancel():
        begun, go, made = threading.Event(), threading.Event(), []
        first = FolioStore(Slow(LocalStore(tmp_path), begun.set, lambda: go.wait(PATIENCE)), zarr_pool, name=name)
        second = FolioStore(Slow(LocalStore(tmp_path), lambda: made.append(1), lambda: None), zarr_pool, name=name)
        holder = asyncio.create_task(make(first))
        await asyncio.to_thread(begun.wait, PATIENCE)
        task = asyncio.create_task(make(second))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go.set()
        await holder
        await asyncio.gather(*module._changes, return_exceptions=True)
        assert not made

    asyncio.run(asyncio.wait_for(cancel(), PATIENCE))


@pytest.mark.parametrize("change", ["set", "delete_dir"])
def test_a_change_that_is_cancelled_when_its_turn_has_come_goes_on(pool, tmp_path, name, change):
    """It is not cancelled itself, which would give it ``fill_timeout`` seconds."""
    make, _ = CHANGES[change]
    tasks, made = [], []

    class Cancelled(FolioStore):
        def _forget_changed(self, keys, below):
            super()._forget_changed(keys, below)
            tasks[0].cancel()

    async def cancel():
        store = Cancelled(Slow(LocalStore(tmp_path), lambda: None, lambda: None, lambda: made.append(1)), pool, name=name)
        tasks.append(asyncio.create_task(make(store)))
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]
        assert [each.cancelling() for each in module._changes if not each.done()] == [0]
        await asyncio.gather(*module._changes)
        assert made

    asyncio.run(asyncio.wait_for(cancel(), PATIENCE))


def test_writers_of_one_value_take_turns(zarr_pool, tmp_path, name):
    async def write():
        order, go = [], threading.Event()
        first = FolioStore(Slow(LocalStore(tmp_path), lambda: order.append(1), lambda: go.wait(PATIENCE)), zarr_pool, name=name)
        second = FolioStore(Slow(LocalStore(tmp_path), lambda: order.append(2), lambda: None), zarr_pool, name=name)
        tasks = [asyncio.create_task(first.set(KEY, buffer(OLD)))]
        while not order:
            await asyncio.sleep(0.001)
        tasks.append(asyncio.create_task(second.set(KEY, buffer(NEW))))
        await asyncio.sleep(0)
        await second.set("other", buffer(OLD))
        assert order == [1, 2]
        go.set()
        await asyncio.gather(*tasks)
        assert order == [1, 2, 2] and await found(first) == NEW

    asyncio.run(asyncio.wait_for(write(), PATIENCE))


@pytest.mark.parametrize(
    ("delete", "kept"),
    [
        (lambda store: store.delete_dir("b"), {"a/k", "a/bb/k", "other/b/k", "k"}),
        (lambda store: store.delete_dir("b/c/"), {"a/k", "a/b/k", "a/bb/k", "other/b/k", "k"}),
        (lambda store: store.clear(), {"other/b/k", "k"}),
    ],
)
def test_a_deletion_concerns_what_lies_below_it(zarr_pool, tmp_path, monkeypatch, delete, kept):
    """Stores with any root keep nothing of that meanwhile, keep everything else, and delete elsewhere."""
    begun, go = asyncio.Event(), asyncio.Event()

    async def slowly(store, prefix=""):
        if store.root == tmp_path / "a":
            begun.set()
            await go.wait()

    monkeypatch.setattr(LocalStore, "delete_dir", slowly)
    monkeypatch.setattr(LocalStore, "clear", slowly)

    async def check():
        keys = ["k", "a/k", "a/b/k", "a/b/c/k", "a/bb/k", "other/b/k"]
        for key in keys:
            await LocalStore(tmp_path).set(key, buffer(OLD))
        task = asyncio.create_task(delete(FolioStore(LocalStore(tmp_path / "a"), zarr_pool)))
        await begun.wait()
        for key in keys:
            folders = key.split("/")[:-1]
            for n in range(len(folders) + 1):
                store = FolioStore(LocalStore(tmp_path.joinpath(*folders[:n])), zarr_pool)
                below = "/".join([*folders[n:], "k"])
                assert await found(store, below) == OLD
                assert (store.recall(below, "") is not MISSING) == (key in kept)
        await FolioStore(LocalStore(tmp_path / "other"), zarr_pool).delete_dir("b")
        assert not task.done()
        go.set()
        await task

    asyncio.run(asyncio.wait_for(check(), PATIENCE))


@pytest.mark.parametrize("prefix", ["a/k", "a/k/"])
async def test_a_deletion_of_a_folder_that_is_a_value(zarr_pool, tmp_path, name, prefix):
    """File systems of fsspec delete the value. Nothing of it is kept meanwhile."""
    kept = []

    class Reading(WrapperStore):
        async def delete_dir(self, prefix):
            assert await found(store) == OLD
            kept.append(store.recall(KEY, "") is not MISSING)
            await super().delete_dir(prefix)

    inner = FsspecStore.from_url(f"file://{tmp_path}", storage_options={"auto_mkdir": True})
    store = FolioStore(inner, zarr_pool, name=name)
    await store.set(KEY, buffer(OLD))
    assert await found(store) == OLD
    await FolioStore(Reading(inner), zarr_pool, name=name).delete_dir(prefix)
    assert await found(store) is None and kept == [False]


@pytest.mark.parametrize("is_sync", [False, True])
async def test_a_deletion_of_a_value_that_is_a_folder(zarr_pool, tmp_path, name, is_sync):
    """LocalStore deletes the folder. Nothing below it is kept meanwhile."""
    kept = []

    class Reading(LocalStore):
        async def delete(self, key):
            assert await found(store) == OLD
            kept.append(store.recall(KEY, "") is not MISSING)
            await super().delete(key)

        def delete_sync(self, key):
            assert store.get_sync(KEY).to_bytes() == OLD
            kept.append(store.recall(KEY, "") is not MISSING)
            super().delete_sync(key)

    store = FolioStore(LocalStore(tmp_path), zarr_pool, name=name)
    await store.set(KEY, buffer(OLD))
    assert await found(store) == OLD
    deleting = FolioStore(Reading(tmp_path), zarr_pool, name=name)
    if is_sync:
        deleting.delete_sync("a")
    else:
        await deleting.delete("a")
    assert await found(store) is None and kept == [False]


def test_a_store_with_a_name_keeps_nothing_while_it_is_cleared(zarr_pool, tmp_path, name):
    begun, go = threading.Event(), threading.Event()

    class SlowToClear(LocalStore):
        async def clear(self):
            begun.set()
            await asyncio.to_thread(go.wait, PATIENCE)

    async def check():
        store = FolioStore(SlowToClear(tmp_path), zarr_pool, name=name)
        await LocalStore(tmp_path).set(KEY, buffer(OLD))
        task = asyncio.create_task(store.clear())
        await asyncio.to_thread(begun.wait, PATIENCE)
        assert await found(store) == OLD and store.recall(KEY, "") is MISSING
        go.set()
        await task
        assert await found(store) == OLD and store.recall(KEY, "") is not MISSING

    asyncio.run(asyncio.wait_for(check(), PATIENCE))


def test_no_mark_stays(pool, tmp_path):
    store = FolioStore(LocalStore(tmp_path), pool)

    async def change():
        await store.set(KEY, buffer(OLD))
        await store.delete(KEY)
        await store.delete_dir("a")
        with pytest.raises(TypeError):
            await store.set(KEY, "no buffer")

    asyncio.run(change())
    assert not [each for each in pool.names.list() if "changing" in each.key]


async def test_a_listing_is_forgotten_by_a_store_that_keeps_none(store, zarr_pool, tmp_path, name):
    lists = FolioStore(LocalStore(tmp_path), zarr_pool, name=name, listings=1000)
    assert [key async for key in lists.list()] == []
    await store.set(KEY, buffer(OLD))
    assert [key async for key in lists.list()] == [KEY]


class Endless(WrapperStore):
    """A store whose changes begin, and do not end."""

    async def set(self, key, value):
        self.begun.set()
        await asyncio.Event().wait()

    async def delete_dir(self, prefix):
        await self.set(prefix, None)


class Threaded(WrapperStore):
    """A store whose changes are made in a thread, when ``go`` is set."""

    def __init__(self, store):
        super().__init__(store)
        self.begun, self.go = threading.Event(), threading.Event()

    async def _in_thread(self, coroutine):
        def change():
            self.begun.set()
            assert self.go.wait(PATIENCE)
            asyncio.run(coroutine)

        await asyncio.to_thread(change)

    async def set(self, key, value):
        await self._in_thread(super().set(key, value))

    async def delete_dir(self, prefix):
        await self._in_thread(super().delete_dir(prefix))


@pytest.mark.parametrize("change", ["set", "delete_dir"])
def test_a_cancelled_change_has_a_mark_until_its_thread_has_made_it(store, zarr_pool, tmp_path, name, change):
    """asyncio.run cancels what is left, and then waits for threads; what others read meanwhile is not kept."""
    make, result = CHANGES[change]
    threaded = Threaded(LocalStore(tmp_path))

    async def begin():
        task = asyncio.create_task(make(FolioStore(threaded, zarr_pool, name=name)))
        await asyncio.to_thread(threaded.begun.wait, PATIENCE)
        task.cancel()
        await asyncio.wait([task])

    async def end():
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for each in left:
            each.cancel()
        await asyncio.wait(left, timeout=1)
        assert await found(store) == OLD
        threaded.go.set()
        await asyncio.wait(left)

    asyncio.run(store.set(KEY, buffer(OLD)))
    with asyncio.Runner() as runner:
        runner.run(begin())
        runner.run(end())
    assert asyncio.run(found(store)) == result


@pytest.mark.parametrize("change", ["set", "delete_dir"])
def test_a_cancelled_change_that_does_not_end_is_given_up(pool, tmp_path, name, change):
    make, _ = CHANGES[change]
    pool.fill_timeout = 0.1
    ended = []

    class Noting(Endless):
        async def set(self, key, value):
            try:
                await super().set(key, value)
            finally:
                ended.append(key)

    async def begin():
        store = Noting(LocalStore(tmp_path))
        store.begun = asyncio.Event()
        task = asyncio.create_task(make(FolioStore(store, pool, name=name)))
        await store.begun.wait()
        task.cancel()

    asyncio.run(begin())
    assert ended and not [each for each in pool.names.list() if "changing" in each.key]


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("change", ["set", "delete_dir"])
def test_a_change_that_is_given_up_awaits_what_it_does_at_its_end(pool, tmp_path, name, change, again):
    """No task is left when asyncio.run closes the loop; a further cancellation is passed on."""
    make, _ = CHANGES[change]
    pool.fill_timeout = 0.1
    ended = []

    class Orderly(Endless):
        async def set(self, key, value):
            try:
                await super().set(key, value)
            finally:
                asyncio.get_running_loop().call_soon(self.release)
                try:
                    await self.released.wait()
                finally:
                    ended.append(key)

        def release(self):
            if again:
                for each in asyncio.all_tasks():
                    each.cancel()
            else:
                asyncio.get_running_loop().call_soon(self.released.set)

    async def begin():
        store = Orderly(LocalStore(tmp_path))
        store.begun, store.released = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(make(FolioStore(store, pool, name=name)))
        await store.begun.wait()
        task.cancel()

    with asyncio.Runner() as runner:
        runner.run(begin())
    assert ended and not [each for each in pool.names.list() if "changing" in each.key]


@pytest.mark.parametrize("change", ["set", "delete_dir"])
def test_a_change_that_is_cancelled_before_it_begins_awaits_nothing(pool, tmp_path, name, change, recwarn):
    make, _ = CHANGES[change]

    async def begin():
        task = asyncio.create_task(make(FolioStore(Endless(LocalStore(tmp_path)), pool, name=name)))
        await asyncio.sleep(0)
        others = asyncio.all_tasks() - {task, asyncio.current_task()}
        assert others
        for each in others:
            each.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    asyncio.run(begin())
    gc.collect()
    assert not [str(each.message) for each in recwarn]


@pytest.mark.parametrize("change", ["set", "delete_dir"])
def test_a_change_whose_loop_is_closed_has_no_mark(pool, tmp_path, name, change):
    """Others need not wait for it, and keep what they read. asyncio says nothing of tasks that the caller has not made."""
    make, _ = CHANGES[change]

    def marks():
        gc.collect()
        return [each for each in pool.names.list() if "changing" in each.key]

    async def begin():
        store = Endless(LocalStore(tmp_path))
        store.begun = asyncio.Event()
        tasks = [asyncio.create_task(make(FolioStore(store, pool, name=name)))]
        await store.begun.wait()
        tasks.pop().cancel()

    loop = asyncio.new_event_loop()
    told = []
    loop.set_exception_handler(lambda loop, context: told.append(context))
    loop.run_until_complete(begin())
    assert marks()  # the loop may go on
    loop.close()
    del loop
    assert not marks() and not told


@pytest.mark.parametrize("is_closed", [False, True])
@pytest.mark.parametrize("change", ["set", "delete_dir"])
def test_asyncio_reports_no_change_that_is_cancelled_and_fails(pool, tmp_path, name, change, is_closed):
    """Nor if its loop is closed before the one who waits for it is told, as by Zarr at the end of a process."""
    make, _ = CHANGES[change]

    class Failing(Endless):
        async def set(self, key, value):
            self.begun.set()
            await self.go.wait()
            if is_closed:
                asyncio.get_running_loop().stop()
            raise OSError("a failure")

    async def begin(store):
        store.begun, store.go = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(make(FolioStore(store, pool, name=name)))
        await store.begun.wait()
        task.cancel()
        await asyncio.wait([task])

    async def end():
        await asyncio.gather(*module._changes, return_exceptions=True)

    loop = asyncio.new_event_loop()
    told = []
    loop.set_exception_handler(lambda loop, context: told.append(context))
    store = Failing(LocalStore(tmp_path))
    loop.run_until_complete(begin(store))
    store.go.set()
    loop.run_forever() if is_closed else loop.run_until_complete(end())
    loop.close()
    del loop, store
    gc.collect()
    assert not told
