"""Reads of a cached file through fsspec."""

from __future__ import annotations

from typing import Any

from benchmarks.common import loops
from benchmarks.common.measure import Found, interleave, per_op, record
from benchmarks.common.plan import Plan
from benchmarks.common.pools import VALUE, new_pool
from benchmarks.common.stub import PATH, MemoryStub
from foliocache.adapters.fsspec import FolioFileSystem


def fsspec(plan: Plan) -> list[Found]:
    """64 KiB reads of a cached file: ``folio::`` against fsspec's own blockcache, over a stub in memory."""
    target = MemoryStub(bytes(range(256)) * (plan.values * VALUE // 256))
    numbers = loops.order(plan.values, plan.hits // 8)
    with new_pool(2 * plan.values * VALUE) as pool:
        folio = FolioFileSystem(fs=target, name=pool.name, check_files=False, trust_info=True)
        ours, theirs = folio.open(PATH), target.open(PATH, cache_type="blockcache", cache_options={"maxblocks": 1024})
        cases = {
            "blockcache": loops.file_reads(theirs, VALUE, numbers),
            "read": loops.file_reads(ours, VALUE, numbers),
            "file.lease": loops.file_leases(ours, VALUE, numbers),
            "fs.lease": _path_leases(folio, PATH, numbers),
        }
        took = interleave({name: per_op(loop, len(numbers)) for name, loop in cases.items()}, plan.rounds)
    return [
        record(
            "fsspec: read of 64 KiB", took["read"], "ns", against="blockcache", baseline=took["blockcache"], budget="<= 1.2"
        ),
        record(
            "fsspec: file.lease", took["file.lease"], "ns", against="blockcache", baseline=took["blockcache"], budget=">= 5"
        ),
        record("fsspec: fs.lease by path", took["fs.lease"], "ns", against="blockcache", baseline=took["blockcache"]),
    ]


def _path_leases(fs: Any, path: str, numbers: list[int]) -> loops.Loop:
    def loop() -> int:
        for n in numbers:
            fs.lease(path, n * VALUE, VALUE)[0]
        return len(numbers)

    return loop
