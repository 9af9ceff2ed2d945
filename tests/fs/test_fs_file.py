"""FolioFile against the file of the standard library that it stands in for."""

from __future__ import annotations

import asyncio
import gzip
import io
import os
import pickle
import random
import tarfile
import threading
import zipfile
from functools import partial

import fsspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foliocache import ChangedError
from foliocache.adapters.fsspec import FolioFile, FolioFileSystem
from foliocache.adapters.fsspec.ranges import Merged

SIZE = 150_001
TEXT = "".join(f"line {number} ü\n" for number in range(5000)) + "no newline at the end"


@pytest.fixture
def path(tmp_path, data, settled):
    path = tmp_path / "object"
    path.write_bytes(data[:SIZE])
    return settled(path)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(-1, 70_000)),
        st.tuples(st.just("read1"), st.integers(0, 70_000)),
        st.tuples(st.just("readinto"), st.integers(0, 70_000)),
        st.tuples(st.just("seek"), st.integers(0, SIZE + 1000), st.just(os.SEEK_SET)),
        st.tuples(st.just("seek"), st.integers(-SIZE - 10, 10), st.just(os.SEEK_END)),
        st.tuples(st.just("seek"), st.integers(-SIZE, SIZE), st.just(os.SEEK_CUR)),
        st.tuples(st.just("readline"), st.integers(-1, 3000)),
        st.tuples(st.just("tell")),
    ),
    max_size=30,
)


def do(file, name, *args):
    try:
        if name == "readinto":
            buffer = bytearray(args[0])
            count = file.readinto(buffer)
            return count, bytes(buffer[:count])
        return getattr(file, name)(*args)
    except ValueError:
        return "ValueError"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(steps=STEPS)
def test_does_what_bytesio_does(local, path, data, steps):
    model = io.BytesIO(data[:SIZE])
    with local.open(path, "rb") as file:
        for step in steps:
            expected = "ValueError" if step[0] == "seek" and before_start(model, *step[1:]) else do(model, *step)
            assert do(file, *step) == expected, step
            assert file.tell() == model.tell(), step


def before_start(model, offset, whence):
    """BytesIO clips at 0 what a file refuses."""
    return offset + (0, model.tell(), SIZE)[whence] < 0


def test_is_a_readable_seekable_buffered_file(local, path):
    with local.open(path, "rb") as file:
        assert isinstance(file, FolioFile) and isinstance(file, io.BufferedIOBase)
        assert file.readable() and file.seekable()
        assert not (file.writable() or file.closed or file.isatty())
        assert (file.size, file.mode, file.path) == (SIZE, "rb", path)
        assert file.info()["size"] == SIZE
        with pytest.raises(io.UnsupportedOperation):
            file.write(b"x")
        with pytest.raises(io.UnsupportedOperation):
            file.fileno()


@pytest.mark.parametrize(
    "use",
    [
        lambda file: file.read(),
        lambda file: file.read(0),
        lambda file: file.readinto(bytearray(1)),
        lambda file: file.seek(0),
        lambda file: file.tell(),
        lambda file: file.readline(),
        lambda file: file.peek(),
        lambda file: next(file),
        lambda file: file.readable(),
        lambda file: file.lease(0, 1),
        lambda file: file.__enter__(),
        pickle.dumps,
    ],
)
def test_closed_file_refuses(local, path, use):
    file = local.open(path, "rb")
    file.close()
    file.close()
    assert file.closed
    with pytest.raises(ValueError, match="closed"):
        use(file)


def test_bad_seeks_are_errors_and_do_not_move(local, path):
    with local.open(path, "rb") as file:
        file.seek(10)
        for offset, whence in ((-1, 0), (-11, 1), (-SIZE - 1, 2), (0, 3)):
            with pytest.raises(ValueError):
                file.seek(offset, whence)
            assert file.tell() == 10


def test_lease_is_the_page_itself_and_read_only(local, path, data):
    with local.open(path, "rb") as file, file.lease(100, 50) as one, local.lease(path, 100, 50) as other:
        assert bytes(one) == bytes(other) == data[100:150]
        assert one.readonly
        assert address(one) == address(other)
        with pytest.raises(TypeError):
            one[0] = 0


def address(view):
    import numpy

    return numpy.frombuffer(view, "u1").__array_interface__["data"][0]


def test_lease_outlives_file_and_filesystem_objects(local, path, data):
    view = local.open(path, "rb").lease(5, 5)
    local.invalidate_cache()
    assert bytes(view) == data[5:10]


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (0, None),
        (0, SIZE),
        (SIZE - 1, 100),
        (SIZE, 5),
        (SIZE + 9, 5),
        (70_000, 20_000),
    ],
)
def test_lease_ranges(local, path, data, offset, length):
    end = None if length is None else offset + length
    assert bytes(local.lease(path, offset, length)) == data[:SIZE][offset:end]


@pytest.mark.parametrize(("offset", "length"), [(-1, None), (-1, 1), (0, -1)])
def test_lease_refuses_negative_ranges(local, path, offset, length):
    for read in (local.lease, local.fetch):
        with pytest.raises(ValueError, match="negative"):
            read(path, offset, length)
    with local.open(path) as file:
        for pieces in (partial(local.pieces, path), file.pieces):
            with pytest.raises(ValueError, match="negative"):
                pieces(offset, length)


@pytest.mark.parametrize(("offset", "length", "what"), [(None, 1, "offset"), (1.0, 1, "offset"), (0, "1", "length")])
def test_a_place_is_whole_numbers(local, path, offset, length, what):
    for read in (local.lease, local.pieces, local.fetch):
        with pytest.raises(TypeError, match=f"{what} must be an integer, not"):
            list(read(path, offset, length))


@pytest.mark.parametrize("bad", ["x", 1.5, [1]])
def test_a_range_is_whole_numbers_or_none(local, path, bad):
    """Said in words, wherever the range is given, before the origin is asked."""
    calls = {
        "start": (lambda: local.cat_file(path, bad), lambda: asyncio.run(local._cat_file(path, bad))),
        "end": (lambda: local.cat_file(path, 0, bad), lambda: local.cat_ranges([path], 0, [bad])),
        "max_gap": (lambda: local.cat_ranges([path], 0, 5, max_gap=bad),),
    }
    for what, reads in calls.items():
        for read in reads:
            with pytest.raises(TypeError, match=f"{what} must be an integer, not"):
                read()


@pytest.mark.parametrize("wrong", [5, b"/x", 1.5, ["/x"], [5]])
def test_every_method_says_what_a_path_is(local, wrong):
    methods = (local.fetch, local.lease, local.pieces, local.cat_file, local.ukey, lambda one: local.cat_ranges([one], 0, 1))
    for method in (*methods, lambda one: asyncio.run(local._cat_file(one))):
        with pytest.raises(TypeError, match=r"a path is a string or an os\.PathLike, not "):
            list(method(wrong))


@pytest.mark.parametrize("wrong", [None, 5, b"/x", 1.5])
def test_what_is_no_path_is_refused_and_not_remembered(local, wrong, tmp_path):
    http = FolioFileSystem(target_protocol="http", name=local._pool_options["name"])
    for fs in (local, http):
        for identify in (fs._identify, lambda path, fs=fs: asyncio.run(fs._identify_async(path))):
            with pytest.raises(TypeError, match=r"a path is a string or an os\.PathLike, not "):
                identify(wrong)
        fs.invalidate_cache(str(tmp_path))
    for read in (http.cat_file, http.lease, http.open, lambda path: list(http.fetch(path))):
        with pytest.raises(TypeError):
            read(wrong)
    http.invalidate_cache("http://localhost/x")


@pytest.mark.parametrize(("offset", "length"), [(0, None), (70_000, 20_000), (SIZE - 1, 100), (SIZE, 5), (5, 0)])
@pytest.mark.parametrize("block_size", [None, 50_000])
def test_pieces_are_the_pages_themselves(local, path, data, offset, length, block_size):
    end = None if length is None else offset + length
    with local.open(path, block_size=block_size) as file:
        file.seek(7)
        for pieces in (file.pieces(offset, length), local.pieces(path, offset, length)):
            place = offset
            for view in pieces:
                assert view.readonly and len(view) and address(view) == address(file.lease(place, len(view)))
                assert view == data[:SIZE][offset:end][place - offset :][: len(view)]
                place += len(view)
            assert place == (offset if offset >= SIZE else min(SIZE, SIZE if end is None else end))
        assert file.tell() == 7
    with pytest.raises(ValueError, match="closed file"):
        file.pieces()


def test_pieces_are_pinned_only_while_they_exist(local, path, data):
    pieces = local.pieces(path)
    first = next(pieces)
    assert local.pool.stat().pins == 1
    del first
    assert local.pool.stat().pins == 0
    assert list(map(len, pieces))[-1] and local.pool.stat().pins == 0


def test_pieces_are_of_one_version(http, origin, data):
    url = origin.put("/x", data)
    pieces = http.pieces(url, 10)
    start = bytes(next(pieces))
    origin.put("/x", data[::-1])
    http.pool.forget(http.target.key(url))
    with pytest.raises(ChangedError):
        list(pieces)
    assert start == data[10 : 10 + len(start)]
    assert b"".join(http.pieces(url, 10)) == data[::-1][10:]


def test_pieces_of_what_is_not_cached(http, origin, data):
    url = origin.put("/x", data, etag=None, modified=None)
    assert [bytes(view) for view in http.pieces(url, 10, 50)] == [data[10:60]]
    assert list(http.pieces(origin.put("/empty", b""))) == []
    with pytest.raises(FileNotFoundError):
        next(http.pieces(f"{origin.url}/none"))


def test_text_lines(local, tmp_path):
    path = tmp_path / "text"
    path.write_text(TEXT, encoding="utf8")
    expected = TEXT.splitlines(keepends=True)
    with local.open(str(path), "r", encoding="utf8") as file:
        assert list(file) == expected
    with local.open(str(path), "rb") as file:
        assert [line.decode() for line in file] == expected
        file.seek(0)
        assert file.readlines() == [line.encode() for line in expected]
    with io.BufferedReader(local.open(str(path), "rb")) as file:
        assert file.readline().decode() == expected[0]
    assert local.read_text(str(path), encoding="utf8") == TEXT


def test_archives_and_compression(local, tmp_path, data):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number in range(20):
            member = tarfile.TarInfo(f"member{number}")
            member.size = 5000 + number
            tar.addfile(member, io.BytesIO(data[number:]))
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("member", data[:SIZE])
    (tmp_path / "a.gz").write_bytes(gzip.compress(data[:SIZE]))
    with local.open(f"{tmp_path}/a.tar", "rb") as file, tarfile.open(fileobj=file) as tar:
        for number in range(20):
            assert tar.extractfile(f"member{number}").read() == data[number : number + 5000 + number]
    with local.open(f"{tmp_path}/a.zip", "rb") as file, zipfile.ZipFile(file) as archive:
        assert archive.read("member") == data[:SIZE]
    with local.open(f"{tmp_path}/a.gz", "rb", compression="infer") as file:
        assert file.read() == data[:SIZE]


def test_read_helpers_of_fsspec(local, path, data):
    assert local.head(path, 10) == data[:10]
    assert local.tail(path, 10) == data[SIZE - 10 : SIZE]
    assert local.read_block(path, 10, 20) == data[10:30]
    assert local.read_bytes(path, 3, 9) == data[3:9]
    assert local.get_mapper(os.path.dirname(path))["object"] == data[:SIZE]


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (None, None),
        (0, 10),
        (5, None),
        (None, 5),
        (-10, None),
        (-10, -5),
        (10, -10),
        (SIZE - 5, SIZE + 5),
        (SIZE, None),
        (9, 9),
        (9, 3),
        (-SIZE - 5, 3),
    ],
)
def test_cat_file_slices_as_python_does(local, path, data, start, end):
    got = local.cat_file(path, start, end)
    assert type(got) is bytes
    assert got == data[:SIZE][start:end]


def test_cat_many(local, tmp_path):
    names = [f"{tmp_path}/{number}" for number in range(20)]
    for number, name in enumerate(names):
        local.pipe_file(name, b"%d" % number)
    missing = f"{tmp_path}/missing"
    assert local.cat(names) == {name: b"%d" % number for number, name in enumerate(names)}
    assert local.cat(f"{tmp_path}/*") == local.cat(str(tmp_path), recursive=True, on_error="omit")
    assert local.cat([names[0], missing], on_error="omit") == {names[0]: b"0"}
    assert isinstance(local.cat([names[0], missing], on_error="return")[missing], FileNotFoundError)
    assert local.cat(names[0]) == b"0"
    for path in (missing, [names[0], missing]):
        with pytest.raises(FileNotFoundError):
            local.cat(path)


def test_cat_ranges(local, path, data):
    missing = f"{path}-missing"
    assert local.cat_ranges([path] * 30, list(range(30)), [70_000] * 30) == [data[first:70_000] for first in range(30)]
    assert local.cat_ranges([path, path], 5, 10) == [data[5:10]] * 2
    assert local.cat_ranges([path], [-10], [None]) == [data[SIZE - 10 : SIZE]]
    fine, failed = local.cat_ranges([path, missing], [0, 0], [3, 3])
    assert fine == data[:3] and isinstance(failed, FileNotFoundError)
    with pytest.raises(FileNotFoundError):
        local.cat_ranges([path, missing], [0, 0], [3, 3], on_error="raise")
    with pytest.raises(FileNotFoundError):
        local.cat_ranges([missing] * 50 + [path], [0] * 51, [3] * 51, on_error="raise")
    with pytest.raises(ValueError, match="2 paths, 1 starts"):
        local.cat_ranges([path, path], [0], [3])
    with pytest.raises(TypeError):
        local.cat_ranges(path, 0, 3)
    with pytest.raises(ValueError, match="max_gap"):
        local.cat_ranges([path], [0], [3], max_gap=-1)
    assert local.cat_ranges([], [], []) == local.cat_ranges([], 0, 1, max_gap=5) == []


def test_cat_ranges_reads_close_ones_as_one(local, path):
    other = f"{path}-other"
    local.pipe_file(other, b"")
    ranges = [(path, 100, 200), (path, 260, 300), (path, 150, 170), (path, -10, None), (path, 301, 302), (path, 5, 5)]
    ranges += [(other, 0, 4), (f"{path}-missing", 1, 2), (path, 200, 100), (path, None, 3)]
    plain = local.cat_ranges(*map(list, zip(*ranges, strict=True)))
    for max_gap in (0, 1, 60, 1 << 40):
        merged = local.cat_ranges(*map(list, zip(*ranges, strict=True)), max_gap=max_gap)
        assert [str(one) if isinstance(one, Exception) else one for one in merged] == [
            str(one) if isinstance(one, Exception) else one for one in plain
        ]
    whole = {path: SIZE}
    assert Merged(ranges[:6], whole, 60).reads == [(path, 5, 5), (path, 100, 302), (path, SIZE - 10, SIZE)]
    assert len(Merged(ranges[:6], whole, 59).reads) == 4
    assert len(Merged(ranges[:6], whole, 0).reads) == 5


def test_nothing_is_read_into_an_empty_array(local, path):
    with local.open(path) as file:
        for buffer in (bytearray(), np.empty((0, 4)), np.empty((3, 0), "u1")):
            assert file.readinto(buffer) == file.tell() == 0


@pytest.mark.parametrize("dtype", ["u1", "<f4", "<i4,<i4", "M8[s]"])
def test_arrays_are_filled_whatever_they_are_of(local, path, data, dtype):
    array = np.zeros((3, 5), dtype)
    with local.open(path) as file:
        assert file.readinto(array) == array.nbytes == file.tell()
    assert array.tobytes() == data[: array.nbytes]


def test_positions_are_whole_numbers(local, path, data):
    with local.open(path) as file:
        assert file.seek(np.int64(7)) == 7
        assert file.read(np.int64(3)) == data[7:10] == bytes(local.lease(path, np.int64(7), np.int64(3)))
        for call in (lambda: file.seek(1.0), lambda: file.read(1.0), lambda: file.lease(1.0, 2)):
            with pytest.raises(TypeError):
                call()
    with pytest.raises(TypeError):
        local.lease(path, 1.0)


def test_file_goes_on_over_a_pool_that_was_closed(local, path, data):
    with local.open(path) as file, local.open(path) as other:
        assert file.read(10) == data[:10]
        local.pool.close()
        assert file.read(100_000) == data[10:100_010]
        assert not file._mapping.pool.closed
        local.pool.close()
        buffer = bytearray(10)
        assert other.readinto(buffer) == 10 and buffer == data[:10]
        assert bytes(other.lease(SIZE - 5, 5)) == data[SIZE - 5 : SIZE]


def test_pool_is_closed_in_the_middle_of_a_read(http, origin, data, tmp_path):
    """What has been asked for is read to its end, over the reopened pool."""

    def closing(use):
        pools = []
        url = origin.put(f"/{use.__name__}", data)

        def close(path, headers):
            """Closing waits for what is read ahead, perhaps for this very answer."""
            if not pools:
                pools.append(http.pool)
                threading.Thread(target=pools[0].close).start()
                while not pools[0].closed:
                    threading.Event().wait(0.001)

        origin.before_get = close
        result = use(url)
        assert pools[0].closed and not http.pool.closed
        return result

    def cat(url):
        return http.cat_file(url)

    def leased(url):
        return bytes(http.lease(url, 10))

    def ranges(url):
        return http.cat_ranges([url, url], [0, 1_000_000], [1_000_000, None])

    def downloaded(url):
        http.get_file(url, tmp_path / "copy")
        return (tmp_path / "copy").read_bytes()

    def read(url):
        with http.open(url) as file:
            return file.read()

    def filled(url):
        buffer = bytearray(len(data))
        with http.open(url) as file:
            assert file.readinto(buffer) == len(data)
        return bytes(buffer)

    for use in (cat, downloaded, read, filled):
        assert closing(use) == data
    assert closing(leased) == data[10:]
    assert closing(ranges) == [data[:1_000_000], data[1_000_000:]]


def test_pickled_file_goes_on_where_it_was(local, path, data):
    with local.open(path, "rb") as file:
        file.seek(1000)
        other = pickle.loads(pickle.dumps(file))
    assert other.read(10) == data[1000:1010]


def test_directories_and_missing_files(local, tmp_path):
    for read in (local.open, local.cat_file, local.lease):
        with pytest.raises(IsADirectoryError):
            read(str(tmp_path))
        with pytest.raises(FileNotFoundError):
            read(f"{tmp_path}/missing")


def test_empty_files_are_read_from_the_target(local, tmp_path):
    (tmp_path / "empty").touch()
    assert local.cat_file(f"{tmp_path}/empty") == b""
    assert bytes(local.lease(f"{tmp_path}/empty")) == b""
    with local.open(f"{tmp_path}/empty", "rb") as file:
        assert file.read() == b""


def test_chains_on_both_sides(pool, tmp_path, data):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("member", data[:SIZE])
    url = f"file://{tmp_path}/a.zip"
    for chain in (f"zip://member::folio::{url}", f"folio::zip://member::{url}"):
        with fsspec.open(chain, folio=dict(pool)) as file:
            assert file.read() == data[:SIZE]
    with fsspec.open(f"simplecache::folio::{url}", folio=pool, simplecache={"cache_storage": str(tmp_path / "cache")}) as file:
        assert file.read() == (tmp_path / "a.zip").read_bytes()


def test_block_size_is_what_a_miss_fetches_at_once(pool, origin):
    """As whole blocks, whichever part of one is read first, and by one request each."""
    data = random.Random(3).randbytes(3_000_000)
    url = origin.put("/x", data)
    fs = FolioFileSystem(target_protocol="http", check_files=False, **pool)
    with fs.open(url, block_size=1_000_000) as file:  # in whole units, that is 1 MiB
        for offset in (2_500_000, 1_500_000, 700_000, 999_000, 2_000_100, 0, 1_999_000):
            file.seek(offset)
            assert file.read(2000) == data[offset : offset + 2000]
    assert origin.requests == {"GET": 1 + 3}  # the first bytes, and each block
    assert origin.sent["/x"] == len(data)


def test_a_read_from_a_cached_block_into_one_that_is_not(pool, origin):
    data = random.Random(4).randbytes(3_000_000)
    fs = FolioFileSystem(target_protocol="http", check_files=False, readahead=0, **pool)
    with fs.open(origin.put("/y", data), block_size=1 << 20) as file:
        assert file.read(1000) == data[:1000]
        for border in (1 << 20, 2 << 20):
            file.seek(border - 1000)
            assert file.read(2000) == data[border - 1000 : border + 1000]
