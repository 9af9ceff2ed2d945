"""Packing: the index is right, and the library has enough files."""

from __future__ import annotations

from pathlib import Path

import pytest

from foliocache.cli.demo.dataset import Dataset, choose, digest, library, pack, spread, walk
from foliocache.cli.exits import CommandError


def test_every_member_is_where_the_index_says(files, tmp_path):
    packed = pack(walk(files), tmp_path, 3)
    assert len(packed.shards) == 3
    for member in packed.members:
        shard = (tmp_path / packed.shards[member.shard]).read_bytes()
        data = shard[member.offset : member.offset + member.size]
        assert data == Path("/", member.name).read_bytes()
        assert digest(data) == member.digest
    assert packed.total_bytes == sum((tmp_path / name).stat().st_size for name in packed.shards)


def test_empty_files_and_links_are_left_out(files):
    (files / "link").symlink_to(files / "odd")
    assert sorted(path.name for path in walk(files)) == ["large", "odd", "other", "page", "tiny"]


def test_the_index_survives_saving(files, tmp_path):
    packed = pack(walk(files), tmp_path, 2)
    packed.save(tmp_path / "index")
    assert Dataset.load(tmp_path / "index") == packed


def test_shards_come_out_equally_large(tmp_path):
    paths = []
    for number in range(40):
        paths.append(tmp_path / str(number))
        paths[-1].write_bytes(bytes(1000 + number))
    sums = [sum(path.stat().st_size for path in part) for part in spread(paths, 4)]
    assert max(sums) - min(sums) < 1040


def test_there_are_no_more_shards_than_files(files, tmp_path):
    assert len(pack(walk(files), tmp_path, 50).shards) == 5


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(CommandError, match="no files"):
        pack([], tmp_path, 4)


def test_choosing_stops_when_there_is_enough(files):
    chosen = choose(walk(files), 1_500_001)
    assert [path.name for path in chosen] == ["large", "other"]


def test_the_library_has_100_mb_of_real_files():
    chosen = choose(library(), 110 * 2**20)
    assert sum(path.stat().st_size for path in chosen) >= 100_000_000
    assert len(chosen) == len(set(chosen))
