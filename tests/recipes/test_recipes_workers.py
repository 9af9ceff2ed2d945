"""Recipes of libraries that have workers of their own."""

import contextlib
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from running import LIMIT, code, files

numpy = pytest.importorskip("numpy", reason="numpy is not installed")

WORKERS = 3


@pytest.fixture
def image(server):
    """An image of 4 x 4 tiles; return its pixels."""
    rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed")
    pixels = numpy.random.default_rng(1).integers(0, 255, (1024, 1024), "u1")
    layout = {"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate"}
    place = {"crs": "EPSG:3857", "transform": rasterio.Affine(10, 0, 0, 0, -10, 0)}
    size = {"width": 1024, "height": 1024, "count": 1, "dtype": "uint8"}
    with rasterio.open(server.folder / "image.tif", "w", driver="GTiff", **size, **layout, **place) as file:
        file.write(pixels, 1)
    server.forget()
    return pixels


@contextlib.contextmanager
def uvicorn(kitchen):
    """uvicorn with the application of tiles.py; its URL, when it answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    options = ["--workers", str(WORKERS), "--port", str(port), "--log-level", "warning"]
    command = [sys.executable, "-m", "uvicorn", "tiles:app", *options]
    process = subprocess.Popen(command, cwd=kitchen.folder, env=kitchen.environment)
    try:
        deadline = time.monotonic() + LIMIT
        while True:
            try:
                fetched(f"http://127.0.0.1:{port}/nothing")
            except urllib.error.HTTPError:
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, "uvicorn does not start"
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def fetched(url):
    with urllib.request.urlopen(url, timeout=LIMIT) as answer:
        return answer.read()


def test_rasterio(kitchen, image):
    pytest.importorskip("uvicorn", reason="uvicorn is not installed")
    pytest.importorskip("starlette", reason="starlette is not installed")
    kitchen.script(code("rasterio")[0], "tiles.py")
    tiles = [(x, y) for x in range(4) for y in range(4)] * WORKERS
    with uvicorn(kitchen) as url, ThreadPoolExecutor(8) as threads:
        bodies = list(threads.map(lambda at: fetched(f"{url}/{at[0]}/{at[1]}"), tiles))
    for (x, y), body in zip(tiles, bodies, strict=True):
        assert body == image[256 * y : 256 * y + 256, 256 * x : 256 * x + 256].tobytes()
    assert kitchen.server.asked().keys() == {"/image.tif"}
    assert kitchen.server.methods()["HEAD"] <= 1
    assert 0 < kitchen.server.sent() <= files(kitchen.server.folder)


def test_ray(kitchen, numbers):
    pytest.importorskip("ray", reason="ray is not installed")
    assert kitchen.cook(code("ray")[0], 1) == [f"{numbers}\n"]
    assert 0 < kitchen.server.sent() <= files(kitchen.server.folder)
    kitchen.server.forget()
    kitchen.cook(code("ray")[0], 1)
    assert kitchen.server.asked() == {}


NOTEBOOK = """
import sys
import nbclient
import nbformat

cells = [nbformat.v4.new_code_cell(cell) for cell in CELLS]
notebook = nbformat.v4.new_notebook(cells=cells)
quiet = ["--log-level=ERROR"]  # new kernels warn of TCP
nbclient.NotebookClient(notebook, timeout=200, kernel_name="python3", extra_arguments=quiet).execute()
print(notebook.cells[-1].outputs[-1].text, end="")
"""


def test_jupyter(kitchen, numbers):
    """Three notebooks, each with a kernel of its own."""
    for package in ("nbclient", "ipykernel", "pandas"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    cells = [code("jupyter")[0], code("jupyter")[1]]
    notebook = NOTEBOOK.replace("CELLS", repr(cells))
    assert kitchen.cook(notebook, WORKERS) == [f"{numbers - 1} (100,)\n"] * WORKERS
    assert kitchen.server.sent() == files(kitchen.server.folder)
    kitchen.server.forget()
    kitchen.cook(notebook, 1)
    assert kitchen.server.asked() == {}
