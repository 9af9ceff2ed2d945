"""Workers are killed and stopped at random while they use a pool that is much too small; a client that lives on is not
affected."""

import multiprocessing
import os
import random
import signal
import time

import pytest
from stress import MortalJob, content

import foliocache
from foliocache.mm import client

SECONDS = float(os.environ.get("FOLIOCACHE_STRESS_SECONDS", "8"))
WORKERS = 4
FORK = multiprocessing.get_context("fork")
SIZES = [30_000_000, 6_000_000, 2_000_000, 500_000] + [40_000] * 40 + [3_000] * 200


class Crew:
    """WORKERS living workers; dead ones are replaced."""

    def __init__(self, job, rng):
        self.job = job
        self.rng = rng
        self.workers = []
        self.born = 0
        self.counts = {"killed": 0, "died in a source": 0, "stopped": 0, "all killed at once": 0}

    def complete(self):
        """Wait for dead workers, which must have been killed and not have failed, and start others."""
        for worker in [worker for worker in self.workers if not worker.is_alive()]:
            self.bury(worker, "died in a source")
        while len(self.workers) < WORKERS:
            self.born += 1
            worker = FORK.Process(target=self.job.live, args=(self.rng.getrandbits(32),), daemon=True)
            worker.start()
            self.workers.append(worker)

    def bury(self, worker, how):
        worker.join(60)
        assert worker.exitcode == -signal.SIGKILL, f"a worker went by itself, with exit code {worker.exitcode}"
        self.workers.remove(worker)
        self.counts[how] += 1

    def kill(self, worker):
        worker.kill()
        self.bury(worker, "killed")

    def kill_all(self):
        for worker in self.workers:
            worker.kill()
        for worker in list(self.workers):
            self.bury(worker, "killed")
        self.counts["all killed at once"] += 1

    def stop(self, worker):
        """Stop workers for a short time; every second one is killed while it is stopped."""
        os.kill(worker.pid, signal.SIGSTOP)
        time.sleep(self.rng.random() * 0.1)
        if self.rng.random() < 0.5:
            self.kill(worker)
        else:
            os.kill(worker.pid, signal.SIGCONT)
        self.counts["stopped"] += 1

    def strike(self):
        fate = self.rng.random()
        victim = self.rng.choice(self.workers)
        if fate < 0.75:
            self.kill(victim)
        elif fate < 0.95:
            self.stop(victim)
        else:
            self.kill_all()


class Survivor:
    """This process: holds leases and windows across the workers' deaths, and reads."""

    def __init__(self, pool, job, rng):
        self.pool = pool
        self.job = job
        self.rng = rng
        self.held = []
        self.reads = []

    def live(self):
        key, size = self.rng.choice(self.job.objects)
        mapping = self.pool.mapping(str(key), size, "v", lambda offset, length: content(key, offset, length))
        self.job.step(self.rng, ((key, size), mapping), self.reads)
        start = self.rng.randrange(size)
        lease = mapping.lease(start)
        self.held.append((lease, content(key, start, len(lease))))
        for lease, expected in self.held:
            assert memoryview(lease) == expected, "bytes changed under a lease that was held while others died"
        if len(self.held) > 30:
            self.held.pop(self.rng.randrange(30))[0].release()

    def rest(self):
        self.reads.clear()
        for lease, _ in self.held:
            lease.release()


@pytest.mark.timeout(SECONDS + 300)
def test_killed_and_stopped_at_random(pool_name, record_property):
    seed = int.from_bytes(os.urandom(4), "little")
    rng = random.Random(seed)
    pool = foliocache.open(pool_name, size="8MiB", page_size="4KiB", clients=12, fill_timeout=5)
    job = MortalJob(pool_name, list(enumerate(SIZES)), SECONDS, invalidate=0.01)
    crew, survivor, reaped = Crew(job, rng), Survivor(pool, job, rng), 0
    deadline = time.monotonic() + SECONDS

    def is_enough():
        """A loaded machine takes longer until enough have died and the pool was filled once more."""
        stat = pool.stat()
        return crew.counts["killed"] >= 2 * SECONDS and stat.counters.evictions > stat.pages

    while time.monotonic() < deadline or not is_enough():
        crew.complete()
        survivor.live()
        time.sleep(rng.random() * 0.12)
        crew.complete()
        crew.strike()
        reaped += pool._attachment.reap()[0] if rng.random() < 0.3 else 0
    crew.complete()
    crew.kill_all()
    survivor.rest()
    report = {"seed": seed, "born": crew.born} | crew.counts | pool.stat().counters.to_dict()
    reaped += settle(pool)
    print(report | {"reaped by the survivor": reaped})
    record_property("soak", report)
    assert crew.counts["killed"] >= 2 * SECONDS and report["evictions"] > pool.stat().pages


def settle(pool):
    """Assert that one reap settles everything, and that the audit is empty."""
    reaped, waiting = pool._attachment.reap()
    assert waiting == 0 and pool.audit() == []
    stat, segment = pool.stat(), pool._attachment.segment
    pages = stat.pages_by_state
    assert sum(pages.to_dict().values()) == stat.pages and pages.frozen == pages.table == stat.pins == 0
    assert [c.pid for c in stat.clients] == [os.getpid()]
    assert all(client.is_idle(segment.mem, slot) for slot in range(segment.slots))
    for record in pool.mappings():
        pool.forget(record.key)
    assert pool.audit() == []
    pages = pool.stat().pages_by_state
    assert pages.free + pages.node + pages.inode == stat.pages
    return reaped
