"""vmscan: which steps reclaim takes, in which order, and how often it tries; in the interpreted world."""

import pytest
from calls import Calls
from world import ME, Segment, interpreted

NIL = 0xFFFFFFFF
INO = 77


@pytest.fixture
def segment():
    return Segment(interpreted())


@pytest.fixture
def calls(segment, monkeypatch):
    return Calls(segment, monkeypatch)


def arguments(calls, name):
    return [args for called, _, args, _ in calls.made if called == name]


# Room.


@pytest.mark.parametrize("order", [0, 1, 3])
def test_room_is_made_a_few_times_and_a_block_cleared_only_if_it_is_large(segment, calls, order):
    tries = segment.layout.SHRINK_TRIES
    calls.replace("page_alloc.alloc", [NIL] * 9)
    calls.replace("vmscan.make_room", [True] * 9)
    calls.replace("vmscan._clear_block", [8])
    assert segment.vmscan.alloc_folio(ME, order) == (8 if order else NIL)
    assert calls.names == ["page_alloc.alloc", *["vmscan.make_room", "page_alloc.alloc"] * tries] + ["vmscan._clear_block"] * (
        order > 0
    )


@pytest.mark.parametrize(
    ("backed", "empty", "freed", "asked"), [(1, 0, 0, 1), (0, True, 0, 2), (0, False, 1, 3), (0, False, 0, 3)]
)
def test_room_is_made_in_the_cheapest_way(segment, calls, backed, empty, freed, asked):
    calls.replace("page_alloc.back", [backed])
    calls.replace("slab.shrink", [empty])
    calls.replace("vmscan.shrink", [freed])
    assert bool(segment.vmscan.make_room(ME, 2)) == bool(backed or empty or freed)
    assert calls.names == ["page_alloc.back", "slab.shrink", "vmscan.shrink"][:asked]
    assert arguments(calls, "vmscan.shrink") == [(ME, 4)] * (asked == 3)


@pytest.mark.parametrize("cached", [0, 10, 64])
def test_there_is_an_end_of_looking(segment, calls, cached):
    """After enough rounds to take the last heat of every folio."""
    rounds = 2 + segment.layout.LOOKS_MAX * cached // segment.layout.SCAN_BATCH
    calls.replace("lru.cached", [cached] * 2)
    calls.replace("lru.isolate", [NIL] * 20)
    assert segment.vmscan.shrink(ME, 1) == 0
    assert calls.names.count("lru.isolate") == rounds


def test_main_is_spared_in_each_second_look_at_folios_in_use(segment, calls):
    calls.replace("lru.cached", [5] * 2)
    calls.replace("lru.isolate", range(20))
    calls.replace("vmscan.evict", [0] * 20)
    assert segment.vmscan.shrink(ME, 1) == 0
    assert arguments(calls, "lru.isolate") == [(ME, n % 2) for n in range(6)]
    assert arguments(calls, "vmscan.evict") == [(ME, n) for n in range(6)]


def test_a_folio_that_stays_named_ends_it(segment, calls):
    calls.replace("lru.cached", [5] * 2)
    calls.replace("lru.isolate", range(20))
    calls.replace("vmscan.evict", [2, NIL, 2])
    assert segment.vmscan.shrink(ME, 8) == 2
    assert calls.names.count("vmscan.evict") == 2


# A folio.


@pytest.fixture
def folio(segment, calls):
    """A folio of 2 pages whose eviction is watched: every step is replaced."""
    pfn = segment.new_file(order=1, ino=INO)
    segment.set_field(pfn, segment.layout.F_ATTACHED, 1)
    return pfn


LOCKED = 1


def evicting(segment, calls, lock=LOCKED, frozen=True, left=1, destroyed=True, put=True):
    calls.replace("mapping.lock", [lock])
    calls.replace("page_ref.freeze", [frozen])
    calls.replace("mapping.remove", [left])
    calls.replace("folio.destroy", [destroyed])
    calls.replace("folio.put", [put])
    for name, results in (("mapping.unlock", ()), ("client.retract", ()), ("mapping.release", ()), ("vmscan._keep", [9])):
        calls.replace(name, results)


@pytest.mark.parametrize("left", [0, 1])
def test_a_folio_is_evicted_step_by_step(segment, calls, folio, left):
    evicting(segment, calls, left=left)
    assert segment.vmscan.evict(ME, folio) == 2
    assert [(name, *args) for name, _, args, _ in calls.made] == [
        ("mapping.lock", ME, INO),
        ("page_ref.freeze", segment.at(folio), 2),
        ("mapping.remove", ME, INO, folio),
        ("mapping.unlock", INO),
        ("folio.destroy", ME, folio),
        ("client.retract", ME, folio),
        *[("mapping.release", ME, INO)] * (left == 0),
    ]


@pytest.mark.parametrize(("put", "result"), [(True, 0), (False, NIL)])
def test_a_folio_whose_mapping_is_gone_loses_the_pin(segment, calls, folio, put, result):
    evicting(segment, calls, lock=segment.layout.TREE_GONE, put=put)
    assert segment.vmscan.evict(ME, folio) == result
    assert calls.names == ["mapping.lock", "folio.put"]


def test_a_folio_is_kept_without_the_lock_of_its_mapping(segment, calls, folio):
    evicting(segment, calls, lock=segment.layout.LOCK_BUSY)
    assert segment.vmscan.evict(ME, folio) == 9
    assert calls.names == ["mapping.lock", "vmscan._keep"]


@pytest.mark.parametrize("attached", [True, False])
def test_a_folio_that_cannot_be_frozen_is_kept(segment, calls, folio, attached):
    segment.set_field(folio, segment.layout.F_ATTACHED, attached)
    evicting(segment, calls, frozen=False)
    assert segment.vmscan.evict(ME, folio) == 9
    assert calls.names == ["mapping.lock", *["page_ref.freeze"] * attached, "mapping.unlock", "vmscan._keep"]


def test_a_folio_that_is_not_destroyed_stays_named(segment, calls, folio):
    evicting(segment, calls, left=0, destroyed=False)
    assert segment.vmscan.evict(ME, folio) == NIL
    assert calls.names[-1] == "folio.destroy"


@pytest.mark.parametrize(
    ("queued", "put", "result", "named"), [(True, True, 0, 0), (True, False, NIL, 0), (False, True, NIL, 1)]
)
def test_a_kept_folio_is_found_again_or_stays_named(segment, calls, queued, put, result, named):
    calls.replace("lru.add", [queued])
    calls.replace("folio.put", [put])
    calls.replace("client.announce")
    assert segment.world.vmscan._keep(segment.mem, ME, 5) == result
    assert [(name, *args) for name, _, args, _ in calls.made] == [
        ("lru.add", ME, 5, segment.layout.QUEUE_MAIN), *[("client.announce", ME, 5)] * named, ("folio.put", ME, 5),
    ]  # fmt: skip


# The rest of a whole object.


@pytest.mark.parametrize(
    ("whole", "left", "more", "freed"),
    [(True, 2, (4, 8), 14), (True, 2, (0, 0), 2), (True, 2, (NIL, 1), NIL), (True, 2, (1, NIL), NIL), (True, 0, (4, 4), 2),
     (False, 2, (4, 4), 2)],
)  # fmt: skip
def test_the_rest_goes_with_a_part_of_a_whole_object(segment, calls, folio, whole, left, more, freed):
    """What is behind it before it, what is before it afterwards."""
    layout = segment.layout
    segment.write64(segment.at(folio) + layout.F_DIGEST, whole << layout.WHOLE_SHIFT)
    segment.write64(segment.at(folio) + layout.F_INDEX, 7)
    segment.set_field(folio, layout.F_QUEUE, layout.VERDICT_LOST << layout.VERDICT_SHIFT)
    evicting(segment, calls, left=left)
    calls.replace("vmscan._evict_rest", more)
    assert segment.vmscan.evict(ME, folio) == freed
    parts = [(name, *args) for name, _, args, _ in calls.made if name in ("vmscan._evict_rest", "folio.destroy")]
    behind = ("vmscan._evict_rest", ME, INO, 8, layout.XA_INDEX_MAX, layout.VERDICT_LOST)
    before = ("vmscan._evict_rest", ME, INO, 0, 7, layout.VERDICT_LOST)
    rest = whole and left > 0
    assert parts == [*[behind] * rest, ("folio.destroy", ME, folio), *[before] * rest]


def test_the_rest_does_not_begin_with_another_rest(segment, calls, folio):
    """It would be called within itself for each part."""
    segment.write64(segment.at(folio) + segment.layout.F_DIGEST, 1 << segment.layout.WHOLE_SHIFT)
    evicting(segment, calls, left=2)
    calls.replace("vmscan._evict_rest", [4, 4])
    assert segment.world.vmscan._evict(segment.mem, ME, folio, False) == 2
    assert "vmscan._evict_rest" not in calls.names


def evict_rest(segment, ino, first=0, end=64, verdict=2):
    return segment.world.vmscan._evict_rest(segment.mem, ME, ino, first, end, verdict)


@pytest.mark.parametrize("lock", ["LOCK_BUSY", "TREE_GONE"])
def test_the_rest_stays_without_the_lock(segment, calls, lock):
    ino = segment.open(1 << segment.layout.WHOLE_SHIFT)
    segment.cache(ino, range(3))
    calls.replace("mapping.lock", [getattr(segment.layout, lock)])
    assert evict_rest(segment, ino) == 0
    assert calls.names == ["mapping.lock"]


@pytest.mark.parametrize(
    ("first", "end", "parts"), [(0, 64, 3), (0, 1 << 40, 3), (1, 64, 2), (0, 60, 2), (1, 61, 2), (2, 60, 0)]
)
def test_the_lock_is_taken_for_each_part_of_the_rest_and_no_other_unit(segment, calls, first, end, parts):
    ino = segment.open(1 << segment.layout.WHOLE_SHIFT)
    pfns = segment.cache(ino, (0, 1, 60))
    calls.replace("mapping.unlock")
    calls.replace("mapping.lock", [LOCKED] * 9)
    calls.replace("vmscan._evict", [1, 1, 1])
    assert evict_rest(segment, ino, first, end) == parts
    expected = [pfns[index] for index in (60, 1, 0) if first <= index < end]
    assert arguments(calls, "vmscan._evict") == [(ME, pfn, False) for pfn in expected]
    assert calls.names.count("mapping.lock") == parts + (parts == 0)


@pytest.mark.parametrize(
    ("taken", "results", "freed"),
    [
        ([True] * 3, {"vmscan._evict": [4, 0, 8]}, 12),
        ([True] * 3, {"vmscan._evict": [4, NIL, 8]}, NIL),
        ([True, False, True], {"vmscan._evict": [4, 8], "folio.put": [True]}, 12),
        ([True, False, True], {"vmscan._evict": [4, 8], "folio.put": [False]}, NIL),
    ],
)
def test_each_part_is_named_pinned_and_taken_off_its_queue(segment, calls, taken, results, freed):
    ino = segment.open(1 << segment.layout.WHOLE_SHIFT)
    pfns = list(segment.cache(ino, (0, 1, 60)).values())
    calls.replace("lru.take", taken)
    for name in ("client.announce", "page_ref.get"):
        calls.replace(name)
    for name in ("vmscan._evict", "folio.put"):
        calls.replace(name, results.get(name, ()))
    assert evict_rest(segment, ino) == freed
    seen = pfns[::-1][: 2 if freed == NIL else 3]
    expected = []
    for pfn, off in zip(seen, taken, strict=False):
        expected += [("client.announce", ME, pfn), ("page_ref.get", segment.at(pfn)), ("lru.take", ME, pfn, 2)]
        expected.append(("vmscan._evict", ME, pfn, False) if off else ("folio.put", ME, pfn))
    assert [(name, *args) for name, _, args, _ in calls.made] == expected


# A block.


@pytest.mark.parametrize("order", [1, 4])
def test_one_block_after_the_other_is_cleared(segment, calls, order):
    segment.write(segment.layout.BLOCK_HAND, 0)
    tries = segment.layout.BLOCKS_MAX
    calls.replace("vmscan.evict_range", [True] * (tries + 2))
    calls.replace("page_alloc.alloc", [NIL] * (tries + 2))
    assert segment.vmscan._clear_block(ME, order) == NIL
    blocks = [n % ((segment.pages >> order) + 1) for n in range(tries)]
    assert arguments(calls, "vmscan.evict_range") == [(ME, block << order, block + 1 << order) for block in blocks]


def test_a_block_that_is_free_is_taken_and_one_that_stays_named_ends_it(segment, calls):
    calls.replace("vmscan.evict_range", [True, True, False])
    calls.replace("page_alloc.alloc", [NIL, 8, 16])
    assert segment.vmscan._clear_block(ME, 2) == 8
    assert segment.vmscan._clear_block(ME, 2) == NIL
    assert calls.names == ["vmscan.evict_range", "page_alloc.alloc"] * 2 + ["vmscan.evict_range"]


def ranging(segment, calls, marked=False, got=None, freed=()):
    calls.replace("page_alloc.mark", [marked] * 99)
    calls.replace("page_ref.try_get", [segment.layout.GOT if got is None else got] * 99)
    calls.replace("folio.put", [False])
    calls.replace("client.announce")
    calls.replace("client.retract")
    calls.replace("vmscan.evict", freed)


def test_free_pages_are_passed_over(segment, calls):
    ranging(segment, calls, marked=True)
    assert segment.vmscan.evict_range(ME, segment.pages - 4, segment.pages + 4) is True
    assert arguments(calls, "page_alloc.mark") == [(segment.pages - n,) for n in (4, 3, 2, 1)]
    assert calls.names == ["page_alloc.mark"] * 4


def test_dead_pages_are_passed_over(segment, calls):
    ranging(segment, calls, got=segment.layout.DEAD)
    assert segment.vmscan.evict_range(ME, 4, 6) is True
    assert calls.names == ["page_alloc.mark", "client.announce", "page_ref.try_get", "client.retract"] * 2


@pytest.mark.parametrize(("got", "kind"), [("SATURATED", "TYPE_FILE"), ("GOT", "TYPE_TABLE"), ("GOT", "TYPE_NONE")])
def test_what_is_not_to_be_evicted_is_put(segment, calls, got, kind):
    pfn = segment.new_file()
    segment.page_type.set(pfn, getattr(segment.layout, kind), 0, 0)
    ranging(segment, calls, got=getattr(segment.layout, got))
    assert segment.vmscan.evict_range(ME, pfn, pfn + 4) is False, "as put says"
    assert calls.names == ["page_alloc.mark", "client.announce", "page_ref.try_get", "folio.put"]


@pytest.mark.parametrize(
    ("freed", "result", "pages"), [([4, 0], True, 2), ([4, NIL], False, 2), ([0], True, 1), ([NIL], False, 1)]
)
def test_folios_are_evicted_up_to_the_first_that_stays(segment, calls, freed, result, pages):
    pfns = [segment.new_file(order=2) for _ in range(3)]
    ranging(segment, calls)
    results = iter(freed)

    def evict(mem, me, pfn):
        calls.made.append(("vmscan.evict", 0, (me, pfn), None))
        segment.page_type.set(pfn, segment.layout.TYPE_NONE, 0, 0)
        return next(results)

    calls.monkeypatch.setattr(segment.world.vmscan, "evict", evict)
    assert segment.vmscan.evict_range(ME, pfns[0], pfns[0] + 12) is result
    assert arguments(calls, "vmscan.evict") == [(ME, pfn) for pfn in pfns[:pages]]
