"""Classes that are derived from FolioStore, and synchronous methods of what has none."""

import pickle

import pytest
import zarr
from zarr.core.buffer import cpu, default_buffer_prototype
from zarr.storage import LocalStore, WrapperStore

from foliocache.zarr import FolioStore

PROTOTYPE = default_buffer_prototype()
needs_sync = pytest.mark.skipif(not hasattr(WrapperStore, "get_sync"), reason="Zarr's wrappers have no synchronous methods")


class Derived(FolioStore):
    """A store with something of its own."""

    said = "by the class"

    async def getsize(self, key):
        return 1 + await super().getsize(key)


@pytest.fixture
def store(tmp_path, zarr_pool):
    store = Derived(LocalStore(tmp_path), zarr_pool, expiry=1000)
    store.said = "by the instance"
    return store


def buffer(content):
    return cpu.Buffer.from_bytes(content)


@needs_sync
async def test_synchronous_writes_of_a_derived_class_are_seen(store, tmp_path):
    other = FolioStore(LocalStore(tmp_path), store.pool)
    for content in b"old", b"new":
        store.set_sync("k", buffer(content))
        for each in store, other:
            assert (await each.get("k", PROTOTYPE)).to_bytes() == each.get_sync("k").to_bytes() == content
    assert store.get_sync("k").to_bytes() == b"new"
    (tmp_path / "k").unlink()
    assert store.get_sync("k").to_bytes() == b"new"  # from the pool
    await store.set("k", buffer(b"newest"))
    store.delete_sync("k")
    assert store.get_sync("k") is None and await other.get("k", PROTOTYPE) is None


async def test_a_read_only_view_of_a_derived_class_is_one_of_it(store):
    await store.set("k", buffer(b"12"))
    view = store.with_read_only(True)
    assert type(view) is Derived and view.read_only and not store.read_only
    assert view.said == store.said and view.pool is store.pool
    assert await view.getsize("k") == 3
    with pytest.raises(ValueError, match="read-only"):
        await view.set("k", buffer(b"3"))
    again = pickle.loads(pickle.dumps(view))
    assert type(again) is Derived and again.read_only and again.said == store.said
    zarr.create_group(store)
    assert type(zarr.open_group(store, mode="r").store) is Derived


def test_a_read_only_view_has_the_options(tmp_path, zarr_pool):
    store = FolioStore(LocalStore(tmp_path), zarr_pool, name="options", expiry=5, listings=7)
    view = store.with_read_only(True)
    assert type(view) is type(store) and view.read_only
    assert view == FolioStore(LocalStore(tmp_path, read_only=True), zarr_pool, name="options", expiry=5, listings=7)
    assert (view._prefix, view.expiry) == (store._prefix, 5)


@needs_sync
async def test_synchronous_methods_of_a_store_that_has_none(tmp_path, zarr_pool):
    store = FolioStore(zarr.storage.FsspecStore.from_url(f"file://{tmp_path}"), zarr_pool)
    await store.set("k", buffer(b"1"))
    for call in (
        lambda: store.get_sync("k"),
        lambda: store.set_sync("k", buffer(b"2")),
        lambda: store.delete_sync("k"),
    ):
        with pytest.raises(TypeError, match="FsspecStore has no synchronous methods"):
            call()
    assert (await store.get("k", PROTOTYPE)).to_bytes() == b"1" == store.get_sync("k").to_bytes()
