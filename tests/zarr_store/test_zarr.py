"""Arrays through a FolioStore: read once, by all processes, and right after every change."""

import asyncio
import contextlib
import gc
import multiprocessing

import numcodecs
import numpy
import pytest
import zarr
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import cpu, default_buffer_prototype
from zarr.storage import LocalStore, MemoryStore, WrapperStore

import foliocache
from foliocache.zarr import CachedCodecPipeline, FolioArray, FolioStore

PROTOTYPE = default_buffer_prototype()


class Counting(WrapperStore):
    """A store that counts what is read of it, and knows no synchronous methods."""

    def __init__(self, store):
        super().__init__(store)
        self.reads = []

    async def get(self, key, prototype=None, byte_range=None):
        self.reads.append(key)
        return await super().get(key, prototype, byte_range)


@pytest.fixture
def source(tmp_path):
    return Counting(LocalStore(tmp_path))


@pytest.fixture
def store(source, zarr_pool, tmp_path):
    return FolioStore(source, zarr_pool, name=str(tmp_path))


@pytest.fixture(params=["codecs", "cached codecs", "FolioArray"])
def way(request):
    """A function that an array of a FolioStore is opened by; decoded chunks are kept, too, if it is not the first."""
    with contextlib.ExitStack() as stack:
        if request.param != "codecs":
            stack.enter_context(zarr.config.set({"codec_pipeline.path": "foliocache.zarr.CachedCodecPipeline"}))
        yield FolioArray if request.param == "FolioArray" else lambda array: array


async def test_a_value_and_its_ranges_are_read_once(store, source):
    await source.set("k", cpu.Buffer.from_bytes(bytes(range(200)) * 1000))
    ranges = [RangeByteRequest(5, 50), OffsetByteRequest(199_990), SuffixByteRequest(3)]
    for byte_range, expected in zip(ranges, [range(5, 50), range(190, 200), range(197, 200)], strict=True):
        for _ in range(2):
            assert (await store.get("k", PROTOTYPE, byte_range)).to_bytes() == bytes(expected)
    assert source.reads == ["k"] * 3
    assert [len(await store.get("k", PROTOTYPE)) for _ in range(2)] == [200_000] * 2
    await store.get("k", PROTOTYPE, RangeByteRequest(1, 2))
    assert source.reads == ["k"] * 4
    there, absent = await store.get_partial_values(PROTOTYPE, [("k", ranges[0]), ("n", None)])
    assert there.to_bytes() == bytes(range(5, 50)) and absent is None
    one, other = [(await store.get("k", PROTOTYPE)).as_numpy_array() for _ in range(2)]
    assert numpy.shares_memory(one, other) and not one.flags.writeable


@pytest.mark.parametrize("is_synchronous", [False, True])
async def test_any_number_of_ranges_of_a_value_is_kept(store, source, tmp_path, zarr_pool, is_synchronous):
    """The pool has room for 16 versions of one key."""
    content = bytes(range(250)) * 1000
    await store.set("k", cpu.Buffer.from_bytes(content))
    both = FolioStore(LocalStore(tmp_path), zarr_pool, name="sync") if is_synchronous else store

    async def read(start):
        at = RangeByteRequest(start, start + 2000)
        found = both.get_sync("k", byte_range=at) if is_synchronous else await both.get("k", PROTOTYPE, at)
        return found.to_bytes()

    for _ in range(2):
        assert [await read(start) for start in range(0, 200_000, 2000)] == [
            content[start : start + 2000] for start in range(0, 200_000, 2000)
        ]
    assert len(source.reads) == (0 if is_synchronous else 100)
    if is_synchronous:
        (tmp_path / "k").unlink()
        assert await read(0) == content[:2000]
    await both.set("k", cpu.Buffer.from_bytes(content[::-1]))
    assert await read(2000) == content[::-1][2000:4000]


async def ranges_of(store, key, byte_ranges):
    """What a store says of some ranges, in order; the errors, if it raises some."""
    try:
        found = [each async for group in store.get_ranges(key, byte_ranges, prototype=PROTOTYPE) for each in group]
    except BaseExceptionGroup as raised:
        return list({type(error) for error in raised.exceptions})
    return [content.to_bytes() for _, content in sorted(found, key=lambda each: each[0])]


async def test_ranges_are_what_the_store_says(store, source):
    loop, unheard = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda loop, context: unheard.append(context))
    byte_ranges = [RangeByteRequest(1, 3), SuffixByteRequest(2), None, OffsetByteRequest(4), RangeByteRequest(1, 3)]
    for _ in range(2):
        assert await ranges_of(store, "k", byte_ranges) == [FileNotFoundError]
    await store.set("k", cpu.Buffer.from_bytes(b"abcdef"))
    for _ in range(2):
        assert await ranges_of(store, "k", byte_ranges) == [b"bc", b"ef", b"abcdef", b"ef", b"bc"]
    assert await ranges_of(store, "k", []) == []
    if hasattr(LocalStore, "get_ranges"):
        inner = source._store
        for key in "k", "absent":
            assert await ranges_of(store, key, byte_ranges) == await ranges_of(inner, key, byte_ranges)
    source.get = failing
    assert await ranges_of(store, "other", byte_ranges) == [OSError]
    await asyncio.sleep(0)
    gc.collect()
    assert unheard == []


async def failing(*arguments):
    raise OSError("no route")


async def test_what_is_not_there_is_known_until_it_is_written(store, source):
    for _ in range(2):
        assert await store.get("k", PROTOTYPE) is None
        assert not await store.exists("k")
        with pytest.raises(FileNotFoundError):
            await store.getsize("k")
    assert source.reads == ["k"]
    await store.set("k", cpu.Buffer.from_bytes(b"abc"))
    assert await store.exists("k") and await store.getsize("k") == 3
    assert (await store.get("k", PROTOTYPE)).to_bytes() == b"abc"
    await store.delete("k")
    assert await store.get("k", PROTOTYPE) is None
    await store.set_if_not_exists("k", cpu.Buffer.from_bytes(b"d"))
    assert (await store.get("k", PROTOTYPE)).to_bytes() == b"d"


async def test_listings_are_kept_until_something_is_written(source, zarr_pool, tmp_path):
    store = FolioStore(source, zarr_pool, name=str(tmp_path), listings=60)
    await store.set("a/b", cpu.Buffer.from_bytes(b"1"))
    assert [each async for each in store.list_dir("a")] == ["b"]
    await source.set("a/c", cpu.Buffer.from_bytes(b"2"))
    assert [each async for each in store.list_dir("a")] == ["b"]
    await store.set("x", cpu.Buffer.from_bytes(b"3"))
    assert sorted([each async for each in store.list_dir("a")]) == ["b", "c"]
    assert sorted([each async for each in store.list()]) == ["a/b", "a/c", "x"]
    await store.delete_dir("a")
    assert await store.get("a/b", PROTOTYPE) is None
    assert [each async for each in store.list_prefix("a/")] == []


async def test_expiry(source, zarr_pool, tmp_path):
    store = FolioStore(source, zarr_pool, name=str(tmp_path), expiry=0)
    await source.set("k", cpu.Buffer.from_bytes(b"1"))
    assert (await store.get("k", PROTOTYPE)).to_bytes() == b"1"
    await source.set("k", cpu.Buffer.from_bytes(b"2"))
    assert (await store.get("k", PROTOTYPE)).to_bytes() == b"2"


def test_a_store_that_does_not_say_where_its_data_are_needs_a_name(zarr_pool):
    with pytest.raises(ValueError, match="give name="):
        FolioStore(MemoryStore(), zarr_pool)
    assert FolioStore(MemoryStore(), zarr_pool, name="mine") != FolioStore(MemoryStore(), zarr_pool, name="yours")


ARRAYS = {
    "plain": {"dtype": "f8"},
    "big-endian": {"dtype": ">i4"},
    "no codecs": {"dtype": "i2", "compressors": None},
    "fortran": {"dtype": "i4", "filters": [zarr.codecs.TransposeCodec(order=(1, 0))]},
    "sharded": {"dtype": "u2", "shards": (40, 60)},
    "fill": {"dtype": "f4", "fill_value": 7.5},
    "nan": {"dtype": "f4", "fill_value": numpy.nan},
    "v2": {"dtype": "i8", "zarr_format": 2},
    "bool": {"dtype": "bool"},
    "fixed strings": {"dtype": "U5"},
    "sharded strings": {"dtype": "U5", "shards": (40, 60), "fill_value": "none"},
    "sharded big-endian": {"dtype": ">f8", "shards": (40, 60), "fill_value": numpy.nan},
    "structured": {"dtype": [("a", "i4"), ("b", "f8")], "fill_value": (1, 2.5)},
    "dates": {"dtype": "M8[s]", "shards": (40, 60)},
}


@pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")
@pytest.mark.filterwarnings("ignore:.*does not have a Zarr V3 specification.*")
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_are_right_after_every_change(store, way, name):
    """Beside a NumPy array to which the same is done."""
    array = way(zarr.create_array(store, shape=(100, 120), chunks=(20, 30), **ARRAYS[name]))
    model = numpy.full((100, 120), array.fill_value, array.dtype)
    values = numpy.arange(12_000).reshape(100, 120).astype(array.dtype)

    def check():
        for place in (numpy.s_[:], numpy.s_[3:45, 7:99], numpy.s_[50], numpy.s_[::7, 5], numpy.s_[-1, -1]):
            for _ in range(2):
                numpy.testing.assert_array_equal(array[place], model[place])

    check()
    array[10:70, 20:100] = model[10:70, 20:100] = values[10:70, 20:100]
    check()
    array[15, 25] = model[15, 25] = values[-1, -1]
    check()
    array[:] = model[:] = values
    check()
    array.attrs["x"] = 1
    assert zarr.open_array(store, mode="r").attrs["x"] == 1
    array.resize((130, 90))
    model = numpy.vstack([model[:, :90], numpy.full((30, 90), array.fill_value, array.dtype)])
    check()
    array[125:] = model[125:] = values[:5, :90]
    check()
    assert zarr.open_array(store, mode="r")[99, 3] == model[99, 3]


def test_variable_strings_and_scalars(store, way):
    array = way(zarr.create_array(store, name="s", shape=(10,), chunks=(4,), dtype=str))
    array[2:5] = ["a", "é" * 100, ""]
    assert [array[:].tolist() for _ in range(2)] == [["", "", "a", "é" * 100, *[""] * 6]] * 2
    scalar = zarr.create_array(store, name="n", shape=(), dtype="i4")
    scalar[...] = 5
    assert int(scalar[...]) == 5
    empty = zarr.create_array(store, name="e", shape=(0, 3), chunks=(1, 3), dtype="i4")
    assert empty[:].shape == (0, 3)


def test_other_codecs_and_types_are_other_chunks(store, way):
    for dtype, compressors in (("i4", None), ("f4", None), ("i4", "auto"), ("u1", "auto")):
        array = zarr.create_array(store, shape=(50,), chunks=(10,), dtype=dtype, compressors=compressors, overwrite=True)
        array[:] = numpy.arange(50)
        assert array[:].tolist() == list(range(50)) and array.dtype == dtype


def test_codecs_that_are_shown_alike_are_other_codecs(store, way):
    """A Categorize shows three of its labels."""
    labels = ["a", "b", "c", "d"]
    array = zarr.create_array(
        store, shape=(8,), dtype="U1", zarr_format=2, filters=[numcodecs.Categorize(labels, dtype="U1")], compressors=None
    )
    array[:] = labels * 2
    assert [way(zarr.open_array(store, mode="r"))[:].tolist() for _ in range(2)] == [labels * 2] * 2
    described = asyncio.run(store.get(".zarray")).to_bytes()
    asyncio.run(store.set(".zarray", cpu.Buffer.from_bytes(described.replace(b'"d"', b'"e"'))))
    assert way(zarr.open_array(store, mode="r"))[:].tolist() == ["a", "b", "c", "e"] * 2


def decode_all(store):
    """In a process of its own: read an array in slabs, and count what is decoded."""
    with zarr.config.set({"codec_pipeline.path": "foliocache.zarr.CachedCodecPipeline"}):
        array = zarr.open_array(store, mode="r")
        decode, count = CachedCodecPipeline.decode, []

        async def counting(self, items):
            items = list(items)
            count.extend(items)
            return await decode(self, items)

        CachedCodecPipeline.decode = counting
        total = sum(int(array[start : start + 6].sum()) for start in range(0, array.shape[0], 6))
        CachedCodecPipeline.decode = decode
        return total, len(count)


def test_four_processes_decode_each_chunk_once(source, pool_name):
    """In a pool of its own, where no name has to make room for another."""
    store = FolioStore(source, foliocache.open(pool_name, size="64MiB"), name="counted")
    array = zarr.create_array(store, shape=(480, 100), chunks=(60, 50), dtype="i4")
    array[:] = numpy.arange(48_000).reshape(480, 100)
    with multiprocessing.get_context("spawn").Pool(4) as workers:
        found = workers.map_async(decode_all, [store] * 4, chunksize=1).get(timeout=200)
    assert [total for total, _ in found] == [sum(range(48_000))] * 4
    assert sum(count for _, count in found) == 16


def test_xarray(store):
    xarray = pytest.importorskip("xarray", reason="xarray is not installed")
    frame = xarray.Dataset({"t": (("y", "x"), numpy.arange(600.0).reshape(20, 30))}, {"x": numpy.arange(30)})
    frame.to_zarr(store, consolidated=False, mode="w")
    xarray.testing.assert_equal(xarray.open_zarr(store, consolidated=False).load(), frame)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [({"store": "x"}, TypeError), ({"pool": 5}, TypeError), ({"expiry": -1}, ValueError), ({"listings": "x"}, ValueError)],
)
def test_options_are_checked_where_they_are_given(pool, wrong, error):
    with pytest.raises(error, match=next(iter(wrong))):
        FolioStore(**{"store": zarr.storage.MemoryStore(), "pool": pool, "name": "wrong", **wrong})


def test_a_folio_array_is_made_of_an_array():
    with pytest.raises(TypeError, match=r"is made of a zarr\.Array, not of ndarray"):
        FolioArray(numpy.zeros(3))
