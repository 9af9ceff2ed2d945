"""Recipes of libraries that read arrays as Zarr."""

import json
import subprocess
import sys

import pytest
from running import code, field, files

pytest.importorskip("zarr", reason="zarr is not installed")

PROCESSES = 3
REFERENCES = """
import json, sys
import fsspec, kerchunk.hdf

url, target = sys.argv[1:]
with fsspec.open(url) as file:
    references = kerchunk.hdf.SingleHdf5ToZarr(file, url, inline_threshold=500).translate()
with open(target, "w") as file:
    json.dump(references, file)
"""
SEEN = ["(100, 100) 99\n"] * PROCESSES


@pytest.fixture
def references(weather, tmp_path):
    pytest.importorskip("kerchunk", reason="kerchunk is not installed")
    script = tmp_path / "references.py"
    script.write_text(REFERENCES)
    subprocess.run(
        [sys.executable, script, f"{weather.url}/weather.nc", weather.folder / "weather.json"], check=True, timeout=120
    )
    assert json.loads((weather.folder / "weather.json").read_text())["refs"]
    weather.forget()
    return weather


def test_kerchunk(kitchen, references):
    assert kitchen.cook(code("kerchunk")[0], PROCESSES) == SEEN
    assert 0 < references.sent() <= files(references.folder)
    references.forget()
    kitchen.cook(code("kerchunk")[0], PROCESSES)
    assert references.asked() == {}


def test_virtualizarr(kitchen, weather):
    """One process reads the file to find the chunks, a few bytes twice; through the pool, each byte is fetched at most once."""
    pytest.importorskip("virtualizarr", reason="virtualizarr is not installed")
    quiet = "import warnings\nwarnings.filterwarnings('ignore', message='Numcodecs codecs')\n"
    assert kitchen.cook(quiet + code("kerchunk")[1], PROCESSES) == SEEN
    size = files(weather.folder)
    assert size < weather.sent() <= 2.05 * size
    weather.forget()
    kitchen.cook(quiet + code("kerchunk")[1], PROCESSES)
    assert weather.asked() == {}


def test_icechunk(kitchen, bucket):
    """Each process reads the snapshot, and the manifest if it reads chunks; the chunks are read once."""
    icechunk = pytest.importorskip("icechunk", reason="icechunk is not installed")
    xarray = pytest.importorskip("xarray", reason="xarray is not installed")
    place = {"bucket": "bucket", "prefix": "weather", "endpoint_url": bucket.url, "region": "us-east-1"}
    storage = icechunk.s3_storage(**place, allow_http=True, force_path_style=True, from_env=True)
    session = icechunk.Repository.create(storage).writable_session("main")
    data = xarray.Dataset({"temperature": (("time", "y", "x"), field())})
    data.to_zarr(session.store, encoding={"temperature": {"chunks": (4, 100, 100)}}, consolidated=False)
    session.commit("weather")
    chunks = sum(size for name, size in bucket.files.du("bucket/weather", total=False).items() if "/chunks/" in name)

    recipe = code("icechunk")[0].replace("https://s3.example.org", bucket.url)
    fetched = []
    for _ in range(2):
        bucket.forget_counts()
        assert kitchen.cook(recipe, PROCESSES) == SEEN
        fetched.append(sum(bucket.sent.values()))
    assert chunks <= fetched[0] - fetched[1] < 1.01 * chunks and fetched[1] < 0.05 * chunks
