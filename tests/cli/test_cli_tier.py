"""foliocache tier, and fsck of a pool with a tier."""

from __future__ import annotations

import os

import pytest

import foliocache
from foliocache.tiers import flush, urls
from foliocache.tiers.disk import DiskTier

SIZE = 300_000


@pytest.fixture
def tiered(pool_name, tmp_path, monkeypatch):
    """A pool with a tier, which has one object."""
    monkeypatch.setattr(urls, "_guards", {})
    pool = foliocache.open(pool_name, size="4MiB", tiers=[f"disk:{tmp_path}/tier?size=16MiB"])
    content = bytes(range(250)) * (SIZE // 250)
    pool.mapping("k", SIZE, "1", lambda offset, length: content[offset : offset + length]).read_bytes(0, SIZE)
    assert flush(60)
    yield pool
    pool.close()


@pytest.fixture
def folder(tiered, tmp_path):
    return str(tmp_path / "tier")


def damage(folder):
    tier = DiskTier(folder)
    os.pwrite(tier.index.fd, b"damage", tier.shape.headers_at + 20)
    with open(os.path.join(folder, "slots"), "r+b") as file:
        file.seek(tier.shape.slot_size + 5)
        file.write(b"damage")
    tier.close()


def test_stat_and_ls(folder, cli, cli_json):
    found = cli_json("tier", "stat", folder)
    assert (found["pieces_bytes"], found["objects"], found["slot_size"]) == (SIZE, 1, 65536)
    assert found["file_bytes"] <= 16 << 20
    ((listed),) = cli_json("tier", "ls", f"disk:{folder}?size=16MiB")
    assert listed["bytes"] == SIZE and len(listed["digest"]) == 32
    for action, told in (("stat", "of 1 object"), ("ls", listed["digest"])):
        done = cli("tier", action, folder)
        assert (done.code, done.err) == (0, "") and told in done.out


def test_check_finds_damage_and_repairs_it(folder, cli, cli_json):
    assert cli_json("tier", "check", folder, "--data") == {"clean": True, "findings": []}
    assert "is clean" in cli("tier", "check", folder).out
    damage(folder)
    found = cli("tier", "check", folder, "--data")
    assert found.code == 1 and "header" in found.out and "data" in found.out
    assert cli("tier", "check", folder, "--data", "--repair").code == 0
    assert cli_json("tier", "check", folder, "--data") == {"clean": True, "findings": []}


def test_fsck_checks_the_tiers_of_a_pool(tiered, folder, pool_name, cli, cli_json):
    assert cli_json("fsck", pool_name) == {"clean": True, "findings": []}
    damage(folder)
    done = cli("fsck", pool_name)
    assert done.code == 1 and "header does not pass its check" in done.out
    assert cli("fsck", pool_name, "--repair").code == 0
    assert cli_json("fsck", pool_name) == {"clean": True, "findings": []}


def test_fsck_says_that_a_tier_does_not_work(tiered, folder, pool_name, cli):
    os.truncate(os.path.join(folder, "index"), 4096)
    done = cli("fsck", pool_name)
    assert done.code == 1 and "cut off" in " ".join(done.out.split())


def test_rm(folder, cli, cli_json):
    assert cli_json("tier", "rm", folder) == {"removed": folder}
    assert not os.path.exists(folder)
    done = cli("tier", "stat", folder)
    assert done.code == 3 and "there is no tier in" in done.err
    assert not os.path.exists(folder)
    assert cli("tier", "rm", folder).code == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tier", "rm", ""], "is not a tier on a disk"),
        (["tier", "look", "/x"], "look"),
        (["tier", "stat"], "PATH"),
        (["tier", "stat", "/x", "--repair"], "--repair"),
        (["tier", "stat", "s3://x/y"], "is not a tier on a disk"),
        (["tier", "stat", "disk:x"], "absolute path"),
    ],
)
def test_wrong_usage(arguments, message, cli):
    done = cli(*arguments)
    assert done.code == 2 and message in done.err and not done.out
