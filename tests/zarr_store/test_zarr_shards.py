"""Inner chunks of shards: each is decoded once, by all processes, and only those that are read."""

import contextlib
import multiprocessing

import numpy
import pytest
import zarr
from test_zarr import Counting
from zarr.abc.store import RangeByteRequest
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec, TransposeCodec, ZstdCodec
from zarr.storage import LocalStore

import foliocache
from foliocache.adapters.zarr import shards
from foliocache.zarr import CachedCodecPipeline, FolioStore

CACHED = {"codec_pipeline.path": "foliocache.zarr.CachedCodecPipeline"}
VALUES = numpy.arange(60 * 80).reshape(60, 80)


@pytest.fixture(autouse=True)
def cached():
    with zarr.config.set(CACHED):
        yield


@pytest.fixture
def source(tmp_path):
    return Counting(LocalStore(tmp_path))


@pytest.fixture
def store(source, pool_name):
    """Around a store that counts, with a pool of its own, where no name has to make room for another."""
    pool = foliocache.open(pool_name, size="64MiB")
    yield FolioStore(source, pool, name="shards")
    assert pool.audit() == []


@contextlib.contextmanager
def decoding():
    """The shapes of the chunks that are decoded meanwhile, but for shards' indices."""
    decode, shapes = CachedCodecPipeline.decode, []

    async def counting(self, items):
        items = list(items)
        shapes.extend(spec.shape for _, spec in items if spec.shape[-1:] != (2,))
        return await decode(self, items)

    CachedCodecPipeline.decode = counting
    try:
        yield shapes
    finally:
        CachedCodecPipeline.decode = decode


def sharded(store, **options):
    """An array of 2 x 2 shards with 3 x 4 inner chunks each."""
    options = {"shape": VALUES.shape, "chunks": (10, 10), "shards": (30, 40), "dtype": "i4", **options}
    array = zarr.create_array(store, **options)
    array[:] = VALUES
    return array


def test_only_the_chunks_that_are_read_are_decoded(store, source):
    array = sharded(store)
    with decoding() as shapes:
        for _ in range(2):
            assert array[5, 5] == VALUES[5, 5]
        assert shapes == [(10, 10)]
        assert (array[5:25, 35:45] == VALUES[5:25, 35:45]).all()
        assert len(shapes) == 1 + 3 * 2
        assert (array[:] == VALUES).all()
        assert len(shapes) == 4 * 12
        source.reads.clear()
        assert (array[:] == VALUES).all() and (array[::7, 3] == VALUES[::7, 3]).all()
    assert len(shapes) == 4 * 12 and source.reads == []


def test_a_shard_of_many_chunks_is_decoded_once(store, source):
    """The pool has room for 16 versions of one key; a shard has as many chunks as it likes."""
    array = sharded(store, chunks=(5, 4), shards=(60, 80))
    array[:] = VALUES
    for _ in range(2):
        with decoding() as shapes:
            for row in range(0, 60, 5):
                numpy.testing.assert_array_equal(array[row], VALUES[row])
        source.reads.clear()
    assert shapes == []
    numpy.testing.assert_array_equal(array[:], VALUES)
    assert source.reads == []


def test_neighbours_are_read_by_one_request(store, source, monkeypatch):
    monkeypatch.setattr(shards, "QUIET_SECONDS", 60)  # no other process asks, so all chunks are waited for
    array = sharded(store)
    source.reads.clear()
    array[:, :40]
    assert sorted(source.reads) == ["c/0/0", "c/1/0"], "a whole shard by one"
    source.reads.clear()
    array[0:20, 40:80]
    assert source.reads == ["c/0/1"] * 2, "a part by one for the index and one for the chunks"
    array[20:30, 40:80]
    assert source.reads == ["c/0/1"] * 3, "the index is known"


def test_neighbours_that_are_too_far_apart_are_read_by_themselves():
    places = [(900, 950), None, (0, 100), (100, 150), (260, 300), (40, 60)]
    assert shards.together(places, gap=100, most=1000) == [
        [(0, 100, 2), (40, 60, 5), (100, 150, 3)],
        [(260, 300, 4)],
        [(900, 950, 0)],
    ]
    assert shards.together(places, gap=1000, most=200) == [
        [(0, 100, 2), (40, 60, 5), (100, 150, 3)],
        [(260, 300, 4)],
        [(900, 950, 0)],
    ]
    assert shards.together([None], gap=1, most=1) == []


LAYOUTS = {
    "index first": {"serializer": ShardingCodec(chunk_shape=(10, 10), index_location="start")},
    "compressed": {"serializer": ShardingCodec(chunk_shape=(10, 10), codecs=[BytesCodec(), ZstdCodec(), Crc32cCodec()])},
    "big-endian": {"serializer": ShardingCodec(chunk_shape=(10, 10), codecs=[BytesCodec(endian="big")])},
    "transposed within": {
        "serializer": ShardingCodec(chunk_shape=(10, 20), codecs=[TransposeCodec(order=(1, 0)), BytesCodec()])
    },
    "shards in shards": {
        "serializer": ShardingCodec(chunk_shape=(15, 20), codecs=[ShardingCodec(chunk_shape=(5, 10), codecs=[BytesCodec()])])
    },
    "one chunk": {"serializer": ShardingCodec(chunk_shape=(30, 40))},
    "compressed as a whole": {"serializer": ShardingCodec(chunk_shape=(10, 10)), "compressors": [ZstdCodec()]},
}


@pytest.mark.filterwarnings("ignore:Combining a `sharding_indexed` codec")
@pytest.mark.parametrize("name", LAYOUTS)
def test_all_selections_of_all_layouts(store, name):
    """Beside NumPy; each twice, then after a change of some chunks."""
    layout = {"compressors": None, **LAYOUTS[name]}
    array = zarr.create_array(store, shape=VALUES.shape, chunks=(30, 40), dtype="i4", fill_value=-1, **layout)
    model = numpy.full(VALUES.shape, -1, "i4")
    mask = VALUES % 7 == 3

    def check():
        for _ in range(2):
            for place in (
                numpy.s_[:],
                numpy.s_[29:31, 39:41],
                numpy.s_[7],
                numpy.s_[:, 79],
                numpy.s_[::13, ::9],
                numpy.s_[-1, 0],
            ):
                numpy.testing.assert_array_equal(array[place], model[place])
            numpy.testing.assert_array_equal(array.oindex[[3, 40, 41], 10:50], model[[3, 40, 41], 10:50])
            numpy.testing.assert_array_equal(array.oindex[[59, 0], [1, 2, 79]], model[numpy.ix_([59, 0], [1, 2, 79])])
            numpy.testing.assert_array_equal(array.oindex[[5, 6], 7], model[[5, 6], 7])
            numpy.testing.assert_array_equal(array.vindex[[5, 59, 5], [0, 79, 41]], model[[5, 59, 5], [0, 79, 41]])
            numpy.testing.assert_array_equal(array.vindex[[[5], [50]], [[0], [79]]], model[[[5], [50]], [[0], [79]]])
            numpy.testing.assert_array_equal(array.get_mask_selection(mask), model[mask])
            numpy.testing.assert_array_equal(array.blocks[1, 0], model[30:60, :40])

    check()
    array[:35, 3:47] = model[:35, 3:47] = VALUES[:35, 3:47]
    check()
    array[31, 5] = model[31, 5] = 77
    check()
    array[:30, :40] = model[:30, :40] = -1  # the shard is deleted
    check()
    array[:] = model[:] = VALUES
    check()


def test_four_processes_decode_each_inner_chunk_once(store):
    sharded(store)
    with multiprocessing.get_context("spawn").Pool(4) as workers:
        found = workers.map_async(read_in_slabs, [store] * 4, chunksize=1).get(timeout=200)
    assert [total for total, _ in found] == [VALUES.sum()] * 4
    assert sum(count for _, count in found) == 4 * 12


def read_in_slabs(store):
    with zarr.config.set(CACHED), decoding() as shapes:
        array = zarr.open_array(store, mode="r")
        return sum(int(array[start : start + 6].sum()) for start in range(0, 60, 6)), len(shapes)


class Meddling(Counting):
    """A store in which something is done before the inner chunks of the first shard are read, and after."""

    def __init__(self, store):
        super().__init__(store)
        self.before, self.after = [], []

    async def get(self, key, prototype=None, byte_range=None):
        is_chunk = key == "c/0/0" and isinstance(byte_range, RangeByteRequest)
        if is_chunk and self.before:
            await self.before.pop()()
        found = await super().get(key, prototype, byte_range)
        if is_chunk and self.after:
            await self.after.pop()()
        return found


@pytest.fixture
def meddling(tmp_path):
    return Meddling(LocalStore(tmp_path))


def shard(seed):
    """The first shard with other values, whose inner chunks are elsewhere: (values, bytes)."""
    values = numpy.random.default_rng(seed).integers(0, 10 ** (seed % 9 + 1), (30, 40), "i4")
    kept = {}
    with zarr.config.set({"codec_pipeline.path": "zarr.core.codec_pipeline.BatchedCodecPipeline"}):
        array = zarr.create_array(kept, shape=(30, 40), chunks=(10, 10), shards=(30, 40), dtype="i4", compressors=ZstdCodec())
        array[:] = values
    return values, kept["c/0/0"]


def replace(store, content):
    """A function that replaces the first shard."""
    return lambda: store.set("c/0/0", content)


def test_a_shard_that_another_program_replaces_is_not_read_by_the_old_index(meddling, pool_name):
    """If values expire, the index is read before and after, and the chunks once more if it has changed."""
    store = FolioStore(meddling, foliocache.open(pool_name, size="64MiB"), name="shards", expiry=60)
    array = sharded(store, compressors=ZstdCodec())
    values, content = shard(3)
    meddling.before.append(replace(meddling, content))
    assert (array[12:15, 3:8] == values[12:15, 3:8]).all() and not meddling.before
    meddling.reads.clear()
    assert (array[12:15, 3:8] == values[12:15, 3:8]).all() and meddling.reads == []


def test_a_shard_that_changes_all_the_time_is_an_error(meddling, pool_name):
    store = FolioStore(meddling, foliocache.open(pool_name, size="64MiB"), name="shards", expiry=60)
    array = sharded(store, compressors=ZstdCodec())
    meddling.after += [replace(meddling, shard(seed)[1]) for seed in range(shards.TRIES)]
    with pytest.raises(foliocache.ChangedError, match="c/0/0"):
        array[12:15, 3:8]
    assert not meddling.after


def test_a_chunk_that_is_read_while_it_is_written_is_not_kept(meddling, tmp_path, pool_name):
    pool = foliocache.open(pool_name, size="64MiB")
    store, other = (FolioStore(each, pool, name="shards") for each in (meddling, LocalStore(tmp_path)))
    array = sharded(store, compressors=ZstdCodec())
    array[3, 3]
    values, content = shard(3)
    meddling.after.append(replace(other, content))
    array[13, 13]
    assert not meddling.after and (array[:30, :40] == values).all()


def test_a_chunk_that_the_shard_has_not_is_the_fill_value(store, source):
    array = zarr.create_array(store, shape=(60, 80), chunks=(10, 10), shards=(30, 40), dtype="i4", fill_value=9)
    array[:10, :10] = 1
    with decoding() as shapes:
        for _ in range(2):
            assert array[5, 15] == 9 and array[5, 5] == 1 and array[50, 50] == 9
    assert shapes == [(10, 10)]
    source.reads.clear()
    assert array[5, 15] == 9 and source.reads == []


def test_shards_of_strings_are_decoded_by_zarr(store):
    array = zarr.create_array(store, shape=(20,), chunks=(5,), shards=(10,), dtype=str)
    array[3:12] = [f"{n} é" for n in range(9)]
    for _ in range(2):
        assert array[:].tolist() == [""] * 3 + [f"{n} é" for n in range(9)] + [""] * 8


def test_missing_shards_are_reported(store):
    """Where Zarr can be told that missing chunks are an error."""
    if "read_missing_chunks" not in zarr.config.get("array"):
        pytest.skip("this version of Zarr fills all missing chunks")
    array = sharded(store)
    array[:30, :40] = 0
    array[35:, :] = 0
    with zarr.config.set({"array.read_missing_chunks": False, "array.write_empty_chunks": False}):
        array = zarr.open_array(store, mode="r")
        assert array[59, 0] == 0, "a shard without the chunk is there"
        with pytest.raises(zarr.errors.ChunkNotFoundError):
            array[0, 0]
