"""A pool for all workers of a Dask cluster on a machine, and what reads through it there."""

import asyncio
import os
import signal
import time
import warnings

import dask
import distributed
import numpy
import pytest
import xarray
import zarr

import foliocache
from foliocache.dask import PoolPlugin, remove, remove_async, report, report_async
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


@pytest.fixture
def threads():
    """A cluster of two workers in this process, with a client that waits."""
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0") as cluster,
        distributed.Client(cluster, timeout=LIMIT) as client,
    ):
        yield client


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": 5},
        {"name": "a/b"},
        {"size": "much"},
        {"size": "200%"},
        {"size": "1KiB"},
        {"size": True},
        {"page_size": "x"},
        {"page_size": "5KiB"},
        {"page_size": "4MiB"},
        {"size": "64KiB", "page_size": "4KiB"},
        {"clients": "x"},
        {"clients": 0},
        {"clients": 1 << 20},
    ],
)
def test_what_no_worker_could_open_is_refused_by_the_client(wrong, pool_name):
    with pytest.raises(ValueError, match=next(iter(wrong))) as by_plugin:
        PoolPlugin(**wrong)
    with pytest.raises(ValueError, match=next(iter(wrong))) as by_open:
        foliocache.open(**{"name": pool_name} | wrong)
    assert str(by_plugin.value) == str(by_open.value)


@pytest.mark.parametrize("right", [{"size": "25%"}, {"size": "1MiB", "page_size": "4KiB", "clients": 1}, {"size": 1 << 20}])
def test_what_a_worker_may_open_is_taken_by_the_client(right):
    assert PoolPlugin(**right).pool is None


def pools(client, name):
    """The pools that the plugins of workers in this process have."""
    return list(client.run(lambda dask_worker: dask_worker.plugins[PoolPlugin(name).name].pool).values())


def test_each_registration_replaces_the_one_before(threads, pool_name):
    def shapes():
        return [(pool.pool_bytes, pool.page_size) for pool in pools(threads, pool_name)]

    foliocache.open(pool_name, "16MiB", "4KiB")
    with pytest.raises(foliocache.PoolMismatchError, match="page_size=64 KiB was asked for"):
        threads.register_plugin(PoolPlugin(pool_name, page_size="64KiB"))
    for plugin in [PoolPlugin(pool_name, "16MiB", exact=True), PoolPlugin(pool_name, "16MiB"), PoolPlugin(pool_name, "8MiB")]:
        answers = threads.register_plugin(plugin)
        assert [each["status"] for each in answers.values()] == ["OK"] * 2 and shapes() == [(16 << 20, 4 << 10)] * 2
    with pytest.raises(foliocache.PoolMismatchError, match="size=8 MiB was asked for"):
        threads.register_plugin(PoolPlugin(pool_name, "8MiB", exact=True))

    remove(threads, pool_name)
    threads.register_plugin(PoolPlugin(pool_name, "8MiB", exact=True))
    assert shapes() == [(8 << 20, 16 << 10)] * 2


def test_a_worker_that_starts_later_opens_the_pool_or_says_why_not(threads, pool_name, caplog):
    threads.register_plugin(PoolPlugin(pool_name, "8MiB"))
    threads.cluster.scale(3)
    threads.wait_for_workers(3, timeout=LIMIT)
    assert pools(threads, pool_name) == [foliocache.attach(pool_name)] * 3
    with pytest.raises(foliocache.PoolMismatchError):
        threads.register_plugin(PoolPlugin(pool_name, page_size="64KiB"))
    caplog.clear()
    threads.cluster.scale(4)
    threads.wait_for_workers(4, timeout=LIMIT)
    assert pools(threads, pool_name) == [None] * 4 and "PoolMismatchError" in caplog.text
    threads.register_plugin(PoolPlugin(pool_name))
    assert pools(threads, pool_name) == [foliocache.attach(pool_name)] * 4


def test_a_client_in_an_event_loop_awaits(pool_name):
    async def with_an_asynchronous_client():
        async with (
            distributed.LocalCluster(n_workers=2, processes=False, dashboard_address=":0", asynchronous=True) as cluster,
            distributed.Client(cluster, asynchronous=True) as client,
        ):
            await client.register_plugin(PoolPlugin(pool_name, "8MiB"))
            for function in report, remove:
                with pytest.raises(TypeError, match=f"await {function.__name__}_async"):
                    function(client, pool_name)
            (stat,) = (await report_async(client, pool_name)).values()
            assert stat.name == pool_name
            assert len(await remove_async(client, pool_name)) == 1 and await remove_async(client, pool_name) == []
            assert await report_async(client, pool_name) == {}

    asyncio.run(with_an_asynchronous_client())


@pytest.mark.parametrize("function", [report_async, remove_async])
def test_a_client_that_waits_is_not_awaited(threads, pool_name, function):
    with pytest.raises(TypeError, match=f"call {function.__name__.removesuffix('_async')}"):
        asyncio.run(asyncio.wait_for(function(threads, pool_name), LIMIT))


def test_a_client_that_is_closed_is_refused(pool_name):
    """Not made the default, as a default client that is closed twice stays it, for all tests after this one."""
    with distributed.LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as cluster:
        client = distributed.Client(cluster, set_as_default=False)
        client.close()
        for call in report, remove:
            with pytest.raises(ValueError, match="no connection to a scheduler: its status is 'closed'"):
                call(client, pool_name)

    async def after_it_is_closed():
        async with (
            distributed.LocalCluster(n_workers=1, processes=False, dashboard_address=":0", asynchronous=True) as cluster,
            distributed.Client(cluster, asynchronous=True, set_as_default=False) as client,
        ):
            await client.close()
            for function in report_async, remove_async:
                with pytest.raises(ValueError, match="no connection to a scheduler: its status is 'closed'"):
                    await function(client, pool_name)

    asyncio.run(after_it_is_closed())


@pytest.mark.parametrize("wrong", [None, "tcp://127.0.0.1:8786", foliocache])
def test_what_is_no_client_is_refused(wrong):
    for call in report, remove:
        with pytest.raises(TypeError, match=r"client must be a distributed\.Client, not "):
            call(wrong)
    for function in report_async, remove_async:
        with pytest.raises(TypeError, match=r"client must be a distributed\.Client, not "):
            asyncio.run(function(wrong))


@pytest.mark.parametrize("function", [report, remove])
def test_where_a_worker_ends_while_it_is_asked_another_one_answers(threads, pool_name, function, monkeypatch):
    scheduler = threads.cluster.scheduler
    ended = []

    async def broadcast(*, workers, **message):
        if not ended:
            ended.extend(workers)
            await asyncio.gather(*(each.close() for each in threads.cluster.workers.values() if each.address in ended))
        return await scheduler.broadcast(workers=workers, **message)

    threads.register_plugin(PoolPlugin(pool_name, "8MiB"))
    monkeypatch.setitem(scheduler.handlers, "broadcast", broadcast)
    assert len(function(threads, pool_name)) == len(ended) == 1
    assert len(workers(threads)) == 1 and workers(threads).isdisjoint(ended)


def test_what_a_worker_raises_reaches_the_client(threads, pool_name, monkeypatch):
    foliocache.open(pool_name, "8MiB")
    monkeypatch.setattr("foliocache.adapters.dask.plugin.attach", lambda name: foliocache.open(name, page_size="1MiB"))
    with pytest.raises(foliocache.PoolMismatchError):
        report(threads, pool_name)
    with pytest.raises(ValueError, match="pool name"):
        remove(threads, "a/b")


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
    with pytest.raises(foliocache.PoolMismatchError):
        client.register_plugin(PoolPlugin(name, page_size="64KiB"))
