"""Options, names and what an instance is."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import zipfile

import fsspec
import pytest

from foliocache.adapters.fsspec import FolioFileSystem


def test_url_opens_through_us(pool, tmp_path):
    (tmp_path / "x").write_bytes(b"data")
    fs, path = fsspec.url_to_fs(f"folio::file://{tmp_path}/x", folio=pool, file={"auto_mkdir": True})
    assert type(fs) is FolioFileSystem
    assert path == f"{tmp_path}/x"
    assert fs.fs.auto_mkdir
    assert fs.cat(path) == fs.cat(f"folio::file://{path}") == fs.cat(f"folio://{path}") == b"data"
    assert fsspec.open(fs.unstrip_protocol(path), folio=pool).open().read() == b"data"


async def _asked_async(fs, name):
    info = await fs._info(name)
    return await fs._exists(name), info["size"], await fs._cat_file(name), await fs._ls(name.rpartition("/")[0], detail=False)


def test_a_server_below_folio(pool, origin):
    """fsspec makes ``host/x`` of ``folio://host/x``; the target's name of it is ``http://host/x``."""
    url = origin.put("/folder/x", b"data")
    short = url.removeprefix("http://")
    fs, name = fsspec.url_to_fs(f"folio://{short}", target_protocol="http", **pool)
    for given in (name, short, f"folio://{short}", url):
        assert fs.exists(given) and fs.isfile(given) and fs.info(given)["name"] == url
        assert fs.cat_file(given) == fs.cat(given) == fs.open(given).read() == fs.cat_ranges([given], 0, 4)[0] == b"data"
        assert fs.glob(given) == [url]
        assert asyncio.run(_asked_async(fs, given)) == (True, 4, b"data", fs.ls(given.rpartition("/")[0], detail=False))
    (opened,) = fsspec.open_files(f"folio://{short}", target_protocol="http", **pool)
    with opened as file:
        assert file.read() == b"data" and file.path == url
    assert {mapping.key for mapping in fs.pool.mappings()} == {fs.target.key(url)}
    assert fs._strip_protocol("") == ""


@pytest.mark.parametrize("protocol", ["file", "http", "zip"])
def test_names_by_which_a_registered_filesystem_is_found(pool, origin, tmp_path, protocol):
    """DuckDB compares the beginning of a URL with the protocols of each filesystem, and opens the names of its globs."""
    (tmp_path / "x").write_bytes(b"data")
    with zipfile.ZipFile(tmp_path / "z", "w") as archive:
        archive.writestr("x", b"data")
    path = {"file": f"{tmp_path}/x", "http": origin.put("/x", b"data"), "zip": "x"}[protocol]
    fs = FolioFileSystem(target_protocol=protocol, target_options={"fo": f"{tmp_path}/z"} if protocol == "zip" else {}, **pool)
    for given in (fs.unstrip_protocol(path), fs.unstrip_protocol(path).replace("folio::", "folio://")):
        (found,) = fs.glob(given)
        for name in (given, found, fs.unstrip_protocol(found)):
            assert fs.open(name).read() == b"data" and fs.isfile(name) and fs.info(name)["size"] == 4
        assert any(given.startswith(f"{one}://") for one in fs.protocol)
        assert any(fs.unstrip_protocol(found).startswith(f"{one}://") for one in fs.protocol)
    assert FolioFileSystem.protocol == "folio" and type(fs).from_json(fs.to_json()) == fs == pickle.loads(pickle.dumps(fs))


def test_one_instance_for_all_paths(pool, tmp_path):
    first, _ = fsspec.url_to_fs(f"folio::file://{tmp_path}/a", folio=dict(pool))
    second, _ = fsspec.url_to_fs(f"folio::file://{tmp_path}/b", folio=dict(pool))
    assert first is second


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (
            {"pagesize": "4KiB"},
            TypeError,
            r"'pagesize'; there are name, size, page_size, mode, min_free, pressure, tiers, folio_size, readahead,.*::s3",
        ),
        ({"key": "k"}, TypeError, "'key'"),
        ({"expiry": -1}, ValueError, "expiry"),
        ({"expiry": "1h"}, ValueError, "expiry.*'1h'"),
        ({"expiry": float("nan")}, ValueError, "expiry"),
        ({"check_files": "yes"}, ValueError, "check_files.*'yes'"),
    ],
)
def test_bad_options_are_named(pool, options, error, words):
    with pytest.raises(error, match=words):
        fsspec.open("folio::file:///x", folio={**pool, **options})


def test_options_of_mappings_reach_them(pool, tmp_path):
    (tmp_path / "x").write_bytes(bytes(200_000))
    options = {**pool, "folio_size": "32KiB", "readahead": 0}
    fs, path = fsspec.url_to_fs(f"folio::file://{tmp_path}/x", folio=options)
    assert fs.cat_file(path, 40_000, 40_010) == bytes(10)
    (found,) = fs.pool.mappings()
    assert found.cached_bytes == 32 << 10
    for bad in ({"folio_size": "5KiB"}, {"readahead": -1}):
        fs, path = fsspec.url_to_fs(f"folio::file://{tmp_path}/x", folio={**pool, **bad})
        with pytest.raises(ValueError, match=next(iter(bad))):
            fs.cat_file(path, 0, 10)


def test_target_is_needed_once():
    with pytest.raises(ValueError, match="folio::https://"):
        fsspec.open("folio://x")
    with pytest.raises(ValueError, match="one target"):
        FolioFileSystem(target_protocol="file", fs=fsspec.filesystem("file"))


def test_listing_needs_no_pool(tmp_path):
    fs = FolioFileSystem(target_protocol="file", name="never-made-by-listing")
    fs.ls(str(tmp_path))
    assert fs.exists(str(tmp_path)) and fs.isdir(str(tmp_path)) and not fs.isfile(str(tmp_path))
    assert not os.path.exists("/dev/shm/never-made-by-listing")
    assert fs._pool is None


def test_names_and_listings_are_the_targets(local, tmp_path):
    local.pipe({f"{tmp_path}/a/{name}": b"data" for name in "xyz"})
    bare = local.fs
    for call in (
        lambda fs: fs.ls(f"{tmp_path}/a"),
        lambda fs: fs.glob(f"{tmp_path}/*/*"),
        lambda fs: fs.find(str(tmp_path)),
        lambda fs: list(fs.walk(str(tmp_path))),
        lambda fs: fs.du(str(tmp_path)),
        lambda fs: fs.info(str(tmp_path)),
        lambda fs: fs.expand_path(f"{tmp_path}/a/*"),
        lambda fs: fs.size(f"{tmp_path}/a/x"),
        lambda fs: fs.sep,
        lambda fs: fs.modified(f"{tmp_path}/a/x"),
        lambda fs: fs._parent(f"{tmp_path}/a/x"),
        lambda fs: fs.root_marker,
    ):
        assert call(local) == call(bare)


def test_pickle_and_json(local, tmp_path):
    local.pipe_file(f"{tmp_path}/x", b"data")
    copies = [
        pickle.loads(pickle.dumps(local)),
        fsspec.AbstractFileSystem.from_json(local.to_json()),
        fsspec.AbstractFileSystem.from_dict(json.loads(json.dumps(local.to_dict()))),
    ]
    for fs in copies:
        assert type(fs) is FolioFileSystem
        assert fs.cat(f"{tmp_path}/x") == b"data"
        assert fs.pool is local.pool


def test_target_given_as_an_object(pool, tmp_path):
    fs = FolioFileSystem(fs=fsspec.filesystem("file", auto_mkdir=True), **pool)
    fs.pipe_file(f"{tmp_path}/deep/x", b"data")
    copy = pickle.loads(pickle.dumps(fs))
    assert copy.cat(f"{tmp_path}/deep/x") == b"data"
    assert copy.target.key("/x") == fs.target.key("/x") == "file:///x"


def test_paths_as_objects(local, tmp_path):
    local.pipe_file(tmp_path / "x", b"data")
    assert local.cat_file(tmp_path / "x") == local.cat(tmp_path / "x") == bytes(local.lease(tmp_path / "x")) == b"data"
    assert local.open(tmp_path / "x").read() == b"data"
    assert local.exists(tmp_path / "x")
    local.rm(tmp_path / "x")
    assert not local.exists(tmp_path / "x")


def test_pool_that_was_closed_is_opened_again(local, tmp_path):
    local.pipe_file(f"{tmp_path}/x", b"data")
    assert local.cat(f"{tmp_path}/x") == b"data"
    local.pool.close()
    assert local.cat(f"{tmp_path}/x") == b"data"


def test_long_names_stay_different_and_forgettable(pool, tmp_path, settled):
    """The pool keeps a part of a key's text; two long ones must not become one, nor be lost to forget()."""
    fs = FolioFileSystem(target_protocol="file", check_files=False, **pool)
    folder = tmp_path / ("long" * 40) / ("name" * 40)
    folder.mkdir(parents=True)
    for name in "ab":
        (folder / name).write_text(name)
        assert fs.cat_file(settled(folder / name)) == name.encode()
    assert len(fs.pool.mappings()) == 2
    fs.rm(str(folder / "a"))
    assert [record.key for record in fs.pool.mappings()] == [fs.target.key(str(folder / "b"))]


def test_attributes_of_the_target(pool, s3):
    fs = FolioFileSystem(target_protocol="s3", target_options=s3.options, **pool)
    assert fs.endpoint_url == s3.url
    with pytest.raises(AttributeError):
        _ = fs.no_such_thing
    with pytest.raises(AttributeError):
        _ = fs._call_s3  # what is private is the target's alone


def test_ukey_follows_the_content(http, origin):
    """HTTPFileSystem's own ukey is the URL's, for ever; a cache laid over us deserves better."""
    url = origin.put("/x", b"one")
    first = http.ukey(url)
    assert http.ukey(url) == first
    origin.put("/x", b"two")
    assert http.ukey(url) != first


def test_places_have_keys_of_their_own(pool):
    def key(path="bucket/x", **options):
        return FolioFileSystem(target_protocol="s3", target_options=options, **pool).target.key(path)

    plain = key()
    assert plain == "s3://bucket/x"
    assert key(key="me", secret="s", use_listings_cache=False) == plain
    assert key(endpoint_url="http://a") != plain != key("bucket/y")
    assert key(endpoint_url="http://a") == key(endpoint_url="http://a", max_concurrency=3) != key(endpoint_url="http://b")
