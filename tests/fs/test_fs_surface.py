"""Every public method of fsspec's base classes is handled on purpose: none is generic where the target has its own."""

from __future__ import annotations

import asyncio
import io
import os
import re

import fsspec
import pytest
from fsspec import AbstractFileSystem
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.dirfs import DirFileSystem

from foliocache.adapters.fsspec import FolioFileSystem
from foliocache.adapters.fsspec.answers import Answers
from foliocache.adapters.fsspec.asynchronous import Asynchronous
from foliocache.adapters.fsspec.passthrough import PassThrough

ASKED = {  # the target answers, with its own method of that name
    "ls": "path",
    "info": "path",
    "glob": "path",
    "find": "path",
    "walk": "path",
    "du": "path",
    "size": "path",
    "sizes": "paths",
    "created": "path",
    "modified": "path",
    "checksum": "path",
    "lexists": "path",
    "sign": "path",
    "expand_path": "path",
    "mkdir": "path",
    "makedirs": "path",
    "rmdir": "path",
}
WRITTEN = {  # the target does it, and what was known of the last path is void
    "pipe_file": ("path",),
    "pipe": ("path",),
    "touch": ("path",),
    "rm_file": ("path",),
    "rm": ("path",),
    "put_file": ("lpath", "rpath"),
    "put": ("lpath", "rpath"),
    "cp_file": ("path1", "path2"),
    "copy": ("path1", "path2"),
    "mv": ("path1", "path2"),
}
ALIASES = {  # of fsspec's, which call the method of ours that they are another name of
    "listdir": "ls",
    "stat": "info",
    "disk_usage": "du",
    "makedir": "mkdir",
    "mkdirs": "makedirs",
    "write_bytes": "pipe_file",
    "cp": "copy",
    "rename": "mv",
    "move": "mv",
    "delete": "rm",
    "upload": "put",
}
READ = {"cat", "cat_file", "cat_ranges", "get", "get_file", "ukey"}  # out of the pool
ADAPTED = {"exists", "isdir", "isfile"}  # asked through the target's adapter
GENERIC = {  # fsspec's own: they open, cat, get or list with methods of ours, and no filesystem has better ones
    "open",
    "read_bytes",
    "read_text",
    "write_text",
    "head",
    "tail",
    "read_block",
    "download",
    "tree",
    "get_mapper",
}
INSTANCE = {  # what the instance is, and its transaction
    "async_impl",
    "blocksize",
    "cachable",
    "clear_instance_cache",
    "current",
    "end_transaction",
    "from_dict",
    "from_json",
    "fsid",
    "invalidate_cache",
    "mirror_sync_methods",
    "protocol",
    "root_marker",
    "sep",
    "start_transaction",
    "to_dict",
    "to_json",
    "transaction",
    "transaction_type",
    "unstrip_protocol",
}
ASYNC = {"disable_throttling", "loop", "open_async"}  # the last is ours
AWAITED = {"_cat", "_walk", "_process_limits"}  # fsspec's own: they await coroutines of ours


class Recorder(AbstractFileSystem):
    """A target that has its own of everything, and says how it was called."""

    protocol = "recorder"
    cachable = False

    def invalidate_cache(self, path=None):
        pass


def _recording(name):
    def method(self, *args, **kwargs):
        self.called = name
        return name, args, kwargs

    return method


for _name in {*ASKED, *WRITTEN}:
    setattr(Recorder, _name, _recording(_name))


@pytest.fixture
def recorded(pool):
    return FolioFileSystem(fs=Recorder(), check_files=False, **pool)


def test_the_list_is_complete():
    listed = [*ASKED, *WRITTEN, *ALIASES, *READ, *ADAPTED, *GENERIC, *INSTANCE]
    assert len(listed) == len(set(listed))
    assert {name for name in dir(AbstractFileSystem) if not name.startswith("_")} <= set(listed)
    assert {name for name in dir(AsyncFileSystem) if not name.startswith("_")} <= {*listed, *ASYNC}


def test_what_must_not_be_generic_is_ours():
    ours = {**vars(PassThrough), **vars(Answers), **vars(FolioFileSystem)}
    assert {*ASKED, *WRITTEN, *READ, *ADAPTED} <= set(ours)
    assert not {*ALIASES, *GENERIC} & set(ours)


@pytest.mark.parametrize("name", ASKED)
def test_target_is_asked_in_the_same_words(recorded, name):
    assert getattr(recorded, name)("folio::recorder://a/b", 1, other=2) == (name, ("recorder://a/b", 1), {"other": 2})
    assert getattr(recorded, name)(**{ASKED[name]: "a/b"}) == (name, ("a/b",), {})
    assert getattr(recorded, name)(["folio::a", "b"]) == (name, (["a", "b"],), {})


@pytest.mark.parametrize("name", WRITTEN)
def test_target_writes_in_the_same_words(recorded, name):
    words = WRITTEN[name]
    paths = [f"folio::{word}" for word in words]
    if words[0] == "lpath":  # a file of this machine is nobody's URL
        paths[0] = "lpath"
    assert getattr(recorded, name)(*paths, False, other=2) == (name, (*words, False), {"other": 2})
    assert getattr(recorded, name)(**dict(zip(words, paths, strict=True))) == (name, words, {})


@pytest.mark.parametrize("name", ALIASES)
def test_alias_calls_the_targets(recorded, name):
    paths = WRITTEN.get(ALIASES[name], ("path",))
    getattr(recorded, name)(*paths, *([b"data"] if name == "write_bytes" else []))
    assert recorded.fs.called == ALIASES[name]


def test_target_with_few_words_is_given_no_more(pool):
    """SFTPFileSystem.mv() has no `recursive`."""

    class Terse(Recorder):
        def mv(self, old, new):
            return old, new

    assert FolioFileSystem(fs=Terse(), **pool).mv("a", "b") == ("a", "b")


def test_coroutines_are_ours():
    private = {name for name in vars(AsyncFileSystem) if re.match("_[a-z]", name) and callable(getattr(AsyncFileSystem, name))}
    assert private - AWAITED <= vars(Asynchronous).keys()


@pytest.mark.parametrize("name", sorted({*ASKED, *WRITTEN} & {name[1:] for name in vars(Asynchronous)}))
def test_coroutine_calls_the_function_of_its_name(recorded, name):
    paths = WRITTEN.get(name, ("path",))
    assert asyncio.run(getattr(recorded, f"_{name}")(*paths, other=2)) == (name, paths, {"other": 2})


def test_property_of_ours_that_fails_is_not_looked_for_in_the_target(recorded, monkeypatch):
    monkeypatch.delattr(recorded, "_target")
    with pytest.raises(AttributeError, match="'fs'"):
        _ = recorded.fs


# What is a file and what a folder, the target's info() says, not a search for something below it.


def test_page_with_links_is_downloaded(http, origin, tmp_path):
    page = b'<a href="/page.html/x">x</a> <a href="/other">other</a>'
    url = origin.put("/page.html", page, kind="text/html")
    http.get_file(url, f"{tmp_path}/new/page")
    assert (tmp_path / "new/page").read_bytes() == page
    sink = io.BytesIO()
    http.get_file(url, sink)
    http.get_file(url, outfile=sink)
    assert sink.getvalue() == page * 2
    origin.forget_counts()
    http.get_file(url, f"{tmp_path}/again")
    assert origin.requests == {"HEAD": 1}  # the page came out of the pool


def test_key_beside_its_prefix_is_downloaded(pool, s3, tmp_path):
    fs = FolioFileSystem(target_protocol="s3", target_options=s3.options, **pool)
    s3.bare.pipe({"bucket/a": b"a", "bucket/a/b": b"b", "bucket/c": b"c"})
    fs.get_file("bucket/a", f"{tmp_path}/a")
    assert (tmp_path / "a").read_bytes() == b"a"
    fs.get("bucket", f"{tmp_path}/all", recursive=True)
    s3.bare.get("bucket", f"{tmp_path}/bare", recursive=True)
    assert content(tmp_path / "all") == content(tmp_path / "bare") == {"a/b": b"b", "c": b"c"}  # a file can't be a folder


def test_folders_are_downloaded_as_such(local, tmp_path):
    local.pipe({f"{tmp_path}/from/{name}": name.encode() for name in ("x", "deep/y")})
    local.mkdir(f"{tmp_path}/from/empty")
    local.get(f"{tmp_path}/from", f"{tmp_path}/to", recursive=True)
    assert content(tmp_path / "to") == {"x": b"x", "deep/y": b"deep/y"}
    assert os.listdir(tmp_path / "to/empty") == []
    local.get_file(f"{tmp_path}/from", f"{tmp_path}/folder")
    assert os.listdir(tmp_path / "folder") == []


def test_file_is_not_downloaded_onto_itself(local, pool, tmp_path):
    path = f"{tmp_path}/x"
    local.pipe_file(path, b"data")
    os.symlink(path, f"{path}-link")
    within = FolioFileSystem(fs=DirFileSystem(str(tmp_path), fsspec.filesystem("file")), **pool)
    for fs, name in ((local, path), (within, "x")):
        for lpath in (path, f"{path}-link"):
            with pytest.raises(OSError, match="same file"):
                fs.get_file(name, lpath)
            assert (tmp_path / "x").read_bytes() == b"data"


def test_download_begins_again_with_a_new_version(pool, origin, tmp_path):
    fs = FolioFileSystem(target_protocol="http", check_files=False, **pool)
    url = origin.put("/x", b"old" * 1_000_000)
    fs.cat_file(url, 0, 10)
    origin.put("/x", b"new" * 1_000_000)
    fs.get_file(url, f"{tmp_path}/x")
    assert (tmp_path / "x").read_bytes() == b"new" * 1_000_000


def content(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("url", ["folio://s3://bucket/x", "folio://zip://x::file:///y"])
def test_misspelled_url_is_corrected(url):
    with pytest.raises(ValueError, match=f"write 'folio::{url[8:11]}"):
        fsspec.open(url)


def test_misspelled_path_is_corrected(local, tmp_path, monkeypatch):
    for method in (local.cat, local.open, local.info, local.rm):
        with pytest.raises(ValueError, match=r"write 'folio::file:///x', with two colons"):
            method("folio:file:///x")
    monkeypatch.chdir(tmp_path)
    local.pipe_file("folio:notes", b"a name is a name")
    assert os.listdir(tmp_path) == ["folio:notes"]
