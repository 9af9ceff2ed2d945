"""The Python of the documents runs as printed: each page's blocks, one after the other, in a new process.

Blocks of other pages are run elsewhere: README's example, asyncio.md, checker.md and the recipes by tests of their own.
"""

import io
import json
import os
import re
import subprocess
import sys
import tempfile
from importlib.util import find_spec

import pandas
import pyarrow.dataset  # noqa: F401  # imported here, so that a page that needs it is not the first to say that it lacks
import pytest
import zarr
from documents import ROOT

PAGES = ["README.md", "docs/fsspec.md", "docs/objects.md", "docs/zarr.md"]
NAMES = {"README.md": slice(1, None)}  # the first block is a program of its own, which test_docs_readme runs

# As a shell would: what earlier text of the page imports or makes stays there, and a block may await.
RUN = """
import ast, asyncio, inspect, json, sys
import fsspec, numpy, pyarrow.dataset, zarr
from foliocache.adapters.fsspec import FolioFileSystem

offset, length = 0, 99
try:
    import duckdb
except ImportError:
    pass
place = dict(globals())
for code in json.load(sys.stdin):
    done = eval(compile(code, code, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), place)
    if inspect.iscoroutine(done):
        asyncio.run(done)
print("ran to the end")
"""


def blocks(name):
    return re.findall(r"^```python\n(.*?)^```$", (ROOT / name).read_text(), re.DOTALL | re.MULTILINE)[
        NAMES.get(name, slice(None))
    ]


@pytest.fixture
def places(origin, s3, tmp_path):
    """What the pages call by example.org, by bucket and by /tmp: the environment of a process, and what to replace."""
    table = io.BytesIO()
    pandas.DataFrame({"n": range(100)}).to_parquet(table)
    things = {"shard-000.tar": bytes(10_000), "data.parquet": table.getvalue()}
    for name, content in things.items():
        origin.put(f"/{name}", content)
    objects = {"table.parquet": table.getvalue(), "prefix/0.parquet": table.getvalue(), "folder/0.parquet": table.getvalue()}
    objects |= {name: bytes(10_000) for name in ("shard-000.tar", "shard", "x", "y")}
    for name, content in objects.items():
        s3.bare.pipe_file(f"bucket/{name}", content)
    s3.bare.chmod("bucket/table.parquet", "public-read")  # a page reads it anonymously
    zarr.open_group(tmp_path / "group.zarr", mode="w")
    s3.bare.put(str(tmp_path / "group.zarr"), "bucket/", recursive=True)
    environment = {
        "AWS_ENDPOINT_URL": s3.url,
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_REGION": "eu-west-1",
        "AWS_ALLOW_HTTP": "true",
    }
    return environment, {"https://example.org": origin.url, "/tmp/": f"{tmp_path}/"}


@pytest.mark.parametrize("name", PAGES)
def test_the_blocks_of_a_page_run(name, places):
    environment, instead = places
    code = blocks(name)
    assert code
    if find_spec("duckdb") is None:  # its recipe runs it where it is installed (make soak)
        code = [block for block in code if "duckdb" not in block]
    for words, place in instead.items():
        code = [block.replace(words, place) for block in code]
    with tempfile.TemporaryDirectory(prefix="foliocache-test-", dir="/dev/shm") as pools:
        command = [sys.executable, "-c", RUN]
        done = subprocess.run(
            command,
            input=json.dumps(code),
            env={**os.environ, **environment, "FOLIOCACHE_DIR": pools},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("ran to the end\n")
