"""A pool whose tables are damaged while it is in use: clear errors or misses, but no crash and no endless loop.

The damage is done to the tables, to the descriptors and to whole pages of nodes and records, word by word, with values likely
to do harm: random ones, small ones, ends of ranges, neighbours of what was there. Locks are left out: what a lock without a
holder does to its waiters concerns liveness, not bounds.
"""

import subprocess
import sys

import pytest

from foliocache.mm import layout

VICTIM = """
import random, sys
import foliocache
from test_damage import damage

name, seed = sys.argv[1], int(sys.argv[2])
rng = random.Random(seed)
pool = foliocache.open(name, size="2MiB", max_size="2MiB", page_size="4KiB", clients=4, fill_timeout=0.01)
sizes = [100_000, 2_000_000, 5_000, 3_000_000] + [3_000] * 60
mappings = [pool.mapping(str(i), size, "v", lambda offset, length: bytes(length)) for i, size in enumerate(sizes)]
held = []

def work(steps):
    for _ in range(steps):
        mapping = rng.choice(mappings)
        offset = rng.randrange(mapping.size)
        try:
            held.append(mapping.read(offset, rng.choice((10, 5_000, 50_000))))
            if rng.random() < 0.05:
                mapping.invalidate()
            if rng.random() < 0.05:
                held.append(mapping.window(offset, 20_000))
        except (foliocache.FoliocacheError, MemoryError):
            pass
        if len(held) > 30:
            held.pop(rng.randrange(len(held)))

work(200)
for round in range(20):
    damage(pool._attachment.segment, rng, rng.choice((1, 3, 30)))
    work(100)
pool.audit(), pool.mappings(), pool.stat()
print("survived")
"""


def targets(segment, rng):
    """Return an offset to damage: anywhere except in the identity, in locks, and in user data."""
    shape = segment.geometry
    page = 1 << shape["page_shift"]
    where = rng.choice(("lists", "buckets", "ghosts", "names", "memmap", "memmap", "objects", "objects"))
    if where == "lists":
        return rng.randrange(layout.ALLOC_LOCK, layout.TREE_LOCK, 4)
    if where == "objects":
        descriptors = ((shape["memmap"] + n * layout.FOLIO_SIZE, n) for n in range(shape["npages"]))
        kinds = [(segment.memory.peek32(at + layout.F_TYPE), n) for at, n in descriptors]
        pages = [n for kind, n in kinds if kind & layout.TYPE_MASK not in (layout.TYPE_NONE, layout.TYPE_FILE)] or [0]
        return shape["data"] + rng.choice(pages) * page + rng.randrange(0, page, 4)
    tables = {"buckets": shape["nbuckets"] * 4, "ghosts": shape["nghosts"] * 4, "names": shape["nnames"] * 4}
    tables["memmap"] = shape["npages"] * layout.FOLIO_SIZE
    return shape[where] + rng.randrange(0, tables[where], 4)


def locks():
    slabs = (layout.SLAB_LOCK + cache * layout.SLAB_STRIDE for cache in range(layout.SLABS))
    return {layout.ALLOC_LOCK, layout.LRU_LOCK, layout.TABLE_LOCK, layout.NAMES_LOCK, *slabs}


def damage(segment, rng, words):
    memory, pages = segment.memory, segment.geometry["npages"]
    for _ in range(words):
        at = targets(segment, rng)
        if at in locks():
            continue
        old = memory.peek32(at)
        new = (
            rng.getrandbits(32),
            rng.randrange(pages + 2),
            0,
            0xFFFFFFFF,
            old + 1,
            old - 1,
            old ^ 1,
            rng.randrange(64),
            pages << 1,
        )
        memory.poke32(at, rng.choice(new) & 0xFFFFFFFF)


@pytest.mark.parametrize("seed", range(12))
def test_damaged_tables_neither_crash_nor_hang(pool_name, seed, request):
    child = subprocess.run(
        [sys.executable, "-c", VICTIM, pool_name, str(seed)],
        capture_output=True, text=True, check=False, timeout=120, cwd=request.path.parent,
    )  # fmt: skip
    assert child.returncode == 0 and child.stdout == "survived\n", f"exit {child.returncode}\n{child.stderr[-3000:]}"
