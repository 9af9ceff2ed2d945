"""Which targets are cached, under which keys, and what becomes of those that can't prove their bytes."""

from __future__ import annotations

import enum
import gc
import io
import os
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.tar import TarFileSystem
from test_fs_identity import Unknown, other

from foliocache import ChangedError
from foliocache.adapters.fsspec import FolioFileSystem
from foliocache.adapters.fsspec.target import target_for
from foliocache.adapters.fsspec.targets import local as local_target
from foliocache.adapters.fsspec.targets import place
from foliocache.adapters.fsspec.targets.asked import KNOWN, instant
from foliocache.adapters.fsspec.targets.base import Turn

SIZE = 300_000


def tar_of(**members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


# What is cached


def test_unknown_filesystem_passes_through(pool, tmp_path):
    fs = FolioFileSystem(fs=Unknown(), **pool)
    path = tmp_path / "x"
    for byte in (b"1", b"2"):
        path.write_bytes(byte * SIZE)
        assert fs.cat_file(str(path)) == byte * SIZE
        assert fs.cat_file(str(path), 5, 50) == bytes(fs.lease(str(path), 5, 45)) == byte * 45
        assert fs.open(str(path), "rb").read() == byte * SIZE
        assert fs.cat_ranges([str(path)] * 2, [0, 9], [1, 11]) == [byte, byte * 2]
        assert fs.ukey(str(path)) == fs.ukey(str(path))
    with pytest.raises(FileNotFoundError):
        fs.cat_file(str(tmp_path / "none"))
    assert fs.pool.mappings() == []


def test_user_may_answer_for_a_filesystem(pool, tmp_path):
    fs = FolioFileSystem(fs=Unknown(), trust_info=True, **pool)
    (tmp_path / "x").write_bytes(b"1" * SIZE)
    assert fs.cat_file(str(tmp_path / "x")) == b"1" * SIZE
    assert len(fs.pool.mappings()) == 1


@pytest.mark.parametrize("trust", ["yes", None, 1])
def test_trust_is_a_yes_or_no(pool, trust):
    with pytest.raises(ValueError, match="trust_info is True or False"):
        FolioFileSystem(target_protocol="file", trust_info=trust, **pool)


@pytest.mark.parametrize("protocol", ["simplecache", "filecache", "blockcache"])
def test_other_caches_are_not_believed_even_by_request(pool, origin, tmp_path, protocol):
    """Their bytes are of one time and their info is of another."""
    url = origin.put("/x", b"1" * SIZE)
    options = {"target_protocol": "http", "cache_storage": str(tmp_path), "check_files": False}
    fs = FolioFileSystem(target_protocol=protocol, target_options=options, trust_info=True, **pool)
    assert fs.cat_file(url) == b"1" * SIZE
    origin.put("/x", b"2" * SIZE)
    assert fs.cat_file(url) == fs.fs.cat_file(url)
    assert fs.pool.mappings() == []
    plain = FolioFileSystem(target_protocol="http", **pool)
    assert plain.cat_file(url) == b"2" * SIZE


def test_subclass_that_changes_nothing_is_known_and_one_that_does_is_not():
    class Named(LocalFileSystem):
        def touch(self, path, **kwargs):
            """Another way to write is no other way to read."""

    class Otherwise(Named):
        def cat_file(self, path, start=None, end=None, **kwargs):
            return b""

    assert isinstance(target_for(Named()), local_target.LocalTarget)
    assert not isinstance(target_for(Otherwise()), local_target.LocalTarget)


def test_every_listed_filesystem_of_fsspec_exists():
    """The list is by name, so that nothing is imported; a name that is misspelt would pass through in silence."""
    import importlib.util

    for name in KNOWN:
        module, _, cls = name.rpartition(".")
        if not module.startswith("fsspec."):
            continue
        source = Path(importlib.util.find_spec(module).origin).read_text()
        assert f"class {cls}(" in source


# Filesystems within filesystems


def test_folder_shares_the_pages_of_what_is_in_it(pool, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x").write_bytes(b"1" * SIZE)
    monkeypatch.chdir(tmp_path)
    fs = FolioFileSystem(fs=DirFileSystem("data", LocalFileSystem(), skip_instance_cache=True), **pool)
    assert fs.cat_file("x") == b"1" * SIZE
    assert [record.key for record in fs.pool.mappings()] == [f"file://{tmp_path}/data/x"]


def test_relative_folders_are_as_many_places_as_there_are_working_directories(pool, tmp_path, monkeypatch):
    for name in "ab":
        (tmp_path / name / "data").mkdir(parents=True)
        (tmp_path / name / "data" / "f").write_bytes(name.encode() * SIZE)
        (tmp_path / name / "x.tar").write_bytes(tar_of(m=name.encode() * SIZE))
    for name in "ab":
        monkeypatch.chdir(tmp_path / name)
        folder = DirFileSystem("data", LocalFileSystem(), skip_instance_cache=True)
        fs = FolioFileSystem(fs=folder, skip_instance_cache=True, **pool)
        assert fs.cat_file("f") == name.encode() * SIZE
        fs = FolioFileSystem(fs=TarFileSystem("x.tar"), skip_instance_cache=True, **pool)
        assert fs.cat_file("m") == name.encode() * SIZE


def test_trusted_filesystem_with_a_relative_path_among_its_options(tmp_path, monkeypatch):
    class Somewhere(Unknown):
        def __init__(self, root, **options):
            super().__init__(**options)

    keys = set()
    for name in "ab":
        (tmp_path / name / "data").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / name)
        keys.add(target_for(Somewhere(root="data", skip_instance_cache=True), trusted=True).key("/x"))
    assert len(keys) == 2


def test_asynchronous_wrapper_is_what_it_wraps(pool, tmp_path):
    (tmp_path / "x").write_bytes(b"1" * SIZE)
    fs = FolioFileSystem(fs=AsyncFileSystemWrapper(LocalFileSystem(), asynchronous=False), **pool)
    assert fs.cat_file(str(tmp_path / "x")) == b"1" * SIZE
    assert [record.key for record in fs.pool.mappings()] == [f"file://{tmp_path}/x"]


def test_objects_that_are_options_are_not_taken_for_others_at_their_address(pool):
    """id() is used again at once; 200 archives in memory, one after the other, are 200 places."""
    archives = [tar_of(x=b"a" * SIZE), tar_of(x=b"b" * SIZE)]
    for number in range(200):
        target = TarFileSystem(fo=io.BytesIO(archives[number % 2]), skip_instance_cache=True)
        fs = FolioFileSystem(fs=target, skip_instance_cache=True, check_files=False, **pool)
        assert fs.cat_file("x", 0, 1) == b"ab"[number % 2 : number % 2 + 1]
        del fs, target
        gc.collect(0)


def test_several_reads_at_once_of_what_answers_one_at_a_time(pool):
    """An archive in memory has one position for all who read it."""
    members = {f"m{number}": bytes([number]) * SIZE for number in range(30)}
    fs = FolioFileSystem(fs=TarFileSystem(fo=io.BytesIO(tar_of(**members)), skip_instance_cache=True), **pool)
    for _ in range(10):
        assert fs.cat(sorted(members)) == members


def test_a_call_within_a_call_is_refused():
    turn = Turn()
    with pytest.raises(OSError, match="signal handlers") as error:
        turn.call(lambda: turn.call(lambda: None))
    assert error.value.errno == 35
    assert turn.call(lambda: 5) == 5


# Places and keys


class Colour(enum.StrEnum):
    RED = "red"


class Masked(str):
    def __repr__(self):
        return "***"


@dataclass
class Timeout:
    total: int


def test_values_are_told_by_content_and_kind():
    same = [("red", Colour.RED), ("a", Masked("a")), (Timeout(5), Timeout(5)), ({"a": 1, "b": 2}, {"b": 2, "a": 1})]
    for one, another in same:
        assert place.digest(one) == place.digest(another)
    differing = [1, "1", 1.5, True, None, b"1", Masked("a"), Masked("b"), Timeout(5), Timeout(6), [1], {1: 2}, {"1": 2}, {1, 2}]
    assert len({place.digest(value) for value in differing}) == len(differing)


def test_paths_are_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert place.digest(Path("x")) == place.digest(str(tmp_path / "x"))


def test_an_object_has_its_own_word_for_as_long_as_it_lives():
    class Thing:
        def __repr__(self):
            return "Thing"

    first, second = Thing(), Thing()
    assert place.digest(first) == place.digest(first) != place.digest(second)
    words = set()
    for _ in range(100):
        thing = Thing()
        words.add(place.nonce_of(thing))
        del thing
    assert len(words) == 100
    before = len(place._nonces)
    del first, second
    assert len(place._nonces) == before - 2


def test_names_that_are_not_utf8_have_keys_of_their_own():
    raw, escaped = os.fsdecode(b"/x\xff"), "/x\\udcff"
    keys = {place.short(raw, 280), place.short(escaped, 280), place.short(os.fsdecode(b"/x\xfe"), 280)}
    assert len(keys) == 3
    for key in keys:
        key.encode()


def test_endpoint_of_the_environment_is_a_place(pool, monkeypatch):
    def key(**options):
        fs = fsspec.filesystem("s3", key="k", secret="s", skip_instance_cache=True, **options)
        return target_for(fs).key("bucket/x")

    plain = key()
    assert plain == "s3://bucket/x"
    given = key(endpoint_url="http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert key() == given != plain


def test_accounts_do_not_share_what_is_remembered(pool):
    def who(secret):
        options = {"key": "k", "secret": secret}
        return FolioFileSystem(target_protocol="s3", target_options=options, check_files=False, **pool)._who

    assert who("a") == who("a") != who("b")


# Local files


@pytest.mark.parametrize("days", [-1000, 1, 1000])
def test_file_dated_by_hand_is_read_once(local, tmp_path, settled, days):
    path = tmp_path / "x"
    path.write_bytes(b"1" * SIZE)
    os.utime(path, (time.time() + days * 86400,) * 2)
    settled(path)
    for _ in range(3):
        assert local.cat_file(str(path)) == b"1" * SIZE
    assert local.pool.stat().counters.fill_bytes == SIZE


def test_whole_seconds_are_a_coarse_clock(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"1")
    status = os.stat(path)
    coarse = os.stat_result(tuple(status), {"st_ctime_ns": 10**18, "st_mtime_ns": 10**18, "st_blocks": 8})
    assert coarse.st_ctime_ns == 10**18
    assert local_target._racy(coarse, 10**18 + 1_900_000_000)
    assert not local_target._racy(coarse, 10**18 + 2_000_000_001)


def made_up_size():
    """A regular file whose size says nothing, as sysfs has them."""
    for path in Path("/sys/kernel").glob("*"):
        if path.is_file() and os.access(path, os.R_OK):
            with open(path, "rb") as file:
                if 0 < len(file.read()) < path.stat().st_size:
                    return str(path)
    pytest.skip("no sysfs here")


@pytest.mark.parametrize("mounts", ["known", "hidden"])
def test_size_that_is_made_up(local, monkeypatch, mounts):
    path = made_up_size()
    plain = fsspec.filesystem("file").cat_file(path)
    if mounts == "hidden":
        monkeypatch.setattr(local_target, "_kind_of_device", lambda device: "")
    assert local.cat_file(path) == local.cat_file(path) == plain
    assert bytes(local.lease(path, 0, 1)) == plain[:1]
    with local.open(path, "rb") as file:
        assert file.read() == plain


def test_change_with_a_stamp_that_begins_like_the_old_one(local, tmp_path, settled):
    """Stamps are compared whole."""
    path = settled_file(tmp_path, settled)
    identity = local.target.identify(path)
    longer = type(identity)(identity.size, identity.stamp + "0")
    with pytest.raises(ChangedError):
        local.target.reader(path, longer)(0, bytearray(10))


def settled_file(tmp_path, settled):
    (tmp_path / "x").write_bytes(b"1" * SIZE)
    return settled(tmp_path / "x")


# S3


def test_endpoint_that_ignores_if_match(pool, s3, data):
    fs = FolioFileSystem(target_protocol="s3", target_options=s3.options, **pool)
    s3.bare.pipe_file("bucket/x", data)
    s3.deaf = True
    with fs.open("bucket/x", "rb") as file:
        s3.bare.pipe_file("bucket/x", other(data))
        assert file.read(10) == data[:10]  # that came with the first answer
        with pytest.raises(ChangedError):
            file.seek(-10, 2)
            file.read()
    assert fs.cat_file("bucket/x") == other(data)


def test_empty_object(pool, s3):
    fs = FolioFileSystem(target_protocol="s3", target_options=s3.options, **pool)
    assert fs.ls("bucket") == []  # which s3fs remembers
    s3.bare.pipe_file("bucket/x", b"")
    assert fs.cat_file("bucket/x") == fs.cat_file("bucket/x", 0, 10) == fs.cat_file("bucket/x", 3, 7) == b""
    assert fs.cat_ranges(["bucket/x"] * 2, [0, None], [10, None]) == [b"", b""]
    assert bytes(fs.lease("bucket/x", 0, 10)) == fs.open("bucket/x", "rb").read() == fs.tail("bucket/x") == b""


def test_dates_as_filesystems_give_them():
    import datetime

    when = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    seconds = when.timestamp()
    for date in (when, when.replace(tzinfo=None), seconds, int(seconds * 1000), "20260102030405", "20260102030405.000"):
        assert instant(date) == seconds
    assert instant("2026-01-02T03:04:05") == seconds
    assert instant("Jan  2 03:04") is None and instant(None) is None
