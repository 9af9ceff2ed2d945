"""Recipes of libraries that read tables. The tests have pandas and pyarrow anyway; `make soak` has the others."""

import fsspec
import pytest
from documents import page
from running import code, files

numpy = pytest.importorskip("numpy", reason="numpy is not installed")
pandas = pytest.importorskip("pandas", reason="pandas is not installed")
pytest.importorskip("pyarrow", reason="pyarrow is not installed")

PROCESSES = 3


def table(seed=1, rows=50_000):
    random = numpy.random.default_rng(seed)
    station, value = random.integers(0, 20, rows), random.integers(0, 1 << 40, rows)
    return pandas.DataFrame({"station": station, "value": value, "noise": random.random(rows)})


@pytest.fixture
def tables(server):
    """A table as Parquet and as CSV, and three years of it."""
    table().to_parquet(server.folder / "table.parquet", row_group_size=10_000)
    table().to_csv(server.folder / "table.csv", index=False)
    for year in (2024, 2025, 2026):
        table(year).to_parquet(server.folder / f"year={year}.parquet", row_group_size=10_000)
    return server


def test_pandas(kitchen, tables):
    said = kitchen.cook(code("pandas")[0], PROCESSES)
    best = table().groupby("station")["value"].sum().idxmax()
    assert said == [f"{best} {len(table())}\n"] * PROCESSES
    size = files(tables.folder, ["table.*"])
    fetched = tables.sent()
    assert 0.5 * size < fetched <= size
    tables.forget()
    kitchen.cook(code("pandas")[0], PROCESSES)
    assert tables.asked() == {}


def test_pandas_frames_as_objects(kitchen, tables):
    assert kitchen.cook(code("pandas")[1], PROCESSES) == ["True\n"] * PROCESSES
    assert tables.sent() == files(tables.folder, ["table.csv"])


def test_pyarrow(kitchen, tables):
    """Its processes end at once: Arrow closes files of Python in its threads, and may abort while the interpreter exits."""
    rows = sum(int((table(year)["station"] == 7).sum()) for year in (2024, 2025, 2026))
    assert kitchen.cook(code("pyarrow")[0], PROCESSES, at_once=True) == [f"{rows}\n"] * PROCESSES
    assert 0 < tables.sent() <= files(tables.folder, ["year=*"])
    tables.forget()
    kitchen.cook(code("pyarrow")[0], PROCESSES, at_once=True)
    assert tables.asked() == {}


def test_polars(kitchen, tables):
    pytest.importorskip("polars", reason="polars is not installed")
    assert kitchen.cook(code("polars")[0], PROCESSES) == [f"{(table()['station'] == 3).sum()}\n"] * PROCESSES
    assert 0 < tables.sent() <= files(tables.folder, ["table.parquet"])
    tables.forget()
    kitchen.cook(code("polars")[0], PROCESSES)
    assert tables.asked() == {}


@pytest.mark.parametrize("target", ["https", "s3"])
def test_duckdb_finds_the_filesystem_by_the_protocols_of_its_page(target):
    pytest.importorskip("s3fs" if target == "s3" else "aiohttp", reason="no filesystem of fsspec for it is installed")
    names = fsspec.filesystem("folio", target_protocol=target, name="protocols", size="16MiB").protocol
    assert str(names).replace("'", '"') in page("recipes/duckdb.md")


def test_duckdb(kitchen, tables):
    pytest.importorskip("duckdb", reason="duckdb is not installed")
    best = table().groupby("station")["value"].sum().idxmax()
    assert kitchen.cook(code("duckdb")[0], PROCESSES) == [f"{best}\n"] * PROCESSES
    assert 0 < tables.sent() <= files(tables.folder, ["table.parquet"])
    tables.forget()
    kitchen.cook(code("duckdb")[0], PROCESSES)
    assert tables.asked() == {}


def test_datasets(kitchen, bucket, tmp_path):
    """Its processes end at once: Arrow may abort while the interpreter exits. It asks for each file's metadata by itself."""
    pytest.importorskip("datasets", reason="datasets is not installed")
    years = {year: table(year) for year in (2024, 2025)}
    for year, rows in years.items():
        rows.to_parquet(tmp_path / "year.parquet", row_group_size=10_000)
        bucket.files.put_file(str(tmp_path / "year.parquet"), f"bucket/year={year}.parquet")
    kitchen.environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    found = sum(int((rows["station"] == 3).sum()) for rows in years.values())
    bucket.forget_counts()
    assert kitchen.cook(code("datasets")[0], PROCESSES, at_once=True) == [f"{found}\n"] * PROCESSES
    assert 0 < sum(bucket.sent.values()) <= bucket.files.du("bucket")
    bucket.forget_counts()
    kitchen.cook(code("datasets")[0], PROCESSES, at_once=True)
    assert bucket.requests.keys() == {"HEAD"}
