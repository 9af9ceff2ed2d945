"""slab: its bounds, what is damaged, locks that are refused; and in which order a page comes and goes."""

import pytest
from calls import Calls
from test_slab import CACHES, FREE, FROZEN, NIL, Cache
from world import ME, Segment, World, interpreted

OTHER = 2


@pytest.fixture(params=CACHES)
def cache(request):
    """A cache of the interpreted core, whose calls can be replaced."""
    return Cache(Segment(interpreted()), CACHES[request.param])


@pytest.fixture(scope="module")
def impatient():
    return World("impatient slabs", {"LOCK_PATIENCE_NS": 0, "LOCK_SPINS": 0})


@pytest.fixture(params=CACHES)
def locked(request, impatient):
    """A cache with an object, whose lock another client holds."""
    cache = Cache(Segment(impatient), CACHES[request.param])
    cache.object = cache.alloc()
    cache.segment.client.attach(OTHER)
    cache.segment.robust_lock.lock(lock_of(cache), OTHER)
    return cache


@pytest.fixture
def calls(cache, monkeypatch):
    return Calls(cache.segment, monkeypatch)


def lock_of(cache):
    return cache.segment.layout.SLAB_LOCK + cache.number * cache.segment.layout.SLAB_STRIDE


def is_broken(cache):
    return bool(cache.segment.read(lock_of(cache)) & cache.segment.layout.LOCK_BROKEN)


def page_of(cache, number):
    return cache.segment.slab.pfn_of(number)


def test_without_the_lock_nothing_changes(locked):
    before = bytes(locked.segment.buffer[lock_of(locked) : lock_of(locked) + locked.segment.layout.SLAB_STRIDE])
    used = locked.word(locked.object, NEXT := 4)
    assert locked.alloc() == NIL
    assert locked.segment.slab.free(ME, locked.number, locked.object) is False
    assert locked.segment.slab._retire(ME, locked.number) == NIL
    assert locked.word(locked.object, NEXT) == used
    changed = bytes(locked.segment.buffer[lock_of(locked) : lock_of(locked) + locked.segment.layout.SLAB_STRIDE])
    assert changed[4:] == before[4:], "but for the lock, on which ME has slept"
    assert locked.segment.robust_lock.owner(lock_of(locked)) == OTHER
    assert locked.segment.client.intents(ME) == 0


def test_a_repair_waits_for_the_lock(locked, monkeypatch):
    monkeypatch.setattr(locked.segment.world.slab, "rebuild", lambda *args: pytest.fail("it is rebuilt"))
    locked.segment.slab.repair(ME, locked.number)
    assert locked.segment.robust_lock.owner(lock_of(locked)) == OTHER


DAMAGES = {
    "no free object": lambda c, pfn, number: c.segment.set_field(pfn, c.segment.layout.F_FREE, 0),
    "one beyond the page": lambda c, pfn, number: c.segment.set_field(pfn, c.segment.layout.F_FREE, c.per_page + 1),
    "a page of a file": lambda c, pfn, number: c.segment.write64(c.segment.at(pfn) + c.segment.layout.F_INO, 7),
    "a page without memory": lambda c, pfn, number: c.segment.backing.unmark(pfn & ~15, 4),
    "an object in use": lambda c, pfn, number: c.segment.write(c.at(number) + 4, 0),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_page_gives_no_object_and_is_repaired(cache, damage):
    """The caller gets none, and the next one rebuilds."""
    kept, number = cache.alloc(), cache.alloc()
    cache.free(number)
    pfn = page_of(cache, number)
    DAMAGES[damage](cache, pfn, number)
    start = cache.segment.shape["data"] + (pfn << 12)
    before = bytes(cache.segment.buffer[start : start + 4096])
    assert cache.alloc() == NIL
    assert bytes(cache.segment.buffer[start : start + 4096]) == before and is_broken(cache)
    assert kept != number
    if "memory" not in damage:  # there are more such pages then
        assert cache.alloc() != NIL
        assert not is_broken(cache)


CHAINS = {
    "begins beyond the page": lambda c, pfn, links: c.segment.set_field(pfn, c.segment.layout.F_FREE, c.per_page + 1),
    "begins behind its first": lambda c, pfn, links: c.segment.set_field(pfn, c.segment.layout.F_FREE, 3),
    "is not there": lambda c, pfn, links: c.segment.set_field(pfn, c.segment.layout.F_FREE, 0),
    "leads beyond the page": lambda c, pfn, links: c.segment.write(links[2], FREE | c.per_page + 1),
    "ends early": lambda c, pfn, links: c.segment.write(links[2], FREE),
    "goes in a circle": lambda c, pfn, links: c.segment.write(links[-1], FREE | 2),
    "leads to an object in use": lambda c, pfn, links: c.segment.write(links[-1], FREE | 1),
    "has an object in use, and ends": lambda c, pfn, links: c.segment.write(links[2], 0),
    "has an object in use": lambda c, pfn, links: c.segment.write(links[2], 4),
    "is shorter than it should be": lambda c, pfn, links: c.segment.set_field(pfn, c.segment.layout.F_USED, 0),
    "is longer than it should be": lambda c, pfn, links: c.segment.set_field(pfn, c.segment.layout.F_USED, 2),
    "of more objects than a page has": lambda c, pfn, links: c.segment.set_field(pfn, c.segment.layout.F_USED, NIL),
    "goes in a circle of more objects than a page has": lambda c, pfn, links: (
        c.segment.set_field(pfn, c.segment.layout.F_USED, NIL),
        c.segment.write(links[-1], FREE | 2),
    ),
    "of a page of a file": lambda c, pfn, links: c.segment.write64(c.segment.at(pfn) + c.segment.layout.F_INO, 7),
}


@pytest.mark.parametrize("damage", CHAINS)
def test_which_chains_have_the_free_objects(cache, damage):
    """One object is in use, the first of its page. A repair mends what the page's owner can."""
    pfn = page_of(cache, cache.alloc())
    start = cache.segment.shape["data"] + (pfn << 12)
    links = [start + n * cache.size + cache.segment.layout.OBJECT_NEXT for n in range(cache.per_page)]
    assert cache.segment.slab.is_chained(cache.number, pfn)
    CHAINS[damage](cache, pfn, links)
    assert not cache.segment.slab.is_chained(cache.number, pfn)
    cache.segment.write64(cache.segment.at(pfn) + cache.segment.layout.F_INO, 0)
    cache.segment.slab.repair(ME, cache.number)
    assert cache.segment.slab.is_chained(cache.number, pfn)


def test_a_full_page_has_an_empty_chain(cache):
    numbers = [cache.alloc() for _ in range(cache.per_page)]
    pfn = page_of(cache, numbers[0])
    assert cache.segment.slab.is_chained(cache.number, pfn)
    cache.segment.set_field(pfn, cache.segment.layout.F_FREE, 1 << 25)
    assert not cache.segment.slab.is_chained(cache.number, pfn)


def test_no_memory_is_no_damage(cache):
    while cache.segment.page_alloc.alloc(ME, 0) != NIL:
        cache.segment.client.retract(ME, NIL >> 2)
    assert cache.alloc() == NIL
    assert not is_broken(cache)


def test_an_object_of_another_page_is_not_freed(cache):
    number = cache.alloc()
    pfn = page_of(cache, number)
    cache.segment.write64(cache.segment.at(pfn) + cache.segment.layout.F_INO, 7)
    word = cache.word(number, 4)
    cache.free(number)
    assert cache.word(number, 4) == word and cache.objects() == 1
    cache.segment.write64(cache.segment.at(pfn) + cache.segment.layout.F_INO, 0)


def test_what_is_in_use(cache):
    number = cache.alloc()
    assert cache.segment.slab.is_used(cache.number, number)
    cache.segment.page_type.set(page_of(cache, number), cache.segment.layout.TYPE_FILE, 0, 0)
    assert not cache.segment.slab.is_used(cache.number, number)


@pytest.mark.parametrize("beyond", [0, 1, 1 << 20])
def test_numbers_beyond_the_segment(cache, beyond):
    number = (cache.segment.pages + beyond) << 12 - cache.segment.layout.OBJECT_SHIFT
    assert cache.at(number) == 0
    assert not cache.segment.slab.holds(cache.number, number)


def test_numbers_of_a_page_without_memory(cache):
    number = cache.alloc()
    assert cache.at(number) and cache.segment.slab.holds(cache.number, number)
    cache.segment.backing.unmark(page_of(cache, number) & ~15, 4)
    assert cache.at(number) == 0 and not cache.segment.slab.holds(cache.number, number)


def test_which_pages_are_of_objects(cache):
    segment, layout = cache.segment, cache.segment.layout
    pfn = segment.new_file()
    found = set()
    for name in ("TYPE_NONE", "TYPE_FILE", "TYPE_NODE", "TYPE_INODE", "TYPE_NAME", "TYPE_TABLE"):
        segment.page_type.set(pfn, getattr(layout, name), 0, 0)
        found.update([name] if segment.slab.is_page(pfn) else [])
    assert found == {"TYPE_NODE", "TYPE_INODE", "TYPE_NAME"}
    segment.page_type.set(pfn, layout.TYPE_NODE, 0, 0)
    segment.write64(segment.at(pfn) + layout.F_INO, 7)
    assert not segment.slab.is_page(pfn)


def test_rebuild_looks_at_the_last_page(cache):
    """And at no frozen one; what is impossible in the type of a page is written again."""
    segment, layout = cache.segment, cache.segment.layout
    taken = [segment.page_alloc.alloc(ME, 0) for _ in range(segment.pages - 1)]
    number = cache.alloc()
    pfn = page_of(cache, number)
    assert pfn == segment.pages - 1 and len(taken) == pfn
    segment.set_field(pfn, layout.F_TYPE, segment.field(pfn, layout.F_TYPE) | layout.ORDER_MASK << layout.ORDER_SHIFT)
    segment.slab.rebuild(cache.number)
    assert (cache.objects(), cache.pages(), cache.partial()) == (1, 1, [pfn])
    assert segment.field(pfn, layout.F_TYPE) == cache.type
    assert segment.page_ref.freeze(segment.at(pfn), 1)
    segment.slab.rebuild(cache.number)
    assert (cache.objects(), cache.pages(), cache.partial()) == (0, 0, [])


def test_next_of_ends_with_the_last_page(cache):
    segment = cache.segment
    for _ in range(segment.pages - 1):
        segment.page_alloc.alloc(ME, 0)
    number = cache.alloc()
    assert page_of(cache, number) == segment.pages - 1 and cache.walk() == [number]


def test_repair_under_the_lock(cache, calls):
    calls.replace("slab.rebuild", (), lambda: cache.segment.robust_lock.owner(lock_of(cache)))
    cache.segment.slab.repair(ME, cache.number)
    assert [(args, owner) for *_, args, owner in calls.made] == [((cache.number,), ME)]
    assert cache.segment.robust_lock.owner(lock_of(cache)) == NIL


def test_the_lock_of_a_dead_client_is_taken_over_and_what_it_protects_rebuilt(cache, calls):
    cache.segment.client.attach(OTHER)
    cache.segment.robust_lock.lock(lock_of(cache), OTHER)
    calls.replace("slab.rebuild", (), lambda: cache.segment.robust_lock.owner(lock_of(cache)))
    cache.segment.slab.reap(ME, ME)
    assert calls.made == []
    cache.segment.slab.reap(ME, OTHER)
    assert [(args, owner) for *_, args, owner in calls.made] == [((cache.number,), ME)]
    assert cache.segment.robust_lock.owner(lock_of(cache)) == NIL


def test_a_broken_lock_is_repaired_by_who_takes_it(cache, calls):
    cache.alloc()
    cache.segment.robust_lock.lock(lock_of(cache), ME)
    cache.segment.robust_lock.mark_broken(lock_of(cache))
    cache.segment.robust_lock.unlock(lock_of(cache))
    calls.replace("slab.rebuild")
    cache.alloc()
    cache.alloc()
    assert calls.names == ["slab.rebuild"]


# A page comes.


def test_a_new_page_has_nothing_of_its_former_life(cache):
    segment, layout = cache.segment, cache.segment.layout
    for pfn in range(segment.pages):
        for offset in (layout.F_INO, layout.F_INDEX):
            segment.write64(segment.at(pfn) + offset, 0xEE)
        segment.set_field(pfn, layout.F_LENGTH, 0xEE)
    segment.buffer[segment.shape["data"] :] = b"\x77" * (len(segment.buffer) - segment.shape["data"])
    number = cache.alloc()
    pfn = page_of(cache, number)
    assert [segment.read64(segment.at(pfn) + offset) for offset in (layout.F_INO, layout.F_INDEX)] == [0, 0]
    assert segment.field(pfn, layout.F_LENGTH) == 0
    start = segment.shape["data"] + (pfn << 12)
    for place in range(cache.per_page):
        at = start + place * cache.size
        assert segment.read64(at + layout.OBJECT_OWNER) == 0
        assert bool(segment.read(at + layout.OBJECT_NEXT) & FREE) == (at != cache.at(number))


def test_a_page_comes_in_this_order(cache, calls):
    """Until its type is set, no repair takes it for a page of objects; until its count is, nobody gets it."""
    segment, layout = cache.segment, cache.segment.layout
    start = segment.shape["data"]

    def state():
        pages = [pfn for pfn in range(segment.pages) if segment.client.intents(ME)]
        first = pages[0] if pages else 0
        free = [segment.read(start + (first << 12) + n * cache.size + layout.OBJECT_NEXT) for n in range(cache.per_page)]
        return len(pages) > 0, all(word & FREE for word in free)

    prepare, set_type, init, retract = (
        getattr(getattr(segment.world, module), function)
        for module, function in (("folio", "prepare"), ("page_type", "set"), ("page_ref", "init"), ("client", "retract"))
    )
    made = []

    def watch(module, function, original):
        def call(mem, *args):
            made.append((function, args[-5:] if function == "prepare" else args[1:2], state()))
            return original(mem, *args)

        calls.monkeypatch.setattr(getattr(segment.world, module), function, call)

    watch("folio", "prepare", prepare)
    watch("page_ref", "init", init)
    watch("client", "retract", retract)
    rebuild = segment.world.slab._rebuild_page

    def rebuilt(mem, number, pfn):
        made.append(("rebuild", (segment.field(pfn, layout.F_TYPE),), state()))
        return rebuild(mem, number, pfn)

    calls.monkeypatch.setattr(segment.world.slab, "_rebuild_page", rebuilt)
    pfn = segment.slab._grow(ME, cache.number)
    assert made == [
        ("prepare", (0, 0, 0, 0, 0), (True, False)),
        ("rebuild", (cache.type,), (True, True)),
        ("init", (1,), (True, True)),
        ("retract", (pfn,), (True, True)),
    ]
    assert set_type is segment.world.page_type.set and segment.client.intents(ME) == 0


# A page goes.


def test_a_page_in_use_is_not_retired(cache):
    """Although it is on the list: its count of objects decides."""
    cache.alloc()
    assert cache.segment.slab._retire(ME, cache.number) == NIL
    assert cache.segment.client.intents(ME) == 0 and cache.pages() == 1


def emptied(cache):
    number = cache.alloc()
    cache.free(number)
    return page_of(cache, number)


def test_a_page_of_another_is_not_retired(cache):
    pfn = emptied(cache)
    cache.segment.write64(cache.segment.at(pfn) + cache.segment.layout.F_INO, 7)
    assert cache.segment.slab._retire(ME, cache.number) == NIL
    assert cache.segment.count(pfn) == 1 and cache.segment.client.intents(ME) == 0


def test_there_is_no_page_to_retire(cache, monkeypatch):
    monkeypatch.setattr(cache.segment.world.client, "announce", lambda *args: pytest.fail("NIL is announced"))
    assert cache.segment.slab._retire(ME, cache.number) == NIL


def test_a_retired_page_is_named_frozen_and_of_no_type(cache):
    segment, pfn = cache.segment, emptied(cache)
    assert segment.slab._retire(ME, cache.number) == pfn
    assert segment.client.intents(ME) == 1 and segment.count(pfn) == FROZEN
    assert segment.field(pfn, segment.layout.F_TYPE) == segment.layout.TYPE_NONE
    assert (cache.pages(), cache.partial()) == (0, [])


@pytest.mark.parametrize("left", [True, False])
def test_a_retired_page_goes_back_after_a_grace_period(cache, calls, left):
    """To the allocator; or, if a client does not leave its operation, to the cache."""
    segment, pfn = cache.segment, emptied(cache)
    segment.client.op_begin(ME)
    segment.slab._retire(ME, cache.number)
    calls.replace("client.wait_grace_period", (left,))
    assert segment.slab._give_back(ME, cache.number, pfn) is left
    assert calls.in_operation == [False] and segment.client.op_seq(ME) & 1
    assert segment.client.intents(ME) == 0 and segment.robust_lock.owner(lock_of(cache)) == NIL
    assert segment.free() == 64 - (not left) and cache.pages() == (not left)
    assert segment.count(pfn) == (FROZEN if left else 1)
    segment.client.op_end(ME)


def test_a_page_that_stays_comes_in_this_order(cache, calls):
    """As a new one; and under the lock."""
    segment, pfn = cache.segment, emptied(cache)
    segment.client.op_begin(ME)
    segment.slab._retire(ME, cache.number)
    segment.client.op_seq(ME)
    calls.replace("client.wait_grace_period", (False,))
    owner = lambda: segment.robust_lock.owner(lock_of(cache))  # noqa: E731
    calls.replace("slab._rebuild_page", (), lambda: (owner(), segment.field(pfn, segment.layout.F_TYPE)))
    calls.replace("page_ref.unfreeze", (), lambda: (owner(), segment.client.intents(ME)))
    segment.slab._give_back(ME, cache.number, pfn)
    assert [(name, args, look) for name, _, args, look in calls.made][1:] == [
        ("slab._rebuild_page", (cache.number, pfn), (ME, cache.type)),
        ("page_ref.unfreeze", (segment.at(pfn), 1), (ME, 1)),
    ]
    segment.client.op_end(ME)


@pytest.mark.parametrize("left", [True, False])
def test_a_page_that_a_refused_lock_keeps_stays_named(impatient, left, monkeypatch):
    cache = Cache(Segment(impatient), 0)
    segment, pfn = cache.segment, emptied(cache)
    segment.client.op_begin(ME)
    segment.slab._retire(ME, cache.number)
    segment.client.attach(OTHER)
    segment.robust_lock.lock(segment.layout.ALLOC_LOCK if left else lock_of(cache), OTHER)
    monkeypatch.setattr(segment.world.client, "wait_grace_period", lambda *args: left)
    assert segment.slab._give_back(ME, cache.number, pfn) is False
    assert segment.client.intents(ME) == 1 and segment.count(pfn) == FROZEN
    segment.client.op_end(ME)


# What is looked at, and what is held meanwhile.


def seen(cache, monkeypatch, name):
    """The pages that a function is asked about."""
    module, _, function = name.partition(".")
    module, pfns = getattr(cache.segment.world, module), []
    original = getattr(module, function)
    monkeypatch.setattr(module, function, lambda mem, pfn, *args: (pfns.append(pfn), original(mem, pfn, *args))[1])
    return pfns


def test_no_page_beyond_the_segment_is_looked_at(cache, monkeypatch):
    pages = cache.segment.pages
    walked, marks, kinds = (
        seen(cache, monkeypatch, name) for name in ("page_type.type", "backing.is_marked", "page_type.is_private")
    )
    assert cache.walk() == [] and max(walked) == pages - 1
    for beyond in (0, 1):
        number = (pages + beyond) << 12 - cache.segment.layout.OBJECT_SHIFT
        assert cache.at(number) == 0 and not cache.segment.slab.holds(cache.number, number)
    assert marks == [] and kinds == []


def test_a_chain_that_leads_to_another_page_is_damaged(cache):
    """The number would be that of a free object, of the next page."""
    kept = cache.alloc()
    assert page_of(cache, kept) == 0
    data, places = cache.segment.shape["data"], 1 << 12 - cache.segment.layout.OBJECT_SHIFT
    cache.segment.write(data + 4096 + cache.segment.layout.OBJECT_NEXT, FREE)
    cache.segment.set_field(0, cache.segment.layout.F_FREE, places + 1)
    assert cache.alloc() == NIL and is_broken(cache)
    assert cache.segment.read(data + 4096 + cache.segment.layout.OBJECT_NEXT) == FREE


def test_an_object_is_freed_under_the_lock(cache, calls):
    number = cache.alloc()
    calls.replace("slab._give", (), lambda: cache.segment.robust_lock.owner(lock_of(cache)))
    cache.free(number)
    assert [(args, owner) for *_, args, owner in calls.made] == [((cache.number, page_of(cache, number), number), ME)]


def test_an_object_has_its_owner_before_it_is_in_use(cache, monkeypatch):
    """So a repair of what it belongs to finds it, wherever the client died."""
    first = cache.alloc()
    atomics, stores, at = cache.segment.world.atomics, [], cache.at(first) + cache.size
    for name in ("store_relaxed", "store_relaxed64", "record32"):
        original = getattr(atomics, name)
        monkeypatch.setattr(
            atomics, name, lambda mem, to, value, do=original: (stores.append((to - at, value)), do(mem, to, value))
        )
    assert cache.at(cache.alloc(owner=77)) == at
    inside = [(to, value) for to, value in stores if 0 <= to < cache.size]
    assert inside[-2:] == [(cache.segment.layout.OBJECT_OWNER, 77), (cache.segment.layout.OBJECT_NEXT, 0)]
    assert sorted({to for to, _ in inside}) == [0, *range(4, cache.size, 4)]
