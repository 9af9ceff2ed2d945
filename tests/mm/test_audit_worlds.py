"""audit: of the same damage, the compiled and the interpreted core say the same, word for word."""

import random

import pytest
from test_audit import DAMAGES, Busy
from world import ME, compiled, interpreted

NIL = 0xFFFFFFFF
OTHER = 2
LOOKS = "audit", "census", "mappings", "held_locks"


@pytest.fixture(scope="module")
def clean():
    """A busy segment of each world, and its bytes."""
    pair = [Busy(compiled()), Busy(interpreted())]
    return pair, bytes(pair[0].segment.buffer)


@pytest.fixture
def pair(clean):
    """The two, as they were at first."""
    both, first = clean
    for busy in both:
        busy.segment.buffer[:] = first
    return both


def said(pair, look, *args):
    found = [repr(getattr(busy.segment.world.audit, look)(busy.segment.memory, *args)) for busy in pair]
    assert found[0] == found[1]
    return found[0]


def all_said(pair):
    return [said(pair, look) for look in LOOKS]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_of_each_damage(pair, damage):
    for busy in pair:
        damage(busy)
    all_said(pair)


class Damager:
    """Writes what may be there, though not in that place."""

    def __init__(self, pair, seed):
        self.pair, self.random = pair, random.Random(seed)
        self.segment, self.layout = pair[0].segment, pair[0].layout
        segment, layout = self.segment, self.layout
        self.used = [pfn for pfn in range(segment.pages) if segment.field(pfn, layout.F_TYPE)]
        self.objects = [
            (cache, number) for cache in range(layout.SLABS) for number in self.numbers(cache)
        ]  # fmt: skip

    def numbers(self, cache):
        found = self.segment.slab.next_of(cache, NIL)
        while found != NIL:
            yield found
            found = self.segment.slab.next_of(cache, found)

    def place(self):
        """The offset of some word: of a descriptor, an object, the header, a client, the index or the table."""
        segment, layout, choice = self.segment, self.layout, self.random.choice
        kind = self.random.randrange(8)
        if kind < 3:
            pfn = choice(self.used) if self.random.random() < 0.8 else self.random.randrange(segment.pages)
            return segment.at(pfn) + self.random.randrange(0, layout.FOLIO_SIZE, 4)
        if kind < 5:
            cache, number = choice(self.objects)
            size = (layout.NODE_SIZE, 80, 96)[cache]
            return segment.slab.at(cache, number) + self.random.randrange(0, size, 4)
        if kind == 5:
            return self.random.randrange(layout.LRU_LOCK, layout.SLAB_LOCK + layout.SLABS * layout.SLAB_STRIDE, 4)
        if kind == 6:
            start, count = choice(
                [(segment.shape["buckets"], segment.shape["nbuckets"]), (segment.shape["names"], segment.shape["nnames"])]
            )
            return start + 4 * self.random.randrange(count)
        words = [layout.CLIENT_STATE, layout.CLIENT_OP_SEQ, layout.CLIENT_UNNAMED]
        words += [layout.CLIENT_OPS + 4 * n for n in range(4)] + [layout.CLIENT_LEDGER + 4 * n for n in range(8)]
        return segment.client.slot(choice((ME, OTHER))) + choice(words)

    def value(self, old):
        layout, choice = self.layout, self.random.choice
        pfn = choice(self.used)
        return choice((
            0, 1, 2, NIL, old ^ 1, (old + 1) & NIL, (old - 1) & NIL, old | 1 << 31, old ^ 1 << self.random.randrange(32), pfn,
            pfn | layout.PIN_INTENT, pfn | layout.PIN_OWNED, self.random.randrange(1, 64) << 8 | self.random.randrange(6),
            choice(self.objects)[1], choice(self.objects)[1] + 1, self.segment.pages, self.random.randrange(70),
        ))  # fmt: skip

    def damage(self):
        at = self.place()
        value = self.value(self.segment.read(at))
        for busy in self.pair:
            busy.segment.write(at, value)
        return at


@pytest.mark.parametrize("seed", range(12))
def test_of_random_damage(pair, clean, seed):
    found = set()
    for trial in range(12):
        for busy in pair:
            busy.segment.buffer[:] = clean[1]
        damager = Damager(pair, f"{seed} {trial}")
        for _ in range(damager.random.choice((1, 1, 2, 4))):
            damager.damage()
        found.update(all_said(pair))
    assert len(found) > 10


@pytest.mark.parametrize("seed", range(4))
def test_of_folios_that_may_be_damaged(pair, clean, seed):
    for trial in range(6):
        for busy in pair:
            busy.segment.buffer[:] = clean[1]
        damager = Damager(pair, f"{seed} {trial} folio")
        at = damager.damage()
        pfn = (at - damager.segment.shape["memmap"]) // damager.layout.FOLIO_SIZE
        for each in {pfn if 0 <= pfn < damager.segment.pages else 0, *damager.random.sample(damager.used, 5)}:
            said(pair, "is_damaged", each)
