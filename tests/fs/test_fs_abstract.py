"""fsspec's own suites, over files and over memory."""

from __future__ import annotations

import os

import pytest
from fsspec.implementations.local import LocalFileSystem, make_path_posix
from fsspec.tests import abstract

from foliocache.adapters.fsspec import FolioFileSystem


class FileFixtures(abstract.AbstractFixtures):
    @pytest.fixture
    def fs(self, local):
        return local

    @pytest.fixture
    def fs_path(self, tmp_path):
        return str(tmp_path)

    @pytest.fixture
    def fs_sanitize_path(self):
        return make_path_posix


class MemoryFixtures(abstract.AbstractFixtures):
    @pytest.fixture
    def fs(self, pool):
        fs = FolioFileSystem(target_protocol="memory", **pool)
        yield fs
        fs.fs.store.clear()
        fs.fs.pseudo_dirs[:] = [""]

    @pytest.fixture
    def fs_join(self):
        return lambda *args: "/".join(args)

    @pytest.fixture
    def fs_path(self):
        return ""


class TestFileOpen(abstract.AbstractOpenTests, FileFixtures):
    pass


class TestFileGet(abstract.AbstractGetTests, FileFixtures):
    pass


class TestFilePut(abstract.AbstractPutTests, FileFixtures):
    pass


class TestFileCopy(abstract.AbstractCopyTests, FileFixtures):
    pass


class TestFilePipe(abstract.AbstractPipeTests, FileFixtures):
    pass


class TestMemoryOpen(abstract.AbstractOpenTests, MemoryFixtures):
    pass


class TestMemoryGet(abstract.AbstractGetTests, MemoryFixtures):
    pass


class TestMemoryPut(abstract.AbstractPutTests, MemoryFixtures):
    pass


class TestMemoryCopy(abstract.AbstractCopyTests, MemoryFixtures):
    pass


class TestMemoryPipe(abstract.AbstractPipeTests, MemoryFixtures):
    pass


def test_suites_run_on_our_filesystem(local, tmp_path):
    """The suites above would pass on the bare target too; what they tested is ours."""
    assert type(local) is FolioFileSystem
    assert type(local.fs) is LocalFileSystem
    path = os.path.join(tmp_path, "x")
    local.pipe_file(path, b"data")
    with local.open(path) as file:
        assert type(file).__name__ == "FolioFile"
