"""Who an object is, what happens when it changes, and proofs that no bytes of another version get in."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import time

import pytest
from fsspec.implementations.local import LocalFileSystem
from origin import http_date

from foliocache import ChangedError
from foliocache.adapters.fsspec import FolioFile, FolioFileSystem
from foliocache.adapters.fsspec.identities import Identities, shared, trust_seconds, unshared
from foliocache.adapters.fsspec.target import Identity, target_for
from foliocache.pool.names import Name


class Unknown(LocalFileSystem):
    """A filesystem of which we know no more than what its info() says, and that the user answers for it."""

    def info(self, path, **kwargs):
        info = super().info(path, **kwargs)
        if info["type"] == "file":
            with open(info["name"], "rb") as file:
                info["etag"] = hashlib.md5(file.read()).hexdigest()
        return info


@pytest.fixture(params=["http", "s3", "file", "unknown"])
def place(request, pool, tmp_path):
    """(filesystem, path, write) for four kinds of origin; `write` goes behind the cache's back."""
    if request.param == "http":
        origin = request.getfixturevalue("origin")
        return FolioFileSystem(target_protocol="http", **pool), f"{origin.url}/x", lambda data: origin.put("/x", data)
    if request.param == "s3":
        s3 = request.getfixturevalue("s3")
        fs = FolioFileSystem(target_protocol="s3", target_options=s3.options, **pool)
        return fs, "bucket/x", lambda data: s3.bare.pipe_file("bucket/x", data)
    target = Unknown() if request.param == "unknown" else LocalFileSystem()
    fs = FolioFileSystem(fs=target, trust_info=request.param == "unknown", **pool)
    return fs, str(tmp_path / "x"), (tmp_path / "x").write_bytes


def other(data):
    """As long, but with no byte the same."""
    return bytes(byte ^ 0xFF for byte in data)


def test_changed_object_is_read_anew(place, data):
    fs, path, write = place
    for content in (data, other(data), data[:100], data + data):
        write(content)
        assert fs.cat_file(path) == content
        assert bytes(fs.lease(path, 5, 50)) == content[5:55]
        with fs.open(path, "rb") as file:
            assert file.size == len(content)
            assert file.read() == content


def test_listing_does_not_hide_a_change(place, data):
    """s3fs remembers listings; an open must ask the origin all the same."""
    fs, path, write = place
    write(data)
    fs.ls(fs._parent(path))
    assert fs.cat_file(path) == data
    write(other(data))
    assert fs.cat_file(path) == other(data)


def test_open_file_is_one_version(place, data):
    """Pages that were read stay readable; those that were not are refused, and never taken from the new version."""
    fs, path, write = place
    write(data)
    with fs.open(path, "rb") as file:
        start = file.read(10)
        write(other(data))
        with pytest.raises(ChangedError) as error:
            file.seek(0)
            while piece := file.read(1000):
                assert piece == data[file.tell() - len(piece) : file.tell()]
        assert error.value.errno == errno.ESTALE
        assert start == data[:10]
    with fs.open(path, "rb") as file:
        assert file.read() == other(data)


def test_change_between_identity_and_read_is_tried_again(place, data):
    fs, path, write = place
    write(data)
    target, changed = fs.target, []

    def then_change(ask):
        def asked(*args):
            answer = ask(*args)
            if answer is not None and not changed:
                changed.append(write(other(data)))
            return answer

        return asked

    target.identify, target.first = then_change(target.identify), then_change(target.first)
    assert fs.cat_file(path, 5, 1_500_000) == other(data)[5:1_500_000]


def test_object_that_never_holds_still_is_read_uncached_and_not_mixed(http, origin, data):
    url = origin.put("/x", data)
    versions = iter(range(1, 200))

    def change(path, headers):
        number = next(versions)
        origin.put("/x", bytes([number]) * len(data), etag=f'"{number}"')

    origin.before_get = change
    for _ in range(3):
        assert len(set(http.cat_file(url))) == len(set(http.cat_file(url, 5, 1_000_000))) == 1


def cached_bytes(fs):
    return sum(record.cached_bytes for record in fs.pool.mappings())


def test_opening_again_helps(place, data):
    """An open file can't begin again with another version; but opening it again must give the new one."""
    fs, path, write = place
    write(data)
    fs._trust = 1e9
    assert fs.cat_file(path, 0, 10) == data[:10]
    write(other(data))
    first, second = fs.open(path), fs.open(path)
    assert first.read(10) == data[:10]  # that was cached
    with pytest.raises(ChangedError):
        first.read()
    assert fs.open(path).read() == other(data)
    with pytest.raises(ChangedError):
        second.read()
    assert fs._is_remembered(path)  # what has been learnt since is not forgotten for it


def test_trusted_identity_that_proves_wrong_is_replaced(place, data):
    fs, path, write = place
    write(data)
    fs._trust = 1e9
    assert fs.cat_file(path, 0, 10) == data[:10]
    write(other(data))
    assert fs.cat_file(path, len(data) - 10) == other(data)[-10:]
    assert fs.cat_file(path, 0, 10) == other(data)[:10]


def test_cat_ranges_of_a_changed_object(place, data):
    fs, path, write = place
    write(data)
    fs._trust = 1e9
    assert fs.cat_file(path, 0, 10) == data[:10]
    write(other(data))
    assert fs.cat_ranges([path] * 2, [len(data) - 10, len(data) - 5], [None] * 2) == [other(data)[-10:], other(data)[-5:]]


def test_deleted_object(place, data):
    fs, path, write = place
    write(data)
    with fs.open(path, "rb") as file:
        file.read(10)
        fs.fs.rm_file(path) if not path.startswith("http") else delete(fs, path)
        with pytest.raises(ChangedError):
            file.seek(-10, os.SEEK_END)
            file.read()
    for read in (fs.open, fs.cat_file, fs.lease):
        with pytest.raises(FileNotFoundError):
            read(path)


def delete(fs, path):
    import urllib.request

    urllib.request.urlopen(urllib.request.Request(path, method="DELETE")).close()


def test_same_version_is_not_fetched_again(http, origin, data):
    url = origin.put("/x", data)
    assert [http.cat_file(url) for _ in range(3)] == [data] * 3
    assert origin.sent["/x"] == len(data)
    assert origin.requests["HEAD"] == 2  # the first time, the first bytes said it


def test_object_costs_one_request_and_a_small_one_no_more(http, origin, data):
    for number, read in enumerate((http.cat_file, http.lease, lambda url: http.open(url).read())):
        assert bytes(read(origin.put(f"/{number}", data[:200_000]))) == data[:200_000]
    assert http.cat_ranges([origin.put("/r", data)], [300_000], [400_000]) == [data[300_000:400_000]]
    assert origin.requests == {"GET": 4}


def test_small_object_of_s3_costs_one_request(pool, s3, data):
    fs = FolioFileSystem(target_protocol="s3", target_options=s3.options, **pool)
    s3.bare.pipe_file("bucket/x", data[:200_000])
    s3.forget_counts()
    assert fs.cat_file("bucket/x") == data[:200_000]
    assert s3.requests == {"GET": 1}


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({}, 3),
        ({"check_files": True, "expiry": 60}, 3),
        ({"expiry": 0}, 3),
        ({"check_files": False}, 0),
        ({"expiry": 60}, 0),
        ({"check_files": False, "expiry": 60}, 0),
    ],
)
def test_how_often_the_origin_is_asked(pool, origin, data, options, asked):
    fs = FolioFileSystem(target_protocol="http", **pool, **options)
    url = origin.put("/x", data)
    fs.cat_file(url), fs.lease(url), fs.open(url, "rb").read(5), fs.cat_ranges([url, url], [0, 1], [2, 2])
    assert origin.requests["HEAD"] == asked  # beside the first read


def test_trust_ends_with_expiry(pool, origin, data, monkeypatch):
    now = [time.clock_gettime_ns(time.CLOCK_BOOTTIME)]
    monkeypatch.setattr("foliocache.pool.names._now", lambda: now[0])
    fs = FolioFileSystem(target_protocol="http", expiry=30, **pool)
    url = origin.put("/x", data)
    assert fs.cat_file(url) == data
    origin.put("/x", other(data))
    now[0] += 29 * 10**9
    assert fs.cat_file(url) == data
    now[0] += 10**9
    assert fs.cat_file(url) == other(data)


def test_trust_ends_with_invalidate_cache(pool, origin, data):
    fs = FolioFileSystem(target_protocol="http", check_files=False, **pool)
    url = origin.put("/x", data)
    assert fs.cat_file(url) == data
    origin.put("/x", other(data))
    for path in (None, url, origin.url):
        assert fs.cat_file(url) in (data, other(data))
        fs.invalidate_cache(path)
        assert fs.cat_file(url) == other(data)


@pytest.mark.parametrize(
    ("check", "expiry", "seconds"),
    [
        (None, None, 0),
        (True, None, 0),
        (True, 5, 0),
        (None, 5, 5),
        (False, 5, 5),
        (None, 0, 0),
        (False, None, float("inf")),
    ],
)
def test_trust(check, expiry, seconds):
    assert trust_seconds(check, expiry) == seconds


def test_remembered_identities_are_bounded_and_form_a_tree(monkeypatch):
    monkeypatch.setattr("foliocache.adapters.fsspec.identities._LIMIT", 3)
    table = Identities()
    for path in ("a", "a/b", "ab", "a/c"):
        table.ask(path, "me").identity = Identity(1, path)
    assert table.recall("a", "me", 99) is None
    assert sorted(table.below("a")) == sorted(table.below("a/")) == ["a/b", "a/c"]
    assert sorted(table.below("")) == ["a/b", "a/c", "ab"]
    table.forget("ab")
    assert table.recall("ab", "me", 99) is None
    assert table.recall("a/b", "me", 99) == Identity(1, "a/b")


def test_answer_of_a_forgotten_question_is_nobodys():
    table = Identities()
    for forget in (
        lambda: table.forget("a/b"),
        lambda: [table.forget(seen) for seen in table.below("a")],
        table.forget_all,
        lambda: table.end_writing(table.begin_writing("a/b")),
        lambda: table.ask("a/b", "me"),
    ):
        question = table.ask("a/b", "me")
        forget()
        question.identity = Identity(1, "old")
        assert table.recall("a/b", "me", 99) is None
    question = table.ask("a/b", "me")
    question.identity = Identity(1, "new")
    table.forget("a/b", Identity(1, "old"))  # which it is not
    assert table.recall("a/b", "me", 99) == Identity(1, "new")
    table.forget("a/b", Identity(1, "new"))
    assert table.recall("a/b", "me", 99) is None


def test_answers_are_for_who_asked_and_forgotten_for_all():
    table = Identities()
    mine, yours = table.ask("a", "me"), table.ask("a", "you")
    mine.identity, yours.identity = Identity(1, "mine"), Identity(1, "yours")
    assert (table.recall("a", "me", 99), table.recall("a", "you", 99)) == (Identity(1, "mine"), Identity(1, "yours"))
    assert table.recall("a", "someone else", 99) is None
    table.forget("a")
    assert table.recall("a", "me", 99) is table.recall("a", "you", 99) is None


def test_nothing_is_remembered_of_what_is_being_written():
    table = Identities()
    first, second = table.begin_writing("a"), table.begin_writing("a")
    for writer in (first, first, second):
        table.ask("a", "me").identity = Identity(1, "half")
        assert table.recall("a", "me", 99) is None
        table.end_writing(writer)
    table.ask("a", "me").identity = Identity(1, "whole")
    assert table.recall("a", "me", 99) == Identity(1, "whole")


def test_trust_counts_from_the_question(monkeypatch):
    table = Identities()
    monkeypatch.setattr("foliocache.adapters.fsspec.identities.monotonic", lambda: 100.0)
    question = table.ask("a", "me")
    monkeypatch.setattr("foliocache.adapters.fsspec.identities.monotonic", lambda: 107.0)
    question.identity = Identity(1, "1")
    assert table.recall("a", "me", 7) is None
    assert table.recall("a", "me", 7.1) == Identity(1, "1")


# HTTP servers of all kinds


@pytest.mark.parametrize(
    "customs",
    [
        {"etag": 'W/"weak"'},
        {"etag": None, "modified": http_date(1e9)},
        {"etag": None},
        {"head": False},
        {"quiet": True},
        {"ranges": False},
        {"length": False},
        {"kind": "text/html"},
    ],
    ids=str,
)
def test_servers_with_their_own_customs(http, origin, data, customs):
    url = origin.put("/x", data, **customs)
    assert http.cat_file(url) == data
    assert http.cat_file(url, 5, 100_000) == data[5:100_000]
    assert http.exists(url) and http.isfile(url)
    with http.open(url, "rb") as file:
        assert file.read(1000) == data[:1000]
        assert file.read() == data[1000:]


def test_server_that_ignores_ranges_sends_the_object_once_per_reader(http, origin, data):
    """It says neither that it does ranges nor that it doesn't. The whole object comes, and is kept as long as the file."""
    url = origin.put("/x", data, ranges=None)
    with http.open(url, "rb") as file:
        assert b"".join(iter(lambda: file.read(100_000), b"")) == data
    assert origin.sent["/x"] == len(data)
    assert http.cat_file(url, 5, 100_000) == data[5:100_000]
    assert origin.sent["/x"] == len(data)


def test_server_without_ranges_is_read_as_a_stream(http, origin, data):
    url = origin.put("/x", data, ranges=False)
    assert http.target.identify(url).size is None
    assert not isinstance(http.open(url, "rb"), FolioFile)


def test_change_of_length_alone_is_seen_in_the_response(pool, origin, data):
    """No ETag, no date, and the user answers for the object: Content-Range is all that the response says."""
    url = origin.put("/x", data, etag=None)
    with FolioFileSystem(target_protocol="http", trust_info=True, **pool).open(url, "rb") as file:
        origin.put("/x", other(data) + b"longer", etag=None)
        with pytest.raises(ChangedError):
            file.read()


def test_further_options_go_to_the_target(http, origin, data):
    """They may choose other bytes, which are none of those that we know."""
    url = origin.put("/x", data)
    asked = []
    origin.before_get = lambda path, headers: asked.append(headers["X-Other"])
    for _ in range(2):
        assert http.cat_file(url, 0, 10, headers={"X-Other": "1"}) == data[:10]
        assert http.cat_ranges([url], [0], [10], headers={"X-Other": "2"}) == [data[:10]]
        assert http.open(url, "rb", headers={"X-Other": "3"}).read(10) == data[:10]
    assert asked == ["1", "2", "3"] * 2
    assert http.pool.mappings() == []


def test_unknown_length_is_not_cached(http, origin, data):
    url = origin.put("/x", data, length=False)
    assert http.target.identify(url).size is None
    assert http.cat_file(url) == http.cat_file(url) == data
    assert bytes(http.lease(url, 3, 5)) == data[3:8]
    assert origin.sent["/x"] >= 2 * len(data)


def test_version_is_told_from_the_response_not_from_a_further_request(http, origin, data):
    url = origin.put("/x", data)
    http.cat_file(url)
    assert origin.requests["HEAD"] == 0
    quiet = origin.put("/quiet", data, quiet=True)
    origin.forget_counts()
    http.cat_file(quiet)
    assert origin.requests["HEAD"] > 1  # such a server is asked again after each read


def test_request_options_of_the_target_are_kept(pool, origin, data):
    """A header that was configured goes with our own requests as with HTTPFileSystem's."""
    seen = []
    origin.before_get = lambda path, headers: seen.append((headers["X-Test"], headers["Range"], headers["Accept-Encoding"]))
    fs = FolioFileSystem(target_protocol="http", target_options={"headers": {"X-Test": "1"}}, **pool)
    assert fs.cat_file(origin.put("/x", data[:1000]), 10, 20) == data[10:20]
    assert seen == [("1", "bytes=0-65535", "identity")]


# Other identities


def test_local_identity_tells_quick_rewrites_apart(tmp_path):
    """A file that is rewritten within one tick of the kernel's clock keeps its stamps."""
    path = str(tmp_path / "x")
    target = target_for(FolioFileSystem(target_protocol="file").fs)
    (tmp_path / "x").write_bytes(b"one")
    assert target.identify(path) != target.identify(path)
    status = os.stat(path)
    settled = max(status.st_mtime_ns, status.st_ctime_ns) + 10**9
    assert target._identity(status, path, settled) == target._identity(status, path, settled + 5)


def test_memory_is_each_processs_own(pool):
    """And not cached: it is in memory."""
    fs = FolioFileSystem(target_protocol="memory", trust_info=True, **pool)
    fs.pipe_file("/identity/x", b"one")
    assert fs.cat_file("/identity/x") == b"one"
    fs.fs.pipe_file("/identity/x", b"two")
    assert fs.cat_file("/identity/x") == b"two"
    assert fs.pool.mappings() == []
    fs.rm("/identity", recursive=True)


def test_changed_error_is_an_oserror_that_pickles():
    error = pickle.loads(pickle.dumps(ChangedError("path")))
    assert isinstance(error, OSError)
    assert (error.errno, error.filename) == (errno.ESTALE, "path")
    assert "open it again" in str(error)


def test_what_the_pool_remembers_is_not_kept_twice(http, origin, data):
    """But the paths are: a folder that is written over drops the pages of those below it."""
    urls = [origin.put(f"/folder/{number}", data[number:]) for number in range(3)]
    assert [http.cat_file(url) for url in urls] == [data[number:] for number in range(3)]
    assert http._identities.below(f"{origin.url}/folder") == urls
    assert not any(http._identities._asked.values())
    origin.forget_counts()
    assert http.cat_file(urls[0]) == data
    assert origin.requests == {"HEAD": 1}


@pytest.mark.parametrize("text", [None, "", '"1"', 'a\\"\n\x00\u00e9\u20ac\U0001f600\udc80'])
@pytest.mark.parametrize("within", [None, Identity(9, "\u00e9"), Identity(0, "x", '"e"', "d", within=Identity(1, "y", "z"))])
def test_an_identity_in_a_name(text, within):
    identity = Identity(5, "stamp", text, text, within=within)
    size, version, extra = shared(identity)
    assert unshared("path", Name(True, size, version, extra)) == identity

    def rest(one):
        return [one.etag, one.modified, one.within and [one.within.size, one.within.stamp, *rest(one.within)]]

    assert json.loads(extra or b"[null,null,null]") == rest(identity) and extra.isascii()
