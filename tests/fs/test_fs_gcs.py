"""Google Cloud Storage by gcsfs, over an emulator: `pip install gcsfs gcp-storage-emulator`, or these tests are skipped."""

import asyncio

import pytest

from foliocache.adapters.fsspec import FolioFileSystem


@pytest.fixture
def gcs(monkeypatch):
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # it asks Google's servers
    core = pytest.importorskip("gcsfs.core")
    emulator = pytest.importorskip("gcp_storage_emulator.server")
    server = emulator.create_server("127.0.0.1", 0, in_memory=True, default_bucket="bucket")
    server.start()
    try:
        port = server._api._httpd.server_address[1]
        yield core.GCSFileSystem(token="anon", project="p", endpoint_url=f"http://127.0.0.1:{port}", skip_instance_cache=True)
    finally:
        server.stop()


def test_an_object_is_cached_by_its_generation(pool, gcs):
    fs = FolioFileSystem(fs=gcs, skip_instance_cache=True, **pool)
    for content in (b"first" * 10_000, b"other" * 10_000):
        gcs.pipe("bucket/x", content)
        assert fs.cat_file("bucket/x", 5, 25_000) == content[5:25_000]
        assert asyncio.run(asyncio.wait_for(fs._cat_file("bucket/x", 7, 49_000), 60)) == content[7:49_000]
        assert fs.open("bucket/x").read() == content
    versions = [mapping.version for mapping in fs.pool.mappings()]
    assert len(versions) == len(set(versions)) == 2 and all(version.startswith("generation=") for version in versions)
    with pytest.raises(FileNotFoundError):
        fs.cat_file("bucket/none")


def test_a_cached_object_is_asked_for_and_not_read_again(pool, gcs, monkeypatch):
    fs = FolioFileSystem(fs=gcs, skip_instance_cache=True, check_files=False, **pool)
    gcs.pipe("bucket/x", b"data" * 10_000)
    assert fs.cat_file("bucket/x") == b"data" * 10_000
    asked = []
    call = type(gcs)._call
    monkeypatch.setattr(type(gcs), "_call", lambda *args, **kwargs: asked.append(args) or call(*args, **kwargs))
    assert fs.cat_file("bucket/x") == b"data" * 10_000 and not asked
