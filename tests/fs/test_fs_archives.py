"""Members of archives and references: their identity is that of what they lie in."""

from __future__ import annotations

import io
import json
import os
import tarfile
import zipfile

import fsspec
import pytest
from test_fs_identity import cached_bytes, other
from test_fs_targets import tar_of
from together import together

from foliocache import ChangedError
from foliocache.adapters.fsspec import FolioFileSystem

SIZE = 400_000
ONE, TWO = b"1" * SIZE, b"2" * SIZE


def zip_of(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)  # with one date for ever
    return buffer.getvalue()


MAKERS = {"tar": tar_of, "zip": zip_of}


@pytest.fixture(params=["tar", "zip"])
def kind(request):
    return request.param


@pytest.fixture(params=["file", "http"])
def archive(request, kind, tmp_path):
    """(URL of an archive, write) over two kinds of origin; members have the same dates in every version."""
    make = MAKERS[kind]
    if request.param == "file":
        path = tmp_path / "archive"
        return f"file://{path}", lambda **members: path.write_bytes(make(**members))
    origin = request.getfixturevalue("origin")
    return f"{origin.url}/archive", lambda **members: origin.put("/archive", make(**members))


def opened(kind, url, pool):
    return fsspec.url_to_fs(f"folio::{kind}://b::{url}", folio={**pool, "skip_instance_cache": True})[0]


def read_member(number, kind, url, pool):
    return opened(kind, url, pool).cat_file("b", 0, 5)


def test_rebuilt_archive_of_the_same_dates_and_sizes(kind, archive, pool):
    url, write = archive
    write(a=ONE, b=ONE)
    fs = opened(kind, url, pool)
    assert fs.cat_file("b") == ONE
    write(a=ONE, b=TWO)
    assert together("spawn", 1, read_member, kind, url, pool) == [b"22222"]
    assert fs.cat_file("b") == TWO
    assert fs.open("b", "rb").read(10) == TWO[:10]


def test_archive_replaced_after_its_index_was_read(kind, archive, pool):
    """By then the member lies elsewhere, and the old index would cut it out of the middle of something."""
    url, write = archive
    write(a=ONE, b=ONE)
    fs = opened(kind, url, pool)
    fs.ls("")
    write(a=ONE + ONE, b=TWO)
    assert fs.cat_file("b") == TWO
    write(b=ONE + TWO)
    assert fs.cat_file("b") == ONE + TWO
    assert [name.rstrip("/") for name in fs.ls("", detail=False)] == ["b"]
    with pytest.raises(FileNotFoundError):
        fs.cat_file("a")


def test_open_member_is_one_version(kind, archive, pool):
    url, write = archive
    write(a=ONE, b=ONE * 5)
    fs = opened(kind, url, pool)
    with fs.open("b", "rb") as file:
        assert file.read(10) == ONE[:10]
        write(a=ONE, b=TWO * 5)
        with pytest.raises(ChangedError):
            while piece := file.read(50_000):
                assert set(piece) == {ord("1")}
    assert fs.cat_file("b") == TWO * 5


def test_change_between_the_index_and_the_member(pool, origin):
    """The archive changes at the first request after the question: whatever was read of it is of no version, and is not
    kept."""
    url = origin.put("/archive", tar_of(a=ONE, b=ONE))
    fs = opened("tar", url, pool)
    changes = iter([tar_of(a=ONE, b=TWO)])
    origin.before_get = lambda path, headers: [origin.put("/archive", data) for data in changes]
    assert fs.cat_file("b") == TWO
    assert {record.cached_bytes for record in fs.pool.mappings() if record.cached_bytes} == {SIZE}


def test_member_is_fetched_once_and_shared(kind, pool, origin):
    url = origin.put("/archive", MAKERS[kind](a=ONE, b=TWO))
    assert opened(kind, url, pool).cat_file("b") == TWO
    fs = opened(kind, url, pool)
    filled = fs.pool.stat().counters.fill_bytes
    assert fs.cat_file("b") == fs.open("b", "rb").read() == TWO
    assert fs.pool.stat().counters.fill_bytes == filled == SIZE


def test_members_read_at_once(kind, archive, pool):
    """They share one position in the archive."""
    url, write = archive
    members = {f"m{number}": bytes([number]) * 60_000 for number in range(24)}
    write(b=ONE, **members)
    fs = opened(kind, url, pool)
    assert fs.cat(sorted(members)) == members


def test_empty_member_folder_and_none(kind, archive, pool):
    url, write = archive
    write(b=b"", **{"d/x": ONE})
    fs = opened(kind, url, pool)
    assert fs.cat_file("b") == fs.cat_file("b", 0, 5) == fs.open("b", "rb").read() == b""
    write(b=ONE, **{"d/x": ONE})
    assert fs.open("b", "rb").read() == ONE
    with pytest.raises(IsADirectoryError):
        fs.cat_file("d")
    with pytest.raises(FileNotFoundError):
        fs.open("none", "rb")


@pytest.mark.parametrize("compressed", ["gz", "bz2"])
def test_compressed_archive(pool, tmp_path, compressed):
    import bz2
    import gzip

    for data in (ONE, TWO):
        packed = {"gz": gzip.compress, "bz2": bz2.compress}[compressed](tar_of(b=data))
        (tmp_path / f"x.tar.{compressed}").write_bytes(packed)
        fs = opened("tar", f"file://{tmp_path}/x.tar.{compressed}", pool)
        assert fs.cat_file("b") == data
        assert fs.cat_file("b", 1000, 1010) == data[:10]


def test_archive_in_an_archive(pool, origin):
    def put(data):
        return origin.put("/archive", zip_of(inner=tar_of(a=ONE, b=data)))

    url = put(ONE)
    fs = fsspec.url_to_fs(f"folio::tar://b::zip://inner::{url}", folio=pool)[0]
    assert fs.cat_file("b") == ONE
    put(TWO)
    assert fs.cat_file("b") == TWO
    assert cached_bytes(fs) == 2 * SIZE


def test_archive_where_nothing_is_proven_passes_through(pool):
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/archives/x", tar_of(b=ONE))
    fs = FolioFileSystem(target_protocol="tar", target_options={"fo": "/archives/x", "target_protocol": "memory"}, **pool)
    assert fs.cat_file("b") == fs.open("b", "rb").read() == ONE
    assert fs.pool.mappings() == []
    memory.rm("/archives", recursive=True)


def test_damaged_archive_says_so(kind, pool, tmp_path):
    (tmp_path / "x").write_bytes(MAKERS[kind](b=ONE))
    fs = opened(kind, f"file://{tmp_path}/x", pool)
    (tmp_path / "x").write_bytes(b"not an archive" * 1000)
    with pytest.raises((zipfile.BadZipFile, tarfile.ReadError)):
        fs.cat_file("b")


# reference://


@pytest.fixture
def refs(tmp_path, settled):
    """(path of the reference file, path of the data, write)."""
    data, path = tmp_path / "data", tmp_path / "refs.json"
    data.write_bytes(ONE + TWO)
    settled(data)

    def write(**refs):
        path.write_text(json.dumps({"version": 1, "refs": refs}))
        settled(path)

    return str(path), str(data), write


def reference(fo, pool):
    return FolioFileSystem(
        target_protocol="reference",
        target_options={"fo": fo, "remote_protocol": "file", "skip_instance_cache": True},
        skip_instance_cache=True,
        **pool,
    )


def read_reference(number, fo, pool):
    return reference(fo, pool).cat_file("v/0", 0, 5)


def test_reference_that_was_changed_to_other_bytes_of_the_same_length(refs, pool, settled):
    fo, data, write = refs
    write(**{"v/0": [data, 0, SIZE]})
    fs = reference(fo, pool)
    assert fs.cat_file("v/0") == ONE
    write(**{"v/0": [data, SIZE, SIZE]})
    assert fs.cat_file("v/0") == TWO
    assert together("spawn", 1, read_reference, fo, pool) == [b"22222"]
    with open(data, "wb") as file:
        file.write(other(ONE + TWO))
    settled(data)
    assert fs.cat_file("v/0") == other(TWO)
    assert fs.cat_file("v/0", 10, 20) == other(TWO)[10:20]


def test_referenced_object_that_changes_while_its_part_is_open(refs, pool):
    fo, data, write = refs
    write(**{"v/0": [data, 0, SIZE]})
    fs = reference(fo, pool)
    with fs.open("v/0", "rb") as file:
        with open(data, "wb") as rewritten:
            rewritten.write(other(ONE + TWO))
        with pytest.raises(ChangedError):
            file.read(10)


def test_open_reference_that_is_pointed_elsewhere(refs, pool):
    fo, data, write = refs
    write(**{"v/0": [data, 0, SIZE]})
    fs = reference(fo, pool)
    with fs.open("v/0", "rb") as file:
        write(**{"v/0": [data, SIZE, SIZE]})
        assert fs.cat_file("v/0") == TWO
        with pytest.raises(ChangedError):
            file.read(10)


def test_whole_objects_and_bytes_in_the_references(refs, pool):
    fo, data, write = refs
    write(**{"v/0": [data], "v/1": "inline", "v/2": [data, 5, 10], "v/3": [data, 2 * SIZE - 5, 10]})
    with open(fo) as file:
        held = json.load(file)
    for fs in (reference(fo, pool), reference(held, pool)):
        assert fs.cat_file("v/0") == ONE + TWO
        assert fs.cat_file("v/1") == b"inline"
        assert fs.cat_file("v/2") == ONE[5:15]
        assert fs.cat_file("v/3") == TWO[-5:]  # it points beyond the end
        assert fs.open("v/0", "rb").read(5) == ONE[:5]
        with pytest.raises(IsADirectoryError):
            fs.cat_file("v")
        with pytest.raises(FileNotFoundError):
            fs.cat_file("w/0")
    assert cached_bytes(fs) == 2 * (2 * SIZE + 10)


def test_references_in_memory_are_theirs_who_hold_them(refs, pool):
    _, data, _ = refs
    here, there = ({"v/0": [data, offset, SIZE]} for offset in (0, SIZE))
    assert reference(here, pool).cat_file("v/0") == ONE
    assert reference(there, pool).cat_file("v/0") == TWO
    fs = reference(here, pool)
    fs.pipe_file("v/0", b"written")
    assert fs.cat_file("v/0") == b"written"
    assert os.path.getsize(data) == 2 * SIZE
