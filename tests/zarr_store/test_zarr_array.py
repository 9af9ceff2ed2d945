"""FolioArray: what the pool has is read without Zarr, and is what Zarr would have returned."""

import itertools
import pickle

import numpy
import pytest
import zarr
from zarr.storage import LocalStore

import foliocache
from foliocache.zarr import FolioArray, FolioStore

CACHED = {"codec_pipeline.path": "foliocache.zarr.CachedCodecPipeline"}
VALUES = numpy.arange(7 * 30 * 50, dtype="i4").reshape(7, 30, 50)
LAYOUTS = {
    "one chunk": {"chunks": (7, 30, 50)},
    "chunks": {"chunks": (3, 10, 17)},
    "shards": {"chunks": (1, 10, 10), "shards": (4, 20, 30)},
    "v2": {"chunks": (3, 10, 17), "zarr_format": 2, "order": "F"},
}
ENDS = [slice(None), slice(2, 6), slice(-3, None), slice(5, 5), slice(6, 2), slice(0, 1000), 0, -1, 4, numpy.int64(3)]


@pytest.fixture(autouse=True)
def cached():
    with zarr.config.set(CACHED):
        yield


@pytest.fixture
def store(zarr_pool, tmp_path):
    return FolioStore(LocalStore(tmp_path), zarr_pool)


@pytest.fixture
def no_loop(monkeypatch):
    """Call it, and Zarr's event loop is not to be used any more."""

    def refuse(coroutine, *args, **options):
        coroutine.close()
        pytest.fail("Zarr was asked")

    return lambda: monkeypatch.setattr("zarr.core.array.sync", refuse)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_selection_is_what_zarr_returns(store, name):
    plain = zarr.create_array(store, shape=VALUES.shape, dtype=VALUES.dtype, **LAYOUTS[name])
    plain[:] = VALUES
    array = FolioArray(zarr.open_array(store, mode="r"))
    assert isinstance(array, zarr.Array) and array.shape == plain.shape
    array[:]
    selections = [
        ...,
        5,
        slice(3),
        (..., 4),
        (3, ...),
        (1, ..., 2),
        (1, 2, 3, ...),
        (),
        (numpy.int64(1), 2, 3),
        (1, 2, numpy.uint8(3)),
        (slice(None, None, 2), 3),
        ([1, 2], slice(3)),
        ([0, 6], [1, 2], [3, 4]),
        VALUES > 100,
        *itertools.product(ENDS[:3], ENDS, ENDS[3:]),
    ]
    for selection in selections:
        expected, found = plain[selection], array[selection]
        assert type(found) is type(expected) and found.dtype == expected.dtype, selection
        numpy.testing.assert_array_equal(found, expected, str(selection))
        assert found.flags.writeable == expected.flags.writeable
        assert found.flags.f_contiguous == expected.flags.f_contiguous


def test_one_element_of_one_dimension_is_what_zarr_returns(store):
    plain = zarr.create_array(store, shape=(5,), dtype="i4", chunks=(2,), fill_value=3)
    array = FolioArray(plain)
    for selection in (1, numpy.int64(1), (numpy.int64(1),), numpy.array(1)):
        assert type(array[selection]) is type(plain[selection]), selection


def test_a_type_without_a_default_can_be_read(store):
    """Only a chunk that is missing needs what there is in place of a fill value."""
    kind = numpy.dtype([("x", "u1"), ("y", "V4")])
    options = {"chunks": (2,), "fill_value": None, "zarr_format": 2, "config": {"write_empty_chunks": True}}
    plain = zarr.create_array(store, shape=(4,), dtype=kind, **options)
    plain[:2] = numpy.frombuffer(b"0123456789", dtype=kind)
    array = FolioArray(plain)
    assert [array[:2].tobytes() for _ in range(2)] == [b"0123456789"] * 2
    assert array[3:1].shape == (0,)


@pytest.mark.parametrize(
    "wrong", [7, -8, (0, 30), (0, 0, 0, 0), (..., ...), slice(None, None, -1), (slice("a"),), "a", 1.5, (0, True, 0)]
)
def test_what_zarr_refuses_is_refused(store, wrong):
    plain = zarr.create_array(store, shape=VALUES.shape, dtype=VALUES.dtype, chunks=(7, 30, 50))
    plain[:] = VALUES
    with pytest.raises(Exception) as expected:
        plain[wrong]
    with pytest.raises(expected.type):
        FolioArray(plain)[wrong]


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_the_pool_has_is_read_without_the_event_loop(store, name, no_loop):
    zarr.create_array(store, shape=VALUES.shape, dtype=VALUES.dtype, fill_value=-1, **LAYOUTS[name])[:4, :, 5:] = VALUES[
        :4, :, 5:
    ]
    array = FolioArray(zarr.open_array(store, mode="r"))
    expected = array[:]
    copies = [array, pickle.loads(pickle.dumps(array)), array.with_config({"order": "C"})]
    no_loop()
    for each in copies:
        assert type(each) is FolioArray
        numpy.testing.assert_array_equal(each[1:6, 3, 2:40], expected[1:6, 3, 2:40])
        assert each[1, 2, 3] == expected[1, 2, 3]


def test_large_chunks_in_a_pool_of_small_pieces(pool_name, tmp_path, no_loop):
    """A chunk whose folios do not lie side by side is read by the folios that have the rows."""
    pool = foliocache.open(pool_name, size="32MiB")
    small = bytes(pool.page_size)
    count = pool.pool_bytes // pool.page_size - 200
    for n in range(count):
        pool.put(f"small {n}", small)
    for n in range(0, count, 2):
        pool.delete(f"small {n}")
    store = FolioStore(LocalStore(tmp_path), pool)
    values = numpy.arange(3 << 20, dtype="u1").reshape(3, 1 << 10, 1 << 10) + numpy.arange(3, dtype="u1").reshape(3, 1, 1)
    zarr.create_array(store, shape=values.shape, chunks=(3, 1 << 9, 1 << 10), dtype="u1")[:] = values
    zarrs = zarr.open_array(store, mode="r")
    array = FolioArray(zarrs)
    array[:]
    pins = pool.stat().pins
    assert sum(each.cached_folios for each in pool.mappings() if each.size == 3 << 19) > 8
    for place in (numpy.s_[1], numpy.s_[2:], numpy.s_[1:2, 100:600, 5:10], numpy.s_[:, 700], numpy.s_[0, 3, 4], numpy.s_[1:1]):
        numpy.testing.assert_array_equal(zarrs[place], values[place])
    no_loop()
    for place in (numpy.s_[1], numpy.s_[2:], numpy.s_[1:2, 100:600, 5:10], numpy.s_[:, 700], numpy.s_[0, 3, 4], numpy.s_[1:1]):
        numpy.testing.assert_array_equal(array[place], values[place])
    assert pool.stat().pins <= pins
    assert pool.audit() == []


def test_other_arrays_are_refused_in_words(store, tmp_path):
    with pytest.raises(TypeError, match="is not in a FolioStore"):
        FolioArray(zarr.create_array(LocalStore(tmp_path / "other"), shape=(1,), dtype="i4"))
    with zarr.config.set({"codec_pipeline.path": "zarr.core.codec_pipeline.BatchedCodecPipeline"}):
        plain = zarr.create_array(store, shape=(1,), dtype="i4")
    with pytest.raises(TypeError, match="keeps no decoded chunks; before that"):
        FolioArray(plain)
