"""``fsck --repair``: damage of every kind, on a pool in use, is dropped, and nothing else goes wrong."""

import json
import random
import subprocess
import sys

import pytest
from units import is_cached, unit

import foliocache
from foliocache.mm import layout

PAGE = 4096
BIG = b"".join(bytes([n]) * PAGE for n in range(256)) * 2
SMALL = b"s" * 3000
FIELDS = range(0, layout.FOLIO_SIZE, 4)


def bytes_of(offset, length):
    return BIG[offset : offset + length]


@pytest.fixture
def mappings(pool_name):
    pool = foliocache.open(pool_name, size="4MiB", max_size="4MiB", page_size="4KiB", clients=8)
    small = [
        pool.mapping(f"small {n}", len(SMALL), read=lambda offset, length: SMALL[offset : offset + length]) for n in range(50)
    ]
    return pool, [pool.mapping("big", len(BIG), read=bytes_of), *small]


def read_all(mappings):
    for mapping in mappings:
        expected = BIG if mapping.size == len(BIG) else SMALL
        assert mapping.read_bytes(0, mapping.size) == expected


def damage(pool, rng):
    """Overwrite one word: of a descriptor, of a hash chain, or of a page of nodes or records."""
    segment = pool._attachment.segment
    memory, shape = segment.memory, segment.geometry

    def kind(pfn):
        return memory.peek32(shape["memmap"] + pfn * layout.FOLIO_SIZE + layout.F_TYPE) & layout.TYPE_MASK

    pfn = rng.randrange(shape["npages"])
    places = [
        shape["memmap"] + pfn * layout.FOLIO_SIZE + rng.choice(FIELDS),
        shape["buckets"] + 4 * rng.randrange(shape["nbuckets"]),
    ]
    objects = [pfn for pfn in range(shape["npages"]) if kind(pfn) in (layout.TYPE_NODE, layout.TYPE_INODE)]
    places.append(shape["data"] + PAGE * rng.choice(objects) + 4 * rng.randrange(PAGE // 4))
    memory.poke32(rng.choice(places), rng.choice([0, 1, 2, rng.getrandbits(32), layout.FROZEN, layout.FROZEN + 3]))


def test_whatever_is_damaged_is_dropped(mappings):
    pool, maps = mappings
    rng = random.Random(1)
    found = 0
    for _ in range(100):
        read_all(maps)
        assert pool.audit() == []
        for _ in range(3):
            damage(pool, rng)
        found += len(pool.audit())
        assert pool.repair() == []
    read_all(maps)
    assert pool.audit() == []
    assert found > 100


def test_a_page_in_use_stays_with_its_holder_and_goes_with_him(mappings):
    pool, maps = mappings
    lease = unit(maps[0], 3)
    with memoryview(lease) as view:
        content = bytes(view)
    shape = pool._attachment.segment.geometry
    pfn = int(repr(lease).split("pfn ")[1].rstrip(">"))
    count = shape["memmap"] + pfn * layout.FOLIO_SIZE
    pool._attachment.segment.memory.poke32(count, 7)
    assert [found.check for found in pool.audit()] == ["count"]
    assert pool.repair() == []
    assert not is_cached(maps[0], 3)
    assert bytes(lease) == content
    used = pool.stat().pages_by_state.file
    lease.release()
    assert pool.repair() == []
    assert pool.stat().pages_by_state.file < used
    read_all(maps)


def command(*arguments):
    return subprocess.run([sys.executable, "-m", "foliocache", *arguments], capture_output=True, text=True, timeout=60)


def test_the_command(mappings):
    pool, maps = mappings
    read_all(maps)
    clean = command("fsck", pool.name)
    assert (clean.returncode, "is clean" in clean.stdout) == (0, True), clean
    pool._attachment.segment.memory.poke32(layout.ALLOC_FREE, 1)
    assert command("fsck", pool.name).returncode == 1
    done = command("fsck", pool.name, "--repair", "--json")
    assert done.returncode == 0, done
    assert json.loads(done.stdout) == {"clean": True, "findings": [], "repaired": 1}
    assert command("fsck", pool.name).returncode == 0
    read_all(maps)
