"""pandas, pyarrow and zarr over folio::http:// and folio::s3://, in spawned processes: what one fetched, the others share."""

from __future__ import annotations

import io

import fsspec
import pytest
from together import together

np = pytest.importorskip("numpy")
pd = pytest.importorskip("pandas")
pa = pytest.importorskip("pyarrow")
ds = pytest.importorskip("pyarrow.dataset")
feather = pytest.importorskip("pyarrow.feather")
zarr = pytest.importorskip("zarr")

WORKERS = 3
ROWS = 40_000


@pytest.fixture(params=["http", "s3"])
def place(request, pool):
    """(put, folio URL of the root, fsspec options, bytes sent by the origin)."""
    if request.param == "http":
        origin = request.getfixturevalue("origin")
        return (
            lambda name, data: origin.put(f"/{name}", data),
            f"folio::{origin.url}",
            {"folio": pool},
            lambda: sum(origin.sent.values()),
        )
    s3 = request.getfixturevalue("s3")
    return (
        lambda name, data: s3.bare.pipe_file(f"bucket/{name}", data),
        "folio::s3://bucket",
        {"folio": pool, "s3": s3.options},
        lambda: sum(count for path, count in s3.sent.items() if path.count("/") > 1),
    )


def table(seed):
    values = np.random.default_rng(seed).integers(0, 1 << 40, (2, ROWS))
    return pd.DataFrame({"a": values[0], "b": values[1], "text": [f"row {number % 100}" for number in range(ROWS)]})


def parquet(frame):
    buffer = io.BytesIO()
    frame.to_parquet(buffer, row_group_size=ROWS // 4)
    return buffer.getvalue()


def sums(frame):
    return int(frame["a"].sum()), int(frame["b"].sum()), len(frame)


def read_parquet(number, url, options):
    return sums(pd.read_parquet(url, storage_options=options))


def test_pandas_read_parquet(place):
    put, root, options, sent = place
    data = parquet(table(1))
    put("table.parquet", data)
    before = sent()
    assert together("spawn", WORKERS, read_parquet, f"{root}/table.parquet", options) == [sums(table(1))] * WORKERS
    assert sent() - before <= len(data)
    assert read_parquet(0, f"{root}/table.parquet", options) == sums(table(1))
    assert sent() - before <= len(data)


def test_pandas_read_csv_and_write(place):
    put, root, options, _ = place
    put("table.csv", table(2).to_csv(index=False).encode())
    pd.testing.assert_frame_equal(pd.read_csv(f"{root}/table.csv", storage_options=options), table(2))
    if "s3" in root:
        table(3).to_parquet(f"{root}/written.parquet", storage_options=options)
        assert sums(pd.read_parquet(f"{root}/written.parquet", storage_options=options)) == sums(table(3))


def scan_dataset(number, urls, options):
    fs, _ = fsspec.url_to_fs(urls[0], **options)
    dataset = ds.dataset([fsspec.url_to_fs(url, **options)[1] for url in urls], filesystem=fs, format="parquet")
    found = dataset.to_table(filter=ds.field("text") == "row 7", columns=["a"])
    return found.num_rows, int(found.column("a").to_numpy().sum()), sums(dataset.to_table().to_pandas())


def test_pyarrow_dataset(place):
    put, root, options, sent = place
    parts = [parquet(table(seed)) for seed in range(3)]
    for number, data in enumerate(parts):
        put(f"part{number}.parquet", data)
    before = sent()
    whole = pd.concat([table(seed) for seed in range(3)])
    seven = whole[whole["text"] == "row 7"]
    expected = len(seven), int(seven["a"].sum()), sums(whole)
    urls = [f"{root}/part{number}.parquet" for number in range(3)]
    assert together("spawn", WORKERS, scan_dataset, urls, options) == [expected] * WORKERS
    assert sent() - before <= sum(map(len, parts))


def test_pyarrow_takes_pages_without_a_copy(pool, tmp_path, settled):
    """Uncompressed Arrow data that lies in one page is used where it is."""
    path = str(tmp_path / "numbers.arrow")
    feather.write_feather(pa.table({"a": np.arange(1000)}), path, compression="uncompressed")
    fs, _ = fsspec.url_to_fs(f"folio::file://{settled(path)}", folio={**pool, "page_size": "64KiB"})
    with fs.open(path, "rb") as file, fs.lease(path) as page:
        column = feather.read_table(file).column("a").chunk(0)
        begin = np.frombuffer(page, "u1").__array_interface__["data"][0]
        assert begin <= column.buffers()[1].address < begin + len(page)
        assert column.to_pylist() == list(range(1000))


def make_zarr():
    """{path: bytes} of a group with an array, without any server."""
    values = np.random.default_rng(5).integers(0, 1 << 30, (300, 400))
    store = zarr.storage.MemoryStore()
    group = zarr.open_group(store, mode="w")
    group.create_array("x", data=values, chunks=(100, 100), compressors=None)
    zarr.consolidate_metadata(store)
    return values, {name: buffer.to_bytes() for name, buffer in store._store_dict.items()}


def read_zarr(number, url, options):
    group = zarr.open_group(url, mode="r", storage_options=options)
    array = zarr.open_array(f"{url}/x", mode="r", storage_options=options)
    return int(group["x"][:].sum()), int(array[50:250, 7].sum()), array[299, 399].item()


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_zarr(place):
    put, root, options, sent = place
    values, objects = make_zarr()
    for name, data in objects.items():
        put(f"group.zarr/{name}", data)
    before = sent()
    expected = int(values.sum()), int(values[50:250, 7].sum()), int(values[299, 399])
    assert together("spawn", WORKERS, read_zarr, f"{root}/group.zarr", options) == [expected] * WORKERS
    chunks = sum(len(data) for name, data in objects.items() if "/c/" in name)
    assert chunks <= sent() - before <= sum(map(len, objects.values()))


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_zarr_writes_through(pool, s3):
    values, _ = make_zarr()
    options = {"folio": {**pool, "check_files": False}, "s3": s3.options}
    for factor in (1, 2):
        group = zarr.open_group("folio::s3://bucket/written.zarr", mode="w", storage_options=options)
        group.create_array("x", data=values * factor, chunks=(100, 100))
        again = zarr.open_group("folio::s3://bucket/written.zarr", mode="r", storage_options=options)
        assert (again["x"][:] == values * factor).all()
    assert s3.bare.exists("bucket/written.zarr/x/c/0/0")


def test_asynchronous_is_wrapped_as_zarr_does_it(http, origin, data):
    """Any async caller may do the same."""
    import asyncio

    from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper

    url = origin.put("/x", data)

    async def read():
        fs = AsyncFileSystemWrapper(http, asynchronous=True)
        return await asyncio.gather(*(fs._cat_file(url, number, number + 100_000) for number in range(10)))

    assert asyncio.run(read()) == [data[number : number + 100_000] for number in range(10)]
    assert origin.sent["/x"] <= len(data)
