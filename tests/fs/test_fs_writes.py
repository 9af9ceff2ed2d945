"""Writes, moves and deletes pass through, and what was cached of the paths goes."""

from __future__ import annotations

import os

import fsspec
import pytest

from foliocache.fs import FolioFileSystem

OLD, NEW = b"old " * 50_000, b"new " * 50_000


@pytest.fixture
def trusting(pool):
    """It never asks the origin again by itself, so that a write that did not invalidate would show."""
    return FolioFileSystem(target_protocol="file", target_options={"auto_mkdir": True}, check_files=False, **pool)


@pytest.fixture
def cached(trusting, tmp_path, settled):
    """A path whose old content is in the pool, and how to ask which keys are there."""
    path = f"{tmp_path}/folder/x"
    os.makedirs(f"{tmp_path}/folder")
    with open(path, "wb") as file:
        file.write(OLD)
    settled(path)
    assert trusting.cat_file(path) == OLD
    assert keys(trusting) == {f"file://{path}{trusting.target.place}"}
    return path


def keys(fs):
    return {record["key"] for record in fs.cache.mappings()}


def write_text(fs, path):
    with fs.open(path, "w") as file:
        file.write(NEW.decode())


def write_file(fs, path):
    with fs.open(path, "wb") as file:
        file.write(NEW[:10])
        file.write(NEW[10:])


def put(fs, path, method):
    with open(f"{path}-local", "wb") as file:
        file.write(NEW)
    method(f"{path}-local", path)


def write_aside(fs, path):
    with open(f"{path}-aside", "wb") as file:
        file.write(NEW)
    return f"{path}-aside"


@pytest.mark.parametrize(
    "write",
    [
        lambda fs, path: fs.pipe_file(path, NEW),
        lambda fs, path: fs.pipe(path, NEW),
        lambda fs, path: fs.pipe({path: NEW}),
        lambda fs, path: fs.write_bytes(path, NEW),
        write_file,
        write_text,
        lambda fs, path: put(fs, path, fs.put_file),
        lambda fs, path: put(fs, path, fs.put),
        lambda fs, path: put(fs, path, fs.upload),
        lambda fs, path: fs.put([write_aside(fs, path)], [path]),
        lambda fs, path: fs.cp_file(write_aside(fs, path), path),
        lambda fs, path: fs.copy(write_aside(fs, path), path),
        lambda fs, path: fs.copy([write_aside(fs, path)], [path]),
        lambda fs, path: fs.mv(write_aside(fs, path), path),
        lambda fs, path: fs.pipe_file(f"folio::file://{path}", NEW),
    ],
)
def test_overwritten(trusting, cached, write):
    write(trusting, cached)
    assert keys(trusting) == set()
    assert trusting.cat_file(cached) == NEW


@pytest.mark.parametrize(
    "remove",
    [
        lambda fs, path: fs.rm_file(path),
        lambda fs, path: fs.rm(path),
        lambda fs, path: fs.rm([path]),
        lambda fs, path: fs.delete(path),
        lambda fs, path: fs.rm(os.path.dirname(path), recursive=True),
        lambda fs, path: fs.mv(path, f"{path}-moved"),
        lambda fs, path: fs.mv(os.path.dirname(path), f"{os.path.dirname(path)}-moved", recursive=True),
    ],
)
def test_removed(trusting, cached, remove):
    remove(trusting, cached)
    assert keys(trusting) == set()
    with pytest.raises(FileNotFoundError):
        trusting.cat_file(cached)


def test_folder_written_over(trusting, cached, tmp_path):
    os.makedirs(f"{tmp_path}/new/folder")
    with open(f"{tmp_path}/new/folder/x", "wb") as file:
        file.write(NEW)
    trusting.put(f"{tmp_path}/new/folder", str(tmp_path), recursive=True)
    assert keys(trusting) == set()
    assert trusting.cat_file(cached) == NEW


def test_removed_by_glob(pool, s3):
    """LocalFileSystem.rm takes no glob, S3's does."""
    fs = FolioFileSystem(target_protocol="s3", target_options=s3.options, check_files=False, **pool)
    fs.pipe({f"bucket/writes/{name}": NEW for name in "abc"})
    fs.cat("bucket/writes/*")
    assert len(keys(fs)) == 3
    fs.rm("bucket/writes/[ab]")
    assert keys(fs) == {fs.target.key("bucket/writes/c")}


def test_other_files_stay(trusting, cached):
    trusting.pipe_file(f"{cached}-other", NEW)
    trusting.rm(f"{cached}-other")
    assert len(keys(trusting)) == 1


def test_truncated_by_touch_and_appended(trusting, cached):
    with trusting.open(cached, "ab") as file:
        file.write(b"more")
    assert trusting.cat_file(cached) == OLD + b"more"
    trusting.touch(cached)
    assert trusting.cat_file(cached) == b""


def test_written_in_place(trusting, cached):
    with trusting.open(cached, "r+b") as file:
        assert file.read(4) == OLD[:4]
        file.seek(0)
        file.write(b"NEW!")
    assert trusting.cat_file(cached) == b"NEW!" + OLD[4:]


def test_read_while_it_is_written(trusting, cached):
    with trusting.open(cached, "wb") as file:
        file.write(NEW[:100_000])
        file.flush()
        assert trusting.cat_file(cached) == NEW[:100_000]
        file.write(NEW[100_000:])
    assert trusting.cat_file(cached) == NEW


def test_failed_write_invalidates_too(trusting, cached, monkeypatch):
    """How far it came, nobody knows."""

    def half(path, value, **kwargs):
        with open(path, "wb") as file:
            file.write(value[:100])
        raise OSError("the line broke")

    monkeypatch.setattr(trusting.fs, "pipe_file", half, raising=False)
    with pytest.raises(OSError, match="line broke"):
        trusting.pipe_file(cached, NEW)
    assert trusting.cat_file(cached) == NEW[:100]


def test_another_instance_of_the_process_learns_of_it(pool, trusting, cached):
    """fsspec makes an instance per thread; one writes, another reads."""
    other = FolioFileSystem(
        target_protocol="file", target_options={"auto_mkdir": True}, check_files=False, **pool, skip_instance_cache=True
    )
    assert other is not trusting
    assert other.cat_file(cached) == OLD
    trusting.pipe_file(cached, NEW)
    assert other.cat_file(cached) == NEW


def test_transaction_commits_at_its_end(trusting, cached):
    with trusting.transaction:
        write_file(trusting, cached)
        assert trusting.cat_file(cached) == OLD
    assert trusting.cat_file(cached) == NEW
    trusting.start_transaction()
    with trusting.open(cached, "wb") as file:
        file.write(OLD)
    assert trusting.cat_file(cached) == NEW
    trusting.end_transaction()
    assert trusting.cat_file(cached) == OLD


def test_failed_transaction_leaves_the_old(trusting, cached):
    with pytest.raises(ZeroDivisionError), trusting.transaction:
        write_file(trusting, cached)
        raise ZeroDivisionError
    assert trusting.cat_file(cached) == OLD
    trusting.pipe_file(cached, NEW)  # no transaction is left behind
    assert trusting.cat_file(cached) == NEW


def test_file_with_a_commit_of_its_own(trusting, cached):
    with trusting.open(cached, "wb", autocommit=False) as file:
        file.write(NEW)
    assert trusting.cat_file(cached) == OLD
    file.commit()
    assert trusting.cat_file(cached) == NEW
    with trusting.open(cached, "wb", autocommit=False) as file:
        file.write(OLD)
    file.discard()
    assert trusting.cat_file(cached) == NEW


def test_folders_are_the_targets(trusting, tmp_path):
    trusting.mkdir(f"{tmp_path}/a/b")
    trusting.makedirs(f"{tmp_path}/a/b", exist_ok=True)
    trusting.mkdirs(f"{tmp_path}/a/c")
    assert sorted(os.listdir(tmp_path / "a")) == ["b", "c"]
    trusting.rmdir(f"{tmp_path}/a/b")
    assert os.listdir(tmp_path / "a") == ["c"]


def test_download_comes_out_of_the_pool(trusting, cached, tmp_path, monkeypatch):
    def no_read(*args):
        raise AssertionError("the source was read again")

    monkeypatch.setattr("foliocache.fs.source.Source.__call__", no_read)
    trusting.get(cached, f"{tmp_path}/copy")
    trusting.get_file(cached, f"{tmp_path}/copy2")
    trusting.download(os.path.dirname(cached), f"{tmp_path}/copies", recursive=True)
    for copy in ("copy", "copy2", "copies/x"):
        with open(f"{tmp_path}/{copy}", "rb") as file:
            assert file.read() == OLD


def test_over_http(pool, origin):
    fs = FolioFileSystem(target_protocol="http", check_files=False, **pool)
    url = origin.put("/x", OLD)
    assert fs.cat_file(url) == OLD
    fs.pipe_file(url, NEW)
    assert origin.things["/x"].data == NEW
    origin.forget_counts()
    assert fs.cat_file(url) == NEW
    assert origin.requests == {"HEAD": 1, "GET": 1}  # with the old version in mind it would have asked for old bytes first


def test_over_s3(pool, s3, tmp_path):
    fs = FolioFileSystem(target_protocol="s3", target_options=s3.options, check_files=False, **pool)
    for write in (
        lambda path: fs.pipe_file(path, OLD),
        lambda path: write_file(fs, path),
        lambda path: fs.pipe({path: OLD}),
        lambda path: fs.cp_file(move_aside(s3, NEW), path),
        lambda path: fs.mv(move_aside(s3, OLD), path),
    ):
        write("bucket/folder/x")
        assert fs.cat_file("bucket/folder/x") == s3.bare.cat_file("bucket/folder/x")
    fs.rm("bucket/folder", recursive=True)
    assert keys(fs) == set()
    assert fs.ls("bucket") == []
    with pytest.raises(FileNotFoundError):
        fs.cat_file("bucket/folder/x")


def move_aside(s3, data):
    s3.bare.pipe_file("bucket/aside", data)
    return "bucket/aside"


def test_open_for_writing_by_url(pool, tmp_path):
    with fsspec.open(f"folio::file://{tmp_path}/x", "wt", folio=pool) as file:
        file.write("text")
    assert (tmp_path / "x").read_text() == "text"
    with pytest.raises(FileExistsError), fsspec.open(f"folio::file://{tmp_path}/x", "xb", folio=pool) as file:
        pass
