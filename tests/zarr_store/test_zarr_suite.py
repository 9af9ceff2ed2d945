"""Zarr's own tests of stores, of a FolioStore around one with synchronous methods and around one without."""

import pytest
from zarr.core.buffer import cpu
from zarr.storage import LocalStore, WrapperStore
from zarr.testing.store import StoreTests

from foliocache.zarr import FolioStore


class Suite(StoreTests[FolioStore, cpu.Buffer]):
    store_cls = FolioStore
    buffer_cls = cpu.Buffer

    async def set(self, store, key, value):
        await store._store.set(key, value)

    async def get(self, store, key):
        return await store._store.get(key, cpu.buffer_prototype)

    def test_store_repr(self, store):
        assert repr(store).startswith("FolioStore(")
        assert str(store).startswith("folio::")

    def test_store_supports_writes(self, store):
        assert store.supports_writes

    def test_store_supports_listing(self, store):
        assert store.supports_listing


class TestSynchronous(Suite):
    @pytest.fixture
    def store_kwargs(self, tmp_path, zarr_pool):
        return {"store": LocalStore(tmp_path), "pool": zarr_pool}

    def test_it_has_the_methods(self, store):
        assert hasattr(store, "get_sync")


class Plain(WrapperStore):
    """A store without synchronous methods; with newer versions of Zarr, one that says that they cannot be used."""

    _supports_sync_io = False


class TestAsynchronous(Suite):
    @pytest.fixture
    def store_kwargs(self, tmp_path, zarr_pool):
        return {"store": Plain(LocalStore(tmp_path)), "pool": zarr_pool, "name": str(tmp_path), "listings": 60}

    def test_it_has_not_the_methods(self, store):
        assert not getattr(store, "_supports_sync_io", hasattr(store, "get_sync"))
