"""Zarr is imported by these tests alone."""

import contextlib
import os
import uuid

import pytest

import foliocache

pytest.importorskip("zarr", reason="zarr is not installed")


@pytest.fixture(scope="session")
def zarr_pool():
    """A pool for all of them; sound at the end. With fewer names than it has room for, none of them is evicted in a test."""
    name = f"test-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    with contextlib.suppress(foliocache.PoolNotFoundError):
        pool = foliocache.open(name, size="256MiB")
        yield pool
        assert pool.audit() == []
        foliocache.remove(name)
