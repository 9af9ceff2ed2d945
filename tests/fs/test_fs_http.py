"""HTTP servers: the answer is believed, not the question, and what can't be proven is read as fsspec reads it."""

from __future__ import annotations

import pickle
import re
import threading
import time
from itertools import count

import fsspec
import pytest
from origin import http_date
from test_fs_identity import other

import foliocache
from foliocache import ChangedError
from foliocache.adapters.fsspec import FolioFileSystem
from foliocache.filler.engine import THREADS_MAX

OLD = http_date(1e9)


def begins_earlier(data):
    """Block-aligned, of the length that was asked for."""

    def twist(method, status, body, headers):
        if status == 206:
            start = int(re.match(r"bytes (\d+)-", headers["Content-Range"])[1]) // 100_000 * 100_000
            body = data[start : start + len(body)]
            headers["Content-Range"] = f"bytes {start}-{start + len(body) - 1}/{len(data)}"
        return status, body

    return twist


def begins_later(data):
    def twist(method, status, body, headers):
        if status == 206:
            start = int(re.match(r"bytes (\d+)-", headers["Content-Range"])[1]) + 7
            body = data[start : start + len(body)]
            headers["Content-Range"] = f"bytes {start}-{start + len(body) - 1}/{len(data)}"
        return status, body

    return twist


def capped(data):
    def twist(method, status, body, headers):
        if status == 206:
            body = body[:100_000]
            start = int(re.match(r"bytes (\d+)-", headers["Content-Range"])[1])
            headers["Content-Range"] = f"bytes {start}-{start + len(body) - 1}/{len(data)}"
        return status, body

    return twist


def no_content_range(data):
    def twist(method, status, body, headers):
        headers.pop("Content-Range", None)
        return status, body

    return twist


def total_unknown(data):
    def twist(method, status, body, headers):
        if status == 206:
            headers["Content-Range"] = headers["Content-Range"].replace(f"/{len(data)}", "/*")
        return status, body

    return twist


def weakened(data):
    def twist(method, status, body, headers):
        if method == "GET":
            headers["ETag"] = f"W/{headers['ETag']}"
        return status, body

    return twist


@pytest.mark.parametrize("habit", [begins_earlier, begins_later, capped, no_content_range, total_unknown, weakened])
def test_odd_servers_are_cached_by_what_they_prove(http, origin, data, habit):
    url = origin.put("/x", data, twist=habit(data))
    with http.open(url, "rb") as file:
        for offset in (600_000, 450_000, 1_950_000, 3):
            file.seek(offset)
            assert file.read(100) == data[offset : offset + 100]
    assert http.cat_file(url) == data
    origin.forget_counts()
    assert http.cat_file(url) == data
    assert origin.sent["/x"] == 0


def flapping(data):
    numbers = count()

    def twist(method, status, body, headers):
        headers["ETag"] = f'"{next(numbers) % 2}"'
        return status, body

    return twist


def never_the_same(data):
    numbers = count()

    def twist(method, status, body, headers):
        headers["ETag"] = f'"{next(numbers)}"'
        return status, body

    return twist


def head_and_get_differ(data):
    def twist(method, status, body, headers):
        headers["ETag"] = f'"{method}"'
        return status, body

    return twist


def head_lies_of_the_length(data):
    def twist(method, status, body, headers):
        return status, body[:1000] if method == "HEAD" else body

    return twist


@pytest.mark.parametrize("habit", [flapping, never_the_same, head_and_get_differ, head_lies_of_the_length])
def test_servers_that_contradict_themselves_are_read_and_not_refused_for_ever(http, origin, data, habit):
    url = origin.put("/x", data, twist=habit(data))
    assert http.cat_file(url) == data
    assert http.cat_file(url, 400_000, 401_000) == data[400_000:401_000]
    assert bytes(http.lease(url, 5, 10)) == data[5:15]
    assert http.cat_ranges([url, url], [0, 100], [10, 200]) == [data[:10], data[100:200]]
    with http.open(url, "rb") as file:
        assert file.read(10) == data[:10]


def head_promises_more(data):
    def twist(method, status, body, headers):
        return status, body + bytes(100_000) if method == "HEAD" else body

    return twist


CONTRADICTIONS = [flapping, never_the_same, head_and_get_differ, head_promises_more]


@pytest.mark.parametrize("habit", CONTRADICTIONS)
def test_file_that_finds_out_that_nothing_is_proven_reads_on_uncached(http, origin, data, habit):
    """The contradiction shows in the first fetch, when the file has promised nothing yet."""
    buffer = bytearray(50)
    for number, read in enumerate(
        (
            lambda file: file.read(50),
            lambda file: file.peek(50)[:50],
            lambda file: bytes(file.read_buffer(50)),
            lambda file: bytes(file.lease(file.tell(), 50)),
            lambda file: buffer[: file.readinto(buffer)],
        )
    ):
        url = origin.put(f"/{number}", data, twist=habit(data))
        with http.open(url, "rb") as file:
            file.seek(400_000)
            assert read(file) == data[400_000:400_050]
            file.seek(len(data) - 10)
            assert file.read() == data[-10:]
            assert file.read(10) == b""
            with pytest.raises(ValueError, match="negative"):
                file.lease(-1, 5)


def test_file_that_has_given_bytes_goes_on_with_no_others(http, origin, data):
    url = origin.put("/x", data)
    with http.open(url, "rb") as file:
        assert file.read(10) == data[:10]
        again = pickle.loads(pickle.dumps(file))
        origin.put("/x", other(data), twist=head_and_get_differ(data))
        for one in (file, again):
            one.seek(1_900_000)
            with pytest.raises(ChangedError):
                one.read(10)
    with http.open(url, "rb") as file:
        assert file.read(10) == other(data)[:10]


def test_unsteady_objects_are_cached_again_after_a_minute(http, origin, data, monkeypatch):
    url = origin.put("/x", data, twist=never_the_same(data))
    assert http.cat_file(url) == data
    assert url in http.target.unsteady
    engine, waits = http.pool.engine, threading.Event()
    http.pool.close()
    for _ in range(6000):  # its requests go on, and may say so once more; nothing wakes those who wait for its threads
        if len(engine._state.spare) == THREADS_MAX:
            break
        waits.wait(0.01)
    else:
        raise TimeoutError("the requests have not ended")
    origin.put("/x", data)
    now = time.monotonic()
    monkeypatch.setattr("foliocache.adapters.fsspec.targets.base.monotonic", lambda: now + 61)
    assert http.cat_file(url) == data
    assert max(record.cached_bytes for record in http.pool.mappings()) == len(data)


@pytest.mark.parametrize("etag", ['W/"2200000"', '"the same"', None])
def test_a_new_date_is_a_new_version_whatever_the_tag_says(http, origin, data, etag):
    url = origin.put("/x", data, etag=etag, modified=OLD)
    assert http.cat_file(url) == data
    with http.open(url, "rb") as file:
        file.read(10)
    origin.put("/x", other(data), etag=etag, modified=http_date(1.1e9))
    assert http.cat_file(url) == other(data)


def test_a_new_date_in_the_response_is_noticed(http, origin, data):
    url = origin.put("/x", data, etag='W/"w"', modified=OLD)
    with http.open(url, "rb") as file:
        origin.put("/x", other(data), etag='W/"w"', modified=http_date(1.1e9))
        with pytest.raises(ChangedError):
            file.read(10)
    assert http.cat_file(url) == other(data)


@pytest.mark.parametrize("etag", [None, 'W/"a weak tag promises no bytes"', '""'])
def test_without_a_validator_nothing_is_cached(http, origin, data, etag):
    url = origin.put("/x", data, etag=etag)
    assert http.cat_file(url) == data
    origin.put("/x", other(data), etag=etag)
    assert http.cat_file(url) == other(data)
    assert http.cat_file(url, 10, 1_000_000) == other(data)[10:1_000_000]
    assert http.cat_file(url, -10) == other(data)[-10:]
    assert bytes(http.lease(url, 7, 70)) == other(data)[7:77]
    with http.open(url, "rb") as file:
        assert file.read(10) == other(data)[:10]
    assert http.pool.mappings() == []


def test_range_of_an_uncached_object_is_one_small_request(http, origin, data):
    http.cat_file(origin.put("/y", data, etag=None))  # by which it is known that this server proves nothing
    url = origin.put("/x", data, etag=None)
    assert http.cat_file(url, 10, 50) == data[10:50]
    assert origin.sent["/x"] == 40
    origin.put("/x", data, etag=None, twist=begins_later(data))
    assert http.cat_file(url, 10, 50) == data[10:50]


def test_user_may_answer_for_an_object_without_a_validator(pool, origin, data):
    fs = FolioFileSystem(target_protocol="http", trust_info=True, **pool)
    fs.cat_file(origin.put("/y", data, etag=None))
    url = origin.put("/x", data, etag=None)
    assert fs.cat_file(url) == fs.cat_file(url) == data
    assert origin.sent["/x"] == len(data)


def test_file_modified_this_second_may_change_again_in_it(http, origin, data):
    """By the server's clock: the same date twice, one after the other."""
    now = http_date(time.time())
    url = origin.put("/x", data, etag=None, modified=now)
    assert http.cat_file(url) == data
    origin.put("/x", other(data), etag=None, modified=now)
    assert http.cat_file(url) == other(data)


@pytest.mark.parametrize("days", [-1, 1])
def test_date_that_is_not_now_is_believed(http, origin, data, days):
    url = origin.put("/x", data, etag=None, modified=http_date(time.time() + days * 86400))
    assert http.cat_file(url) == http.cat_file(url) == data
    assert origin.sent["/x"] == len(data)


def test_empty_object(http, origin):
    url = origin.put("/x", b"")
    assert http.cat_file(url) == http.cat_file(url, 0, 10) == http.cat_file(url, 3, 7) == bytes(http.lease(url, 0, 5)) == b""
    with http.open(url, "rb") as file:
        assert file.seek(0, 2) == 0
        assert file.read() == b""
    assert http.tail(url) == http.head(url) == b""


def test_whose_client_reads(http, origin):
    """``http.client``, unless options ask for what it cannot do."""
    data = bytes(range(256)) * (8 << 12)
    agents = []
    origin.before_get = lambda path, headers: agents.append("aiohttp" in headers.get("User-Agent", ""))
    assert http.cat_file(origin.put("/x", data)) == data
    assert agents and not any(agents)
    agents.clear()
    options = {"headers": {"X-Y": "z"}, "ssl": None}
    with fsspec.open(f"folio::{origin.put('/y', data)}", http=options, folio={"name": http.pool.name}) as file:
        assert file.read() == data
    assert agents and all(agents)
    assert http.pool.stat().counters.errors == 0


def in_turn(*habits):
    """Behave by each of the habits in turn."""
    numbers = count()

    def twist(method, status, body, headers):
        return habits[next(numbers) % len(habits)](method, status, body, headers)

    return twist


def as_it_is(method, status, body, headers):
    return status, body


def of_no_version(method, status, body, headers):
    headers.pop("ETag")
    return status, body


PIECE = 40_000
STARTS = list(range(0, 8_000_000, 128 << 10))  # in units that do not touch: a request for each


@pytest.fixture
def large(data):
    return data * 4


def pieces_of(http, url):
    return http.cat_ranges([url] * len(STARTS), STARTS, [start + PIECE for start in STARTS], on_error="raise")


@pytest.mark.parametrize("habit", [begins_earlier, begins_later, capped, no_content_range, total_unknown, weakened])
def test_a_batch_of_ranges_in_which_some_responses_are_odd(http, origin, large, habit):
    """A head that is known makes no other response right."""
    url = origin.put("/x", large, twist=in_turn(as_it_is, as_it_is, habit(large)))
    assert pieces_of(http, url) == [large[start : start + PIECE] for start in STARTS]
    assert http.cat_file(url) == large


def test_a_batch_of_ranges_in_which_some_responses_prove_nothing(http, origin, large):
    url = origin.put("/x", large, twist=in_turn(as_it_is, as_it_is, of_no_version))
    assert pieces_of(http, url) == [large[start : start + PIECE] for start in STARTS]


def numbered():
    numbers = count()

    def twist(method, status, body, headers):
        headers["X-Request-Id"] = str(next(numbers))
        return status, body

    return twist


def closing():
    """Each fourth response is the last of its connection, and says so."""
    numbers = count()

    def twist(method, status, body, headers):
        if next(numbers) % 4 == 3:
            headers["Connection"] = "close"
        return status, body

    return twist


@pytest.mark.parametrize("habit", [numbered, closing])
def test_a_server_whose_heads_differ_sends_each_byte_of_a_batch_once(http, pool, origin, large, habit):
    url = origin.put("/x", large, twist=habit())
    assert pieces_of(http, url) == [large[start : start + PIECE] for start in STARTS]
    assert origin.sent["/x"] == foliocache.open(**pool).stat().counters.fill_bytes < len(large)


def test_an_object_that_changes_in_the_middle_of_a_batch(http, origin, large):
    """Each range is of one version, and what is cached is of the version that it is cached as."""
    url, numbers, new = origin.put("/x", large), count(), other(large)
    assert http.cat_file(url, 0, 100) == large[:100]

    def change(path, headers):
        if next(numbers) == len(STARTS) // 2:
            origin.put("/x", new)

    origin.before_get = change
    for start, piece in zip(STARTS, pieces_of(http, url), strict=True):
        assert piece in (large[start : start + PIECE], new[start : start + PIECE])
    assert pieces_of(http, url) == [new[start : start + PIECE] for start in STARTS]
    assert http.cat_file(url) == new


def test_a_batch_of_ranges_of_which_one_is_missing_at_the_server(http, origin, large):
    """The object is gone in the middle: a failure, which costs no later read."""
    url, numbers = origin.put("/x", large), count()
    assert http.cat_file(url, 0, 100) == large[:100]

    def remove(path, headers):
        if next(numbers) == len(STARTS) // 2:
            origin.things.pop("/x")

    origin.before_get = remove
    with pytest.raises((FileNotFoundError, ChangedError)):
        pieces_of(http, url)
    origin.before_get = lambda path, headers: None
    origin.put("/x", large)
    assert pieces_of(http, url) == [large[start : start + PIECE] for start in STARTS]
