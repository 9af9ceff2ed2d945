"""A pool for all workers of a Dask cluster on a machine, and what reads through it there."""

import os
import signal
import time
import warnings

import distributed
import numpy
import pytest
import xarray
import zarr

import foliocache
from foliocache.dask import PoolPlugin, remove, report
from foliocache.zarr import FolioStore

LIMIT = 120  # seconds


@pytest.fixture
def client(pool_name):
    """A cluster of two processes. It ends before the pool is removed: a worker that starts late would make another one."""
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster, timeout=LIMIT) as client,
    ):
        yield client


def made_once(name, key):
    return foliocache.attach(name).get_or_create(key, lambda: numpy.arange(100_000) + os.getpid())


def total(name, key):
    return int(made_once(name, key).sum())


@pytest.mark.parametrize(
    "wrong", [{"name": 5}, {"name": "a/b"}, {"size": "much"}, {"size": "200%"}, {"page_size": "x"}, {"clients": "x"}]
)
def test_what_no_worker_could_open_is_refused_by_the_client(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PoolPlugin(**wrong)
    assert PoolPlugin(size="25%").pool is None


def test_all_workers_have_one_pool(client, pool_name, tmp_path):
    plugin = PoolPlugin(pool_name, "32MiB")
    client.register_plugin(plugin)
    assert plugin.pool is None and client.run(lambda: foliocache.attach(pool_name).pool_bytes).keys() == workers(client)

    totals = client.run(total, pool_name, "roots")
    assert len(totals) == 2 and len(set(totals.values())) == 1

    with warnings.catch_warnings(action="ignore"):  # of consolidated metadata, by Zarr
        xarray.Dataset({"t": (("x", "y"), numpy.random.default_rng(1).random((400, 300)))}).chunk(x=100).to_zarr(
            tmp_path / "data"
        )
        expected = float(xarray.open_zarr(tmp_path / "data").t.sum())
        for _ in range(2):
            store = FolioStore(zarr.storage.LocalStore(tmp_path / "data", read_only=True), foliocache.attach(pool_name))
            assert float(xarray.open_zarr(store, chunks={}).t.sum().compute()) == pytest.approx(expected)
    (stat,) = report(client, pool_name).values()
    assert stat.name == pool_name and {each.pid for each in stat.clients} >= pids(client)
    assert 400 * 300 * 8 * 0.7 < stat.counters.fill_bytes < 400 * 300 * 8 * 1.3 + 800_000 + 100_000

    a_worker_that_is_killed_is_followed_by_one_with_the_pool(client, pool_name, totals)
    assert foliocache.attach(pool_name).audit() == []
    assert len(remove(client, pool_name)) == 1 and remove(client, pool_name) == [] and report(client, pool_name) == {}
    a_pool_with_other_parameters_is_told(client, pool_name)


def workers(client):
    return client.scheduler_info(n_workers=-1)["workers"].keys()


def pids(client):
    return set(client.run(os.getpid).values())


def a_worker_that_is_killed_is_followed_by_one_with_the_pool(client, name, totals):
    before = pids(client)
    os.kill(min(before), signal.SIGKILL)
    deadline = time.monotonic() + LIMIT
    while len(after := living(client)) < 2 or after == before:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert set(client.run(total, name, "roots").values()) == set(totals.values())


def living(client):
    try:
        return pids(client)
    except OSError:  # a CommClosedError is one
        return set()


def a_pool_with_other_parameters_is_told(client, name):
    foliocache.open(name, size="16MiB", page_size="4KiB")
    client.unregister_worker_plugin(PoolPlugin(name).name)
    with pytest.raises(foliocache.PoolMismatchError):
        client.register_plugin(PoolPlugin(name, page_size="64KiB"))
