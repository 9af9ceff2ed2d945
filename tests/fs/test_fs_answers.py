"""info() and what follows from it, once per machine, if answers are trusted."""

from __future__ import annotations

import datetime

import pytest
from origin import http_date
from together import together

from foliocache.adapters.fsspec import FolioFileSystem, identities
from foliocache.adapters.fsspec.answers import _parse, _write

WHEN = 1_700_000_000


def questions(number, pool, protocol, path, options=None):
    """Ask all there is to ask, as readers do."""
    fs = FolioFileSystem(target_protocol=protocol, target_options=options, expiry=1000, **pool)
    said = [fs.info(path), fs.size(path), fs.exists(path), fs.isfile(path), fs.isdir(path), fs.glob(path), fs.modified(path)]
    missing = f"{path}.aux"
    said += [fs.exists(missing), fs.isfile(missing), fs.isdir(missing), fs.glob(missing)]
    with pytest.raises(FileNotFoundError):
        fs.info(missing)
    return said


def test_processes_ask_once_over_http(pool, origin, data):
    url = origin.put("/x", data, modified=http_date(WHEN))
    first, *others = together("spawn", 3, questions, pool, "http", url)
    assert others == [first] * 2
    assert first[0]["size"] == first[1] == len(data) and first[0]["name"] == first[0]["url"] == url
    assert first[2:] == [
        True, True, False, [url], datetime.datetime.fromtimestamp(WHEN, datetime.UTC), False, False, False, []
    ]  # fmt: skip
    assert origin.requests == {"HEAD": 2, "GET": 1}, "fsspec asks by GET after a HEAD that failed"


def test_processes_ask_once_over_s3(pool, s3, data):
    s3.bare.pipe_file("bucket/x", data)
    s3.forget_counts()
    first, *others = together("spawn", 3, questions, pool, "s3", "bucket/x", s3.options)
    assert others == [first] * 2
    assert first[:6] == [s3.bare.info("bucket/x", refresh=True), len(data), True, True, False, ["bucket/x"]]
    assert isinstance(first[6], datetime.datetime) and first[7:] == [False, False, False, []]


def test_without_trust_each_question_is_asked(pool, origin, data):
    url = origin.put("/x", data)
    fs = FolioFileSystem(target_protocol="http", **pool)
    for _ in range(3):
        assert fs.info(url)["size"] == len(data) and fs.exists(url)
    assert origin.requests == {"HEAD": 6}


def test_answers_expire(pool, origin, data):
    url = origin.put("/x", data)
    fs = FolioFileSystem(target_protocol="http", expiry=1000, **pool)
    soon = FolioFileSystem(target_protocol="http", expiry=1e-9, **pool)
    assert fs.size(url) == soon.size(url) == len(data)
    origin.put("/x", data[:100])
    assert (fs.size(url), soon.size(url)) == (len(data), 100)
    fs.invalidate_cache(url)
    assert fs.size(url) == 100


def test_a_write_forgets_what_was_said_of_the_path_and_of_those_above(pool, s3):
    fs = FolioFileSystem(target_protocol="s3", target_options=s3.options, expiry=1000, **pool)
    assert not fs.exists("bucket/a") and not fs.exists("bucket/a/b/c")
    fs.pipe_file("bucket/a/b/c", b"123")
    assert fs.size("bucket/a/b/c") == 3 and fs.exists("bucket/a") and fs.isdir("bucket/a") and not fs.isfile("bucket/a/b")
    with fs.open("bucket/a/b/c", "wb") as file:
        file.write(b"12345")
    assert fs.size("bucket/a/b/c") == fs.info("bucket/a/b/c")["size"] == 5
    fs.rm("bucket/a", recursive=True)
    assert not fs.exists("bucket/a/b/c") and not fs.exists("bucket/a")
    assert fs.exists("bucket") and fs.isdir("bucket")


@pytest.mark.parametrize("asked", ["exists", "cat_file"])
def test_a_server_that_fails_does_not_say_that_there_is_no_such_object(pool, origin, data, asked):
    fs = FolioFileSystem(target_protocol="http", expiry=1000, **pool)
    url = origin.put("/x", data, twist=lambda method, status, body, headers: (500, b""))
    assert asked == "cat_file" or not fs.exists(url)
    with pytest.raises(OSError):
        getattr(fs, asked)(url) if asked == "cat_file" else fs.info(url)
    origin.put("/x", data)
    assert fs.exists(url) and fs.cat_file(url) == data


def test_an_answer_that_a_name_has_no_room_for_is_remembered_by_the_process(pool, origin, data):
    url = origin.put("/x", data, kind="application/" + "long" * 70)
    for _ in range(2):
        fs = FolioFileSystem(target_protocol="http", expiry=1000, **pool)
        assert len(fs.info(url)["mimetype"]) == 292
    assert origin.requests == {"HEAD": 1}
    identities._tables.clear()
    FolioFileSystem.clear_instance_cache()
    assert FolioFileSystem(target_protocol="http", expiry=1000, **pool).size(url) == len(data)
    assert origin.requests == {"HEAD": 2}


def test_what_json_cannot_say_is_not_recorded():
    info = {"name": "p", "size": 1, "when": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), "none": None, "é": "ü"}
    assert _parse(_write(info, "p"), "p") == info
    for value in (object(), [1], (1, 2), {1: 2}, float("nan"), b"x"):
        assert _write({"name": "p", "x": value}, "p") is None
