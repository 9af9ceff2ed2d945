"""The server that the recipes read from, and the processes that run them."""

import tempfile
from pathlib import Path

import pytest
from running import Kitchen, field, serving


@pytest.fixture(scope="session")
def _server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("origin")) as server:
        yield server


@pytest.fixture
def server(_server):
    """The server, with nothing counted, and no files of other tests."""
    _server.forget()
    yield _server
    for file in _server.folder.iterdir():
        file.unlink()


@pytest.fixture
def kitchen(server, tmp_path):
    with tempfile.TemporaryDirectory(prefix="foliocache-test-", dir="/dev/shm") as pools:
        yield Kitchen(server, tmp_path, Path(pools))


@pytest.fixture
def weather(server):
    """Fields that change with time as a NetCDF file, in compressed chunks."""
    numpy, xarray = pytest.importorskip("numpy"), pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf", reason="h5netcdf is not installed")
    pytest.importorskip("h5py", reason="h5py is not installed")
    data = xarray.Dataset({"temperature": (("time", "y", "x"), field())}, {"time": numpy.arange(24)})
    layout = {"temperature": {"chunksizes": (4, 100, 100), "zlib": True}}
    data.to_netcdf(server.folder / "weather.nc", engine="h5netcdf", encoding=layout)
    return server


@pytest.fixture
def numbers(server):
    """A table as text; return its lines."""
    numpy = pytest.importorskip("numpy")
    random = numpy.random.default_rng(1)
    rows = [f"{n},{random.integers(100)},{random.random()}\n" for n in range(50_000)]
    (server.folder / "table.csv").write_text("".join(["n,station,value\n", *rows]))
    return len(rows) + 1


S3 = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="session")
def _s3():
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    pytest.importorskip("moto", reason="moto is not installed")
    import s3

    with s3.serving() as proxy:
        yield proxy


@pytest.fixture
def bucket(_s3, kitchen, monkeypatch):
    """The counting proxy of an S3 endpoint, with an empty bucket; the recipes find it by their environment."""
    import s3fs

    for name, value in {**S3, "AWS_ENDPOINT_URL": _s3.url}.items():
        monkeypatch.setenv(name, value)
        kitchen.environment[name] = value
    _s3.files = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)
    if _s3.files.exists("bucket"):
        _s3.files.rm("bucket", recursive=True)
    _s3.files.mkdir("bucket")
    return _s3
