"""Writes, moves and deletes pass through, and what was cached of the paths goes."""

from __future__ import annotations

import gc
import gzip
import os
import sys
import threading

import fsspec
import pytest

import foliocache
from foliocache.adapters.fsspec import FolioFileSystem

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
    return {record.key for record in fs.pool.mappings()}


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


@pytest.mark.parametrize("remove", ["rm", "delete", "rm_file", "mv", "rename"])
def test_name_that_could_be_a_glob(trusting, tmp_path, settled, remove):
    """LocalFileSystem takes it as a name; other targets expand it. Either way the object of that name is gone."""
    path = f"{tmp_path}/x[1].bin"
    trusting.pipe_file(path, OLD)
    settled(path)
    assert trusting.cat_file(path) == OLD
    getattr(trusting, remove)(path, *([f"{tmp_path}/moved"] if remove in ("mv", "rename") else []))
    assert keys(trusting) == set()
    with pytest.raises(FileNotFoundError):
        trusting.cat_file(path)


@pytest.mark.parametrize("listing", ["empty", "refused"])
def test_removal_of_what_a_listing_did_not_show(pool, monkeypatch, listing):
    """Listings may be old, or not allowed: what is remembered must not depend on them."""

    def expand_path(path, **kwargs):
        if listing == "refused":
            raise PermissionError(path)
        return []

    fs = FolioFileSystem(target_protocol="memory", check_files=False, **pool)
    for pattern in ("/writes/[ab]", "/writes/*", "/writes"):
        fs.pipe({f"/writes/{name}": NEW for name in "ab"})
        assert len(fs.cat("/writes/*")) == 2
        monkeypatch.setattr(fs, "expand_path", expand_path, raising=False)
        fs.rm(pattern, recursive=True)
        monkeypatch.undo()
        for name in "ab":
            with pytest.raises(FileNotFoundError):
                fs.cat_file(f"/writes/{name}")


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


def test_read_all_the_time_while_it_is_written(trusting, cached):
    with trusting.open(cached, "wb") as file:
        for count in range(1, 5):
            file.write(NEW[:1000])
            file.flush()
            assert trusting.cat_file(cached) == NEW[:1000] * count
    assert trusting.cat_file(cached) == NEW[:1000] * 4
    assert trusting._is_remembered(cached)


@pytest.mark.parametrize("options", [{}, {"compression": "gzip"}])
def test_written_file_that_is_dropped(trusting, cached, options):
    """CPython closes it then, and its last bytes arrive. fsspec's gzip leaves the file below it to that, even when closed."""
    file = trusting.open(cached, "wb", **options)
    file.write(NEW)
    file.flush()
    trusting.cat_file(cached)
    file.write(NEW)
    if options:
        file.close()
    del file
    gc.collect()
    content = trusting.cat_file(cached)
    assert (gzip.decompress(content) if options else content) == NEW * 2
    assert trusting._is_remembered(cached)


def test_text_file_that_is_dropped(trusting, cached):
    file = trusting.open(cached, "w")
    file.write(NEW.decode())
    del file
    assert trusting.cat_file(cached) == NEW


def test_file_that_can_not_be_opened(trusting, cached):
    for _ in range(2):
        with pytest.raises(FileExistsError):
            trusting.open(cached, "xb")
    assert trusting.cat_file(cached) == OLD
    assert trusting._is_remembered(cached)


def test_file_that_can_not_be_closed(trusting, cached, monkeypatch):
    def fail():
        raise OSError("the line broke")

    file = trusting.open(cached, "wb")
    file.write(NEW[:100])
    file.flush()
    monkeypatch.setattr(file.file, "close", fail)
    with pytest.raises(OSError, match="line broke"):
        file.close()
    assert trusting.cat_file(cached) == NEW[:100]
    assert trusting._is_remembered(cached)
    monkeypatch.undo()


def test_forked_child_does_not_end_the_parents_write(trusting, cached):
    file = trusting.open(cached, "wb")
    if (child := os.fork()) == 0:
        trusting._changing = sys.unraisablehook = lambda *args: os._exit(2)
        del file
        gc.collect()
        os._exit(1 if trusting._identities._writing else 0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    file.write(NEW)
    file.close()
    assert trusting.cat_file(cached) == NEW


@pytest.mark.parametrize(
    "write",
    [
        lambda fs, path: fs.pipe_file(path, NEW),
        lambda fs, path: put(fs, path, fs.put),
        lambda fs, path: fs.mv(write_aside(fs, path), path),
        lambda fs, path: fs.mv(os.path.dirname(path), f"{os.path.dirname(path)}-moved"),
        lambda fs, path: fs.rm(path),
        lambda fs, path: fs.rm(os.path.dirname(path), recursive=True),
        lambda fs, path: fs.rm(os.path.dirname(path) + "/*"),
        lambda fs, path: fs.open(path, "wb").close(),
        lambda fs, path: thread(fs.pipe_file, path, NEW),
        lambda fs, path: again(fs).pipe_file(path, NEW),
    ],
)
@pytest.mark.parametrize("target", ["file", "memory"])  # the first one forgets all at each write, the second by path
def test_answer_from_before_a_write_is_not_remembered_after_it(pool, tmp_path, target, write):
    fs = FolioFileSystem(target_protocol=target, target_options={"auto_mkdir": True}, check_files=False, **pool)
    if target == "memory":
        fs.fs.store.clear()
    path = f"{tmp_path}/folder/x"
    fs.pipe_file(path, OLD)
    identify = fs.target.identify

    def answer_late(path):
        answer = identify(path)
        fs.target.identify = identify
        try:
            write(fs, path)
        except OSError:  # a target may not know this kind of move
            fs.pipe_file(path, NEW)
        return answer

    fs.target.identify = answer_late
    assert fs._identify(path) is not None
    assert not fs._is_remembered(path)


def thread(function, *args):
    worker = threading.Thread(target=function, args=args)
    worker.start()
    worker.join()


def again(fs):
    """Another instance for the same place, as another thread would have."""
    return FolioFileSystem(fs=fs.fs, **fs._pool_options, check_files=False, skip_instance_cache=True)


def test_other_names_of_a_file(trusting, cached, tmp_path):
    """A link, and another way to spell a path: what is written under one name is read under all."""
    os.symlink(cached, f"{tmp_path}/link")
    os.link(cached, f"{tmp_path}/hard")
    names = [cached, f"{tmp_path}/link", f"{tmp_path}/hard", f"{tmp_path}/folder/../folder/x", f"{tmp_path}//folder/x"]
    for content, written in enumerate(names, 1):
        assert len({trusting.cat_file(name) for name in names}) == 1
        trusting.pipe_file(written, b"%d" % content * 1000)
        assert {trusting.cat_file(name) for name in names} == {b"%d" % content * 1000}


def test_method_that_only_the_target_has_may_write(pool, tmp_path, settled):
    fs = FolioFileSystem(target_protocol="file", check_files=False, **pool)
    for name, content in (("a", OLD), ("b", NEW)):
        (tmp_path / name).write_bytes(content)
        settled(tmp_path / name)
    assert fs.cat_file(f"{tmp_path}/a") == OLD
    os.unlink(tmp_path / "a")
    fs.link(f"{tmp_path}/b", f"{tmp_path}/a")
    assert fs.cat_file(f"{tmp_path}/a") == NEW


def test_write_needs_no_pool(tmp_path, pool_name):
    """Nor does one that can't be had make a write fail that was done."""
    fs = FolioFileSystem(target_protocol="file", name=pool_name)
    fs.pipe_file(f"{tmp_path}/x", NEW)
    with fs.open(f"{tmp_path}/y", "wb") as file:
        file.write(NEW)
    fs.rm(f"{tmp_path}/y")
    with pytest.raises(foliocache.PoolNotFoundError):
        foliocache.attach(pool_name)
    foliocache.open(pool_name, size="4MiB")
    for options in ({"name": pool_name, "size": "8MiB"}, {"name": "../no/name"}):
        FolioFileSystem(target_protocol="file", **options).pipe_file(f"{tmp_path}/x", OLD)
        assert (tmp_path / "x").read_bytes() == OLD


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


def test_instance_with_other_options_learns_of_it(pool, trusting, cached):
    """Of manners, as `auto_mkdir` or an account: the place is the same."""
    other = FolioFileSystem(target_protocol="file", check_files=False, **pool)
    assert other.cat_file(cached) == OLD
    assert other._is_remembered(cached)
    with trusting.open(cached, "wb") as file:
        file.write(NEW[:100])
        file.flush()
        assert other.cat_file(cached) == NEW[:100]
        file.write(NEW[100:])
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


def test_transaction_of_another_instance(trusting, cached):
    """The target is one, and so is its transaction, whichever of our instances writes in it and whichever ends it."""
    other = again(trusting)
    with trusting.transaction:
        write_file(other, cached)
        assert other.cat_file(cached) == OLD
    assert other.cat_file(cached) == trusting.cat_file(cached) == NEW


def test_listings_that_wait_for_the_end_of_a_transaction(trusting, cached, monkeypatch):
    """Targets that cache listings note what is to be dropped then; fsspec's `with` forgets to drop it."""
    dropped = []
    monkeypatch.setattr(trusting.fs, "invalidate_cache", dropped.append, raising=False)
    with trusting.transaction:
        trusting.fs._invalidated_caches_in_transaction.append("a")
    trusting.start_transaction()
    trusting.fs._invalidated_caches_in_transaction.append("b")
    trusting.end_transaction()
    assert dropped == ["a", "b"]


def test_discarded_file_was_perhaps_written_in_place(trusting, cached):
    """Of LocalFileSystem's modes only "w" is deferred."""
    file = trusting.open(cached, "r+b", autocommit=False)
    file.write(b"NEW!")
    file.flush()
    file.file.temp = write_aside(trusting, cached)
    file.discard()
    assert trusting.cat_file(cached)[:4] == b"NEW!"
    file.close()
    assert trusting.cat_file(cached)[:4] == b"NEW!"


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

    monkeypatch.setattr("foliocache.adapters.fsspec.source.Source.__call__", no_read)
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
    assert origin.requests == {"GET": 1}  # with the old version in mind it would have asked for old bytes first


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


NAMES = [os.fsdecode(b"caf\xe9.bin"), "caf\xe9.bin", "caf\\udce9.bin", "cafe.bin", "caf?.bin", "caf\ufffd.bin"]


def test_names_that_are_not_unicode(pool, tmp_path, settled):
    """Files of the real world; Python has lone surrogates for what can't be decoded."""
    fs = FolioFileSystem(target_protocol="file", check_files=False, **pool)
    for name in NAMES:
        path = f"{tmp_path}/{name}"
        fs.pipe_file(path, os.fsencode(name))
        assert fs.cat_file(settled(path)) == os.fsencode(name) == fs.open(path).read()
        assert len(fs.ukey(path)) == 64
    names = {fs.target.key(f"{tmp_path}/{name}") for name in NAMES}
    assert len(names) == len(NAMES)
    assert keys(fs) == names  # each can be printed and is found again
    assert all(name.encode() for name in names)
    fs.rm(f"{tmp_path}/{NAMES[0]}")
    assert len(keys(fs)) == len(NAMES) - 1


@pytest.mark.parametrize("odd", ["\udcc3\udca9", "\ud800"])
def test_names_that_no_file_system_has(pool, odd):
    """Any str is a name to some target; "\\udcc3\\udca9" would be "\xe9" to os.fsencode()."""
    fs = FolioFileSystem(target_protocol="memory", **pool)
    for name in (odd, "\xe9"):
        fs.pipe_file(f"/names/{name}", ascii(name).encode())
    for name in (odd, "\xe9"):
        assert fs.cat_file(f"/names/{name}") == ascii(name).encode()
    assert fs.target.key(f"/names/{odd}") != fs.target.key("/names/\xe9")
    fs.rm("/names", recursive=True)


def test_open_for_writing_by_url(pool, tmp_path):
    with fsspec.open(f"folio::file://{tmp_path}/x", "wt", folio=pool) as file:
        file.write("text")
    assert (tmp_path / "x").read_text() == "text"
    with pytest.raises(FileExistsError), fsspec.open(f"folio::file://{tmp_path}/x", "xb", folio=pool) as file:
        pass
