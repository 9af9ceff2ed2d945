"""The two worlds do the same: each of many random calls returns the same, and leaves the same bytes in the segment."""

import random

import pytest
from world import BYTES, ME, Segment, compiled, interpreted

NIL = 0xFFFFFFFF
OTHER = 2
SECOND = 1_000_000_000
PINS = 12  # words of the ledger that are used


class Pair:
    """A segment of each world. ``pair.call("module.function", ...)`` calls both, compares, and returns what they return."""

    def __init__(self, seed, pages=64, clients=4):
        self.random = random.Random(seed)
        self.one, self.two = Segment(compiled(), pages, clients=clients), Segment(interpreted(), pages, clients=clients)
        self.layout, self.pages, self.steps = self.one.layout, pages, 0
        self.compare("setup")

    def compare(self, what):
        if self.one.buffer != self.two.buffer:
            self.forgive_ticks()
        if self.one.buffer != self.two.buffer:
            at = next(n for n, (a, b) in enumerate(zip(self.one.buffer, self.two.buffer, strict=True)) if a != b)
            pytest.fail(f"after {self.steps} steps, {what} differs at {at}: {self.one.read(at & ~3)} {self.two.read(at & ~3)}")

    def forgive_ticks(self):
        """A tick of the clock may come between the two calls: then the folio was seen a tick later in the second world."""
        for pfn in range(self.pages):
            word, later = (segment.field(pfn, self.layout.F_QUEUE) for segment in (self.one, self.two))
            if later - word == 1 << self.layout.SEEN_SHIFT:
                self.two.set_field(pfn, self.layout.F_QUEUE, word)

    def call(self, name, *args):
        module, _, function = name.partition(".")
        self.steps += 1
        found = [getattr(getattr(segment, module), function)(*args) for segment in (self.one, self.two)]
        assert found[0] == found[1], f"step {self.steps}: {name}{args}"
        self.compare(f"{name}{args}")
        return found[0]

    def copied(self, name, *args):
        """As ``call``, of a function that fills a buffer. Return (result, content)."""
        module, _, function = name.partition(".")
        outs = [bytearray(self.layout.NAME_SIZE) for _ in range(2)]
        found = [getattr(getattr(s, module), function)(*args, out) for s, out in zip((self.one, self.two), outs, strict=True)]
        assert found[0] == found[1] and (outs[0] == outs[1] or found[0] in (self.layout.NAME_UNKNOWN, NIL)), f"{name}{args}"
        self.compare(f"{name}{args}")
        return found[0], bytes(outs[0])

    def write(self, at, value):
        for segment in (self.one, self.two):
            segment.write(at, value)

    def audit(self):
        found = [segment.findings() for segment in (self.one, self.two)]
        assert found[0] == found[1]
        for look in ("census", "mappings", "held_locks"):
            answers = [getattr(segment.world.audit, look)(segment.memory) for segment in (self.one, self.two)]
            assert answers[0] == answers[1], look
        return found[0]

    def walk(self, steps, count):
        """Take so many steps, each one of these by its weight."""
        names = [name for name, weight in steps.items() for _ in range(weight)]
        for _ in range(count):
            getattr(self, f"_{self.random.choice(names)}")()

    def some(self, things, default=None):
        things = sorted(things)
        return self.random.choice(things) if things else default


class Cache(Pair):
    """Objects, of which folios are filled, used, pinned, mapped and evicted; names."""

    def __init__(self, seed, pages=64):
        super().__init__(seed, pages)
        self.pins, self.fills, self.tables, self.inos, self.asked = {}, {}, {}, {}, {}
        self.clock = 100

    @property
    def word(self):
        """A word of the ledger that is free."""
        return self.some(set(range(PINS)) - set(self.pins) - set(self.fills) - set(self.tables))

    def key(self):
        return self.random.randrange(1, 9)

    def _open(self):
        key = self.key()
        order = key % 3
        count = (1, 5, 64, 65, 200, 5000)[key % 6]
        height = self.one.world.xarray.height_for(count)
        text = b"key %d" % key
        ino = self.call(
            "filemap.open", ME, key, key + 1, key % 5, (count * 4096 << order) - key, order, height, text, 3, len(text) - 3
        )
        if ino:
            self.inos[key] = ino, order, count

    def _add(self):
        n, key = self.word, self.some(self.inos)
        if n is None or key is None:
            return
        ino, order, count = self.inos[key]
        span = self.random.choice((0, 0, 0, 1, 2, 4))
        index = self.random.choice((0, 1, 2, 3, 4, 7, 8, 15, 16, 31, 63, 64, 127, 4999, count - 1))
        if index >= count or order + span > self.layout.MAX_ORDER:
            return
        size = (count * 4096 << order) - key if self.random.random() < 0.7 else BYTES
        found = self.call("filemap.add", ME, n, ino, index, order, span, size)
        if found & self.layout.GRAB_NOMEM == self.layout.GRAB_NOMEM or found >> 34:
            return
        pfn = found & NIL
        if self.one.read(self.one.client.pin(ME, n)) == pfn | self.layout.PIN_OWNED:
            (self.fills if found & self.layout.GRAB_ADDED else self.pins)[n] = pfn

    def _finish(self):
        n = self.some(self.fills)
        if n is not None:
            self.call("filemap.finish_fill", ME, self.fills[n])
            self.pins[n] = self.fills.pop(n)

    def _withdraw(self):
        n = self.some(self.fills)
        if n is not None:
            self.call("filemap.withdraw", ME, self.fills[n], self.random.random() < 0.5)
            self.pins[n] = self.fills.pop(n)

    def _release(self):
        n = self.some(self.pins)
        if n is not None:
            self.call("folio.release", ME, n, self.pins.pop(n))

    def _look_up(self):
        n, key = self.word, self.some(self.inos)
        if n is None or key is None:
            return
        ino, _, count = self.inos[key]
        height = self.one.world.xarray.height_for(count)
        index = self.random.randrange(min(count, 20))
        found = self.call("filemap.lookup", ME, n, ino, self.one.mapping.head(ino), self.one.mapping.mark(ino), height, index)
        if found != NIL:
            self.pins[n] = found
            self.call("flags.mark_referenced", self.one.at(found), self.one.flags.load(self.one.at(found)))

    def _use(self):
        pfn = self.some(set(self.pins.values()))
        if pfn is not None:
            self.call("flags.mark_referenced", self.one.at(pfn), 0)

    def _invalidate(self):
        key = self.key()
        self.call("filemap.invalidate", ME, key, key + 1, self.random.choice((0, 3, 63, 4999)))

    def _forget(self):
        self.call("filemap.forget", ME, self.key() % 5, 0)

    def _resolve(self):
        key = self.key()
        self.call("filemap.resolve", ME, key, key + 1)
        self.call("mapping.find_key", ME, key % 5)

    def _evict(self):
        self.call("trim.evict", ME, self.random.choice((0, 1, 2, 5, 9)))

    def _evict_chunk(self):
        self.call("trim.evict_chunk", ME)

    def _give_back(self):
        self.call("trim.give_back", ME, self.random.choice((0, 15, 16, 40, 64)))

    def _limit(self):
        self.call("page_alloc.set_limit", ME, self.random.choice((self.pages, self.pages, self.pages // 2)))

    def _back(self):
        self.call("page_alloc.back", ME, self.random.choice((0, 0, 1, 4)))
        if self.one.client.intents(ME):  # a hole that is named still
            self._settle()

    def _settle(self):
        for _ in range(self.one.client.intents(ME)):
            self.call("client.defer", ME, PINS + 1)
            self.call("reap.resolve_intents", ME, ME)

    def _table(self):
        n = self.word
        if n is not None:
            table = self.call("pagetable.make", ME, n, self.random.choice((1, 3, 1024, 1025)))
            if table != NIL:
                self.tables[n] = table

    def _move(self):
        n, table = self.some(self.pins), self.some(set(self.tables.values()))
        if n is None or table is None:
            return
        entry = self.random.randrange(4)
        if entry in [e for e in range(4) if self.one.read(self.one.shape["data"] + table * 4096 + e * 4)]:
            self.call("pagetable.gup_fast", 3, table, entry)
            self.call("pagetable.unmap", 3, table, entry)
            for pfn in range(self.pages):
                self.call("folio.put", 3, pfn) if pfn | self.layout.PIN_INTENT == self.one.read(
                    self.one.client.word_at(3, 0)
                ) else None
        else:
            self.call("pagetable.move", ME, n, table, entry, self.pins.pop(n))

    def _drop_table(self):
        n = self.some(self.tables)
        if n is not None:
            self.call("pagetable.release", ME, n, self.tables.pop(n))

    # Names.

    def _ask(self):
        self.clock += 1
        key = self.random.randrange(40)
        text = b"name %d" % key
        id = self.call(
            "names.begin", ME, key % 7, key, key + 1, self.clock * SECOND, (self.clock - key % 20) * SECOND,
            text.ljust(168, b"."), len(text),
        )  # fmt: skip
        if id > self.layout.NAME_BUSY:
            self.asked[id] = self.clock

    def _answer(self):
        id = self.some(self.asked)
        if id is None:
            return
        asked = self.asked.pop(id) - self.random.randrange(2)
        lengths = self.random.choice((0, 1, 8, 100)), self.random.choice((0, 3, 156))
        state = self.random.choice((self.layout.NAME_PRESENT, self.layout.NAME_ABSENT))
        state |= lengths[0] << self.layout.NAME_VERSION_SHIFT | lengths[1] << self.layout.NAME_EXTRA_SHIFT
        data = bytes(range(sum(lengths)))
        data += bytes(-len(data) % 8)
        self.call("names.answer", ME, id, asked * SECOND, state, 77, data, len(data))

    def _take_back(self):
        id = self.some(self.asked)
        if id is not None:
            self.call("names.withdraw", ME, id, self.asked.pop(id) * SECOND)

    def _name(self):
        key = self.random.randrange(40)
        self.copied("names.lookup", ME, key % 7, key, key + 1)

    def _join(self):
        key = self.random.randrange(40)
        self.call("names.join", ME, key % 7, key, key + 1)

    def _names(self):
        n = 0
        while (n := self.copied("names.next_used", ME, n)[0]) != NIL:
            n += 1

    def _forget_name(self):
        self.call("names.forget", ME, self.random.randrange(7))

    def _repair(self):
        self.call("reap.repair", ME, self.random.randrange(6))

    def _sweep(self):
        self.call("reap.sweep", ME)

    def _audit(self):
        assert self.audit() == []


FILES = {
    "open": 3, "add": 8, "finish": 7, "withdraw": 1, "release": 6, "look_up": 5, "use": 2, "invalidate": 1, "forget": 1,
    "resolve": 1, "evict": 1, "evict_chunk": 1, "give_back": 1, "limit": 1, "back": 1, "table": 1, "move": 1, "drop_table": 1,
    "repair": 1,
}  # fmt: skip
NAMES = {"ask": 8, "answer": 6, "take_back": 1, "name": 6, "join": 2, "names": 1, "forget_name": 1, "repair": 1}


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("pages", [64, 24])
def test_a_cache(seed, pages):
    cache = Cache(seed, pages)
    cache.walk({"open": 1}, 8)
    cache.walk(FILES, 120)
    cache._sweep()
    assert cache.audit() == []


@pytest.mark.parametrize("seed", range(4))
def test_names(seed):
    cache = Cache(seed, pages=256)
    cache.walk(NAMES, 120)
    cache._sweep()
    assert cache.audit() == []


class Memory(Pair):
    """Blocks of pages, objects of slabs, quarantines and holes."""

    def __init__(self, seed, pages=64):
        super().__init__(seed, pages)
        self.blocks, self.objects, self.quarantined = {}, [], set()

    def _alloc(self, name="page_alloc.alloc"):
        order = self.random.choice((0, 0, 0, 1, 1, 2, 3, 4, 5))
        pfn = self.call(name, ME, order)
        if pfn != NIL:
            self.blocks[pfn] = order
            self.call("client.retract", ME, pfn)

    def _reclaim(self):
        self._alloc(self.random.choice(("vmscan.alloc_folio", "vmscan.try_alloc")))

    def _chunks(self):
        pfn = self.call("page_alloc.alloc_chunks", ME, self.random.choice((0, 15, 16, 31, 32, 64)))
        if pfn != NIL:
            self.blocks[pfn] = self.call("page_type.order", pfn)
            self.call("client.retract", ME, pfn)

    def _free(self):
        pfn = self.some(self.blocks)
        if pfn is not None:
            self.call("client.announce", ME, pfn)
            assert self.call("page_alloc.free", ME, pfn, self.blocks.pop(pfn))
            self.call("client.retract", ME, pfn)

    def _quarantine(self):
        pfn = self.random.randrange(self.pages)
        if self.call("page_alloc.quarantine", ME, pfn) == self.layout.QUARANTINE_ON:
            self.quarantined.add(pfn)

    def _end_quarantine(self):
        pfn = self.some(self.quarantined) if self.random.random() < 0.8 else self.random.randrange(self.pages)
        if pfn is not None:
            self.quarantined.discard(pfn)
            self.call("page_alloc.end_quarantine", ME, pfn)

    def _back(self):
        self.call("page_alloc.back", ME, self.random.choice((0, 1, 4, 5)))

    def _limit(self):
        self.call("page_alloc.set_limit", ME, self.random.choice((64, 48, 40, 16, 100)))

    def _give_back(self):
        self.call("trim.give_back", ME, self.random.choice((15, 16, 32, 64)))

    def _repair(self):
        self.call("reap.repair", ME, self.random.choice((self.layout.REPAIR_LISTS, self.layout.REPAIR_SLABS)))

    def _object(self):
        cache = self.random.randrange(self.layout.SLABS)
        number = self.call("slab.alloc", ME, cache, self.random.randrange(1 << 40))
        if number != NIL:
            self.objects.append((cache, number))

    def _drop_object(self):
        if self.objects:
            self.call("slab.free", ME, *self.objects.pop(self.random.randrange(len(self.objects))))

    def _shrink(self):
        self.call("client.op_begin", ME)
        self.call("slab.shrink", ME)
        self.call("client.op_end", ME)

    def _ask(self):
        cache, number = self.random.randrange(self.layout.SLABS), self.random.randrange(self.pages + 2 << 6)
        self.call("slab.next_of", cache, number if number < self.pages << 6 else NIL)
        if self.call("slab.at", cache, number):
            self.call("slab.is_used", cache, number)
        self.call("slab.holds", cache, number)

    def _full(self):
        """The machine has no memory, for a while."""
        if self.random.random() < 0.5:
            self.call("backing.is_backed", self.random.randrange(self.pages - 16), 4)


MEMORY = {
    "alloc": 6, "reclaim": 1, "chunks": 1, "free": 6, "quarantine": 2, "end_quarantine": 2, "back": 2, "limit": 1,
    "give_back": 2, "repair": 1, "object": 6, "drop_object": 5, "shrink": 1, "ask": 3, "full": 1,
}  # fmt: skip


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("pages", [64, 100])
def test_memory(seed, pages):
    memory = Memory(seed, pages)
    memory.walk(MEMORY, 150)
    memory.audit()


class Policy(Pair):
    """The queues: folios come, are used, and are evicted or kept; some come again."""

    def __init__(self, seed, pages=64):
        super().__init__(seed, pages)
        self.files, self.clock = set(), 0

    def _come(self):
        order = self.random.choice((0, 0, 0, 1))
        pfn = self.call("page_alloc.alloc", ME, order)
        if pfn == NIL:
            return self._evict()
        span = self.random.randrange(order + 1)
        self.clock += 1
        index = (self.clock if self.random.random() < 0.5 else self.random.randrange(70)) << span
        length = (4096 << order) - self.random.choice((0, 1, 4096 * order))
        self.call("folio.prepare", pfn, self.layout.TYPE_FILE, order, span, 5, index, length)
        for segment in (self.one, self.two):
            segment.write64(segment.at(pfn) + segment.layout.F_DIGEST, 99)
        self.write(self.one.at(pfn) + self.layout.F_ATTACHED, 1)
        self.call("page_ref.init", self.one.at(pfn), 1)
        self.call("client.retract", ME, pfn)
        self.call("lru.insert", ME, pfn)
        self.files.add(pfn)
        return None

    def _evict(self):
        pfn = self.call("lru.isolate", ME, self.random.random() < 0.1)
        if pfn == NIL:
            return
        if self.random.random() < 0.15:
            self.call("lru.add", ME, pfn, self.random.choice((1, 2, 3)))
            self.call("folio.put", ME, pfn)
        else:
            assert self.call("page_ref.freeze", self.one.at(pfn), 2)
            self.write(self.one.at(pfn) + self.layout.F_ATTACHED, 0)
            self.call("folio.destroy", ME, pfn)
            self.call("client.retract", ME, pfn)
            self.files.discard(pfn)

    def _use(self):
        for _ in range(4):
            pfn = self.some(self.files)
            if pfn is not None:
                self.call("flags.mark_referenced", self.one.at(pfn), 0)

    def _drop(self):
        pfn = self.some(self.files)
        if pfn is not None:
            self.call("lru.remove", ME, pfn)
            if self.random.random() < 0.7:
                self.call("lru.add", ME, pfn, self.random.choice((1, 2, 3)))

    def _learn(self):
        """A word of what is learnt has another value, as after another past."""
        at = self.random.randrange(self.layout.LRU_FULL, self.layout.LRU_END, 4)
        self.write(at, self.random.choice((0, 1, 2, 7, 64, 640, 1024, 100000)))

    def _repair(self):
        self.call("lru.repair", ME)

    def _numbers(self):
        for queue in range(self.layout.QUEUES):
            self.call("lru.pages", queue)
        self.call("lru.is_queued", self.random.randrange(self.pages))


POLICY = {"come": 10, "evict": 6, "use": 6, "drop": 1, "learn": 2, "numbers": 1}


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("pages", [64, 20])
def test_policy(seed, pages):
    policy = Policy(seed, pages)
    policy.walk(POLICY, 160)
    policy._repair()
    policy.walk(POLICY, 40)


# Damage, and death.

FIELDS = (
    "F_REF", "F_TYPE", "F_FLAGS", "F_BUDDY", "F_QUEUE", "F_ATTACHED", "F_INO", "F_INDEX", "F_USED", "F_FREE", "F_NEXT",
    "F_PREV", "F_LENGTH", "F_OWNER",
)  # fmt: skip


class Damaged(Cache):
    def _damage(self):
        """A word has another value: of a descriptor, of the index of names or mappings, of an object, of the lists."""
        layout, shape = self.layout, self.one.shape
        kind = self.random.randrange(6)
        if kind < 3:
            at = self.one.at(self.random.randrange(self.pages)) + getattr(layout, self.random.choice(FIELDS))
        elif kind == 3:
            table, count = self.random.choice((("names", shape["nnames"]), ("buckets", shape["nbuckets"])))
            at = shape[table] + 4 * self.random.randrange(count)
        elif kind == 4:
            pages = [pfn for pfn in range(self.pages) if self.one.slab.is_page(pfn)]
            at = shape["data"] + self.some(pages, 0) * 4096 + 4 * self.random.randrange(1024)
        else:
            at = layout.ALLOC_LISTS + 4 * self.random.randrange(20)
        value = self.random.choice((0, 1, 2, NIL, 1 << 31, self.one.read(at) ^ 1 << self.random.randrange(32)))
        self.write(at, value)

    def repaired(self):
        for part in (0, 2, 5, 3, 4, 1, 0):
            self.call("reap.repair", ME, part)


@pytest.mark.parametrize("seed", range(40))
def test_damage(seed):
    """The audit says the same of it, and the repairs make the same of it."""
    cache = Damaged(seed, 40)
    cache.walk({"open": 1}, 6)
    cache.walk({**FILES, "ask": 2, "answer": 2}, 40)
    for _ in range(1 + seed % 3):
        cache._damage()
    cache.audit()
    cache.repaired()
    cache.audit()


@pytest.mark.parametrize("seed", range(20))
def test_death(seed):
    """A client has died with pins, intents and a lock: what the reaper makes of it."""
    cache = Cache(seed, 40)
    one, layout, choose = cache.one, cache.layout, cache.random
    cache.walk({"open": 1}, 6)
    cache.walk({**FILES, "ask": 2, "answer": 1}, 50)
    for segment in (one, cache.two):
        segment.client.attach(OTHER)
    for n, pfn in enumerate(sorted(set(cache.pins.values()))):
        cache.call("page_ref.get", one.at(pfn))
        cache.call("client.hold", OTHER, n, pfn)
    cache.call("client.op_begin", OTHER)
    for _ in range(choose.randrange(4)):
        pfn = choose.randrange(cache.pages)
        cache.call("client.announce", OTHER, pfn)
        if not one.count(pfn) & 1 << 31 and choose.random() < 0.5:
            cache.call("page_ref.get", one.at(pfn))
    if choose.random() < 0.7:
        words = one.world.audit.lock_words()
        cache.call("robust_lock.lock", choose.choice(words), OTHER)
    cache.call("client.set_state", OTHER, layout.SLOT_DEAD)
    cache.call("client.is_alive", OTHER)
    cache.call("reap.locks", ME, OTHER)
    cache.call("reap.pins", ME, OTHER)
    waiting = cache.call("reap.resolve_intents", ME, OTHER)
    if waiting:
        for segment in (one, cache.two):
            segment.client.attach(3)
            segment.client.set_state(3, layout.SLOT_DEAD)
        cache.call("reap.hand_over_unresolved", OTHER, 3)
    cache.call("reap.sweep", ME)
    if cache.call("client.is_idle", OTHER):
        cache.call("client.detach", OTHER)
    cache.audit()
