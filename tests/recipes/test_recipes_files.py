"""Recipes of libraries that read files piece by piece."""

import io
import tarfile

import pytest
from running import code, files

numpy = pytest.importorskip("numpy", reason="numpy is not installed")

PROCESSES = 3
SAMPLES = 40  # of a shard


@pytest.fixture
def shards(server):
    random = numpy.random.default_rng(1)
    for number in range(3):
        with tarfile.open(server.folder / f"shard-{number:03}.tar", "w") as shard:
            for n in range(SAMPLES):
                array = io.BytesIO()
                numpy.save(array, random.integers(0, 255, (64, 64, 3), "u1"))
                for name, data in ((f"{n:04}.npy", array.getvalue()), (f"{n:04}.cls", str(n).encode())):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    shard.addfile(member, io.BytesIO(data))
    return server


def test_webdataset(kitchen, shards):
    pytest.importorskip("webdataset", reason="webdataset is not installed")
    total = 3 * sum(range(SAMPLES))
    assert kitchen.cook(code("webdataset")[0], PROCESSES) == [f"{total}\n"] * PROCESSES
    assert shards.sent() == files(shards.folder)
    shards.forget()
    kitchen.cook(code("webdataset")[0], PROCESSES)
    assert shards.asked() == {}


def test_h5netcdf(kitchen, weather):
    assert kitchen.cook(code("h5netcdf")[0], PROCESSES) == ["(100, 100) 99\n"] * PROCESSES
    assert 0 < weather.sent() <= files(weather.folder, ["weather.nc"])
    weather.forget()
    kitchen.cook(code("h5netcdf")[0], PROCESSES)
    assert weather.asked() == {}


def test_joblib(kitchen, numbers):
    pytest.importorskip("joblib", reason="joblib is not installed")
    assert kitchen.cook(code("joblib")[0], 1) == [f"{numbers}\n"]
    assert 0 < kitchen.server.sent() <= files(kitchen.server.folder)
    kitchen.server.forget()
    kitchen.cook(code("joblib")[0], 1)
    assert kitchen.server.asked() == {}


def test_joblib_arrays_as_objects(kitchen, numbers):
    pytest.importorskip("joblib", reason="joblib is not installed")
    assert kitchen.cook(code("joblib")[1], 1) == ["4\n"]
    assert kitchen.server.sent() == files(kitchen.server.folder)
