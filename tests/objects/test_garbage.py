"""Views of a pool and the pool itself in one garbage cycle: whatever the collector clears first, nothing is used after it."""

import subprocess
import sys

import pytest

PROGRAM = """
import gc, os, random, sys
import numpy
import foliocache

name, seed = sys.argv[1], int(sys.argv[2])
randomly = random.Random(seed)
gc.disable()


class Holder:
    pass


def many_folios(pool):
    page = pool.page_size
    return pool.mapping("many", 40 * page, "1", read=lambda offset, length: bytes(length), folio_size=page)


def without_objects(pool):
    mapping = many_folios(pool)
    few, many, private = mapping.window(0, 100), mapping.window(), mapping.window(writable="copy")
    return {
        "pool": pool,
        "attachment": pool._attachment,
        "mapping": mapping,
        "few": few,
        "many": many,
        "private": private,
        "view": memoryview(many),
        "array": numpy.frombuffer(few, "u1"),
        "pieces": mapping.pieces(),
    }


def parts():
    pool = foliocache.open(name, size="8MiB")
    if randomly.random() < 0.7:  # what the collector does not know keeps the attachment: then it is not in the cycle
        return without_objects(pool)
    mapping = many_folios(pool)
    window, private = mapping.window(), mapping.window(writable="copy")
    pool.put("small", numpy.arange(100))
    pool.put("one folio", numpy.arange(4_000))
    pool.put("window", numpy.arange(70_000))
    return {
        "pool": pool,
        "attachment": pool._attachment,
        "mapping": mapping,
        "table": window,
        "private": private,
        "lease": mapping.lease(0),
        "private lease": mapping.lease(0, writable="copy"),
        "view": memoryview(window),
        "array": pool.get("one folio"),
        "found": pool.get("window"),
        "found window": pool.get("window", writable="copy"),
        "objects": pool.objects,
        "pieces": mapping.pieces(),
    }


for _ in range(25):
    made = parts()
    names = list(made)
    for _ in range(randomly.randrange(3)):
        # The collector's list changes its order: what is reachable through a later object alone goes to the end.
        kept = [made[each] for each in randomly.sample(names, 4)]
        holder = Holder()
        holder.made, holder.kept = made, kept
        del made
        gc.collect()
        made = holder.made
        del kept, holder
    cycle = Holder()
    chosen = randomly.sample(names, randomly.randrange(2, len(names) + 1))
    cycle.itself, cycle.made = cycle, {each: made[each] for each in chosen}
    del made, cycle
    gc.collect()
    gc.collect()
pool = foliocache.open(name)
assert pool.audit() == []
assert pool.stat().pins == 0
print("sound")
"""


@pytest.mark.parametrize("seed", range(4))
def test_a_pool_and_its_views_in_one_garbage_cycle(pool_name, seed):
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM, pool_name, str(seed)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (answer.returncode, answer.stdout) == (0, "sound\n"), answer.stderr
