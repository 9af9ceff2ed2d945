"""An origin that fails or changes, asked by one and waited for by others: all of them are told, as the adapter tells it."""

from __future__ import annotations

import asyncio
import os
import threading
import time

import pytest

import foliocache
from foliocache import ChangedError
from foliocache.adapters.fsspec import FolioFileSystem

PATIENCE = 60


def read_by_three(http, origin, url, pool, meanwhile):
    """Three readers of a page at the end of an object, while the origin answers the first; meanwhile something happens there.
    Their exceptions, and how often the origin was asked."""
    started, go, asked, errors = threading.Event(), threading.Event(), [], []

    def before_get(path, headers):
        asked.append(path)
        started.set()
        assert go.wait(PATIENCE)
        meanwhile()

    files = [http.open(url) for _ in range(3)]
    origin.before_get = before_get

    def read(file):
        try:
            file.seek(-100, os.SEEK_END)  # the beginning came when it was opened
            file.read()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=read, args=(file,)) for file in files]
    threads[0].start()
    assert started.wait(PATIENCE)
    for thread in threads[1:]:
        thread.start()
    deadline = time.monotonic() + PATIENCE
    while foliocache.attach(pool["name"]).stat().counters.waits < 2:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    go.set()
    for thread in threads:
        thread.join(PATIENCE)
    return errors, len(asked)


def test_all_who_wait_learn_that_the_object_has_changed(http, origin, pool, data):
    url = origin.put("/a.bin", data)
    errors, asked = read_by_three(http, origin, url, pool, lambda: origin.put("/a.bin", data[::-1]))
    assert asked == 2  # what http.client finds to be of another version, aiohttp looks into
    assert [type(error) for error in errors] == [ChangedError] * 3


def test_all_who_wait_learn_that_the_origin_is_down(http, origin, pool, data):
    url = origin.put("/a.bin", data)

    def break_off():
        raise ConnectionResetError

    errors, _ = read_by_three(http, origin, url, pool, break_off)
    assert len(errors) == 3
    assert sorted(isinstance(error, foliocache.SourceError) for error in errors) == [False, True, True]
    origin.before_get = lambda path, headers: None
    with http.open(url) as file:
        assert file.read() == data


def awaited(http, url):
    return asyncio.run(http._cat_file(url))


@pytest.mark.parametrize("read", [FolioFileSystem.cat_file, awaited])
def test_pool_is_closed_while_another_thread_asks_what_a_name_means(http, origin, data, waited, read):
    """Who waits for the answer asks for it, over the reopened pool."""
    url = origin.put("/a.bin", data)
    asked, go, found = threading.Event(), threading.Event(), []

    def before_get(path, headers):
        asked.set()
        assert go.wait(PATIENCE)

    origin.before_get = before_get
    pool = http.pool
    threads = [threading.Thread(target=lambda: found.append(read(http, url))) for _ in range(2)]
    threads[0].start()
    assert asked.wait(PATIENCE)
    threads[1].start()
    assert waited.wait(PATIENCE)
    closing = threading.Thread(target=pool.close)
    closing.start()
    while not pool.closed:
        time.sleep(0.001)
    go.set()
    for thread in (*threads, closing):
        thread.join(PATIENCE)
    assert found == [data, data]
    assert not http.pool.closed


@pytest.fixture(autouse=True)
def quiet(origin):
    yield
    origin.before_get = lambda path, headers: None
