"""Four processes, or more where there are more processors; a pool a quarter the size of the data; every byte checked; then
the audit is empty."""

import os

import pytest
from stress import Job

import foliocache

MIB = 1 << 20
SECONDS = float(os.environ.get("FOLIOCACHE_STRESS_SECONDS", "20"))
GROUPS = max(1, len(os.sched_getaffinity(0)) // 4)  # of four processes


@pytest.mark.timeout(SECONDS + 300)
def test_nothing_is_wrong_and_nothing_leaks(pool_name):
    pool = foliocache.open(pool_name, size=GROUPS * 16 * MIB)
    big = [GROUPS * size for size in (36_000_000, 12_345_678, 9_000_000, 4_000_000, 1_000_000, 300_000)]
    objects = list(enumerate(big + ([20_000] * 200 + [3_000] * 900) * GROUPS))
    assert sum(size for _, size in objects) >= 4 * pool.pool_bytes
    reads = Job(pool_name, objects, SECONDS, seed=int.from_bytes(os.urandom(4), "little")).run(workers=4 * GROUPS)
    stat = pool.stat()
    assert min(reads) > 0 and stat.counters.evictions > pool.stat().pages
    assert pool.audit() == [] and stat.pins == 0
    for record in pool.mappings():
        pool.forget(record.key)
    left = pool.stat().pages_by_state
    assert pool.audit() == []
    assert left.free + left.node + left.inode == stat.pages  # empty pages of nodes and records wait for their next use
