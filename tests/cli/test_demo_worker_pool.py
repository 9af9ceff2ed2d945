"""Spawned workers: what they count, how they fail, and that none stays."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from foliocache.cli.demo.dataset import Dataset, pack, walk
from foliocache.cli.demo.worker import Job
from foliocache.cli.demo.worker_pool import WorkerDied, WorkerPool


@pytest.fixture
def packed(files: Path, tmp_path: Path) -> tuple[Dataset, Path]:
    """A dataset of two shards and its index."""
    made = pack(walk(files), tmp_path, 2)
    made.save(tmp_path / "index.json")
    return made, tmp_path / "index.json"


def jobs(index: Path, workers: int = 2, url: str | None = None, **options: float) -> list[Job]:
    """Jobs that read the shards as local files."""
    settings = {"epochs": 2, "sample": 1.0} | options
    return [Job(number, str(index), url or f"file://{index.parent}", **settings) for number in range(workers)]


def gone(pool: WorkerPool) -> bool:
    """True if every worker has been reaped."""
    return all(worker.exitcode is not None for worker in pool.workers)


def test_every_member_is_read_by_every_worker_in_every_epoch(packed):
    dataset, index = packed
    seen: dict[int, tuple[int, int]] = {}
    with WorkerPool(jobs(index), progress=lambda worker, members, size: seen.update({worker: (members, size)})) as pool:
        measured = pool.run()
    wanted = 2 * sum(member.size for member in dataset.members)
    assert [(tally.members, tally.read_bytes, tally.wrong_bytes) for tally in measured.tallies] == [(10, wanted, 0)] * 2
    assert measured.peak_bytes >= measured.idle_bytes > 0
    assert gone(pool)


def test_a_sample_reads_that_share(packed):
    _, index = packed
    with WorkerPool(jobs(index, workers=1, sample=0.4)) as pool:
        (tally,) = pool.run().tallies
    assert tally.members == 2 * 2


def test_one_changed_byte_makes_its_member_wrong(packed):
    dataset, index = packed
    victim = max(dataset.members, key=lambda member: member.size)
    with (index.parent / dataset.shards[victim.shard]).open("r+b") as shard:
        shard.seek(victim.offset + victim.size - 1)
        shard.write(b"\xff")
    with WorkerPool(jobs(index)) as pool:
        tallies = pool.run().tallies
    assert [(tally.wrong_bytes, set(tally.wrong)) for tally in tallies] == [(2 * victim.size, {victim.name})] * 2


def test_a_truncated_shard_is_wrong_bytes_not_a_hang(packed):
    dataset, index = packed
    victim = dataset.members[0]
    os.truncate(index.parent / dataset.shards[victim.shard], victim.offset + victim.size - 1)
    with WorkerPool(jobs(index, workers=1)) as pool:
        (tally,) = pool.run().tallies
    assert victim.name in tally.wrong


def test_a_worker_that_fails_says_why(packed):
    _, index = packed
    with (
        pytest.raises(WorkerDied, match=r"worker \d failed: FileNotFoundError"),
        WorkerPool(jobs(index, url="file:///none")) as pool,
    ):
        pool.run()
    assert gone(pool)


def test_a_worker_that_is_killed_ends_the_run_and_all_others(packed):
    _, index = packed
    with WorkerPool(jobs(index, workers=3)) as pool:
        pool.gather("ready")
        os.kill(pool.workers[1].pid, signal.SIGKILL)
        pool.workers[1].join(60)
        with pytest.raises(WorkerDied, match="worker 2 died with exit code -9"):
            pool.gather("done")
    assert gone(pool)


def test_an_error_in_the_demo_leaves_no_worker(packed):
    _, index = packed
    with pytest.raises(ZeroDivisionError), WorkerPool(jobs(index)) as pool:
        pool.gather("ready")
        raise ZeroDivisionError
    assert gone(pool)
