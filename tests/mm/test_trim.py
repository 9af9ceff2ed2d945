"""Memory that is given back, in both worlds."""

import errno

import pytest
from world import ME

CHUNK = 16  # pages of 4 KiB


def marked(segment):
    return [segment.backing.is_marked(pfn) for pfn in range(segment.pages)]


def test_a_free_block_becomes_a_hole(segment):
    free = segment.page_alloc.free_pages()
    assert segment.trim.give_back(ME, 2 * CHUNK) == 2 * CHUNK
    assert segment.page_alloc.free_pages() == free - 2 * CHUNK == segment.page_alloc.backed_pages()
    assert sum(marked(segment)) == segment.pages - 2 * CHUNK
    assert segment.client.is_idle(ME)
    counter = segment.client.slot(ME) + segment.layout.CLIENT_COUNTERS + 8 * segment.layout.COUNT_GIVEN_BACK
    assert segment.read(counter) == 2 * CHUNK << 12


def test_all_that_is_free_is_given_back_and_backed_again(segment):
    while segment.trim.give_back(ME, segment.pages):
        pass
    assert not any(marked(segment)) and segment.page_alloc.free_pages() == 0
    assert segment.page_alloc.alloc(ME, 0) == segment.layout.NIL
    assert segment.page_alloc.back(ME, 0) == CHUNK
    pfn = segment.page_alloc.alloc(ME, 0)
    assert marked(segment)[pfn] and sum(marked(segment)) == CHUNK


@pytest.mark.parametrize("most", [0, 1, CHUNK - 1])
def test_less_than_a_chunk_is_nothing(segment, most):
    assert segment.trim.give_back(ME, most) == 0 and all(marked(segment))


def test_a_chunk_that_is_used_in_part_stays(segments):
    segment = segments(pages=CHUNK)
    pfn = segment.page_alloc.alloc(ME, 0)
    assert segment.trim.give_back(ME, CHUNK) == 0 and all(marked(segment))
    assert segment.page_alloc.free(ME, pfn, 0)
    assert segment.trim.give_back(ME, CHUNK) == CHUNK


def test_a_rest_at_the_end_of_the_segment_stays(segments):
    segment = segments(pages=CHUNK + 4)
    while segment.trim.give_back(ME, segment.pages):
        pass
    assert marked(segment) == [False] * CHUNK + [True] * 4


def test_one_of_a_group_has_the_turn(segment):
    tick, patience = 1 << segment.layout.WATCH_TICK_SHIFT, segment.layout.WATCH_PATIENCE
    first = segment.trim.take_turn(1, 0, 5 * tick)
    assert first and segment.trim.take_turn(1, 0, (4 + patience) * tick) == 0
    second = segment.trim.take_turn(1, first, 6 * tick)
    assert second not in (0, first)
    assert segment.trim.take_turn(2, 0, 6 * tick) and segment.trim.take_turn(1, 0, 6 * tick) == 0
    third = segment.trim.take_turn(1, 0, (6 + patience) * tick)
    assert third, "who does not renew it loses it"
    assert segment.trim.take_turn(1, second, (7 + patience) * tick) == 0, "and learns that"
    assert segment.trim.take_turn(1 + segment.layout.WATCH_WORDS, 0, (6 + patience) * tick), "groups that share a word"
    assert segment.trim.take_turn(1, third, (7 + patience) * tick), "take it from each other"


def test_a_turn_of_a_time_ahead_is_nobodys(segment):
    tick = 1 << segment.layout.WATCH_TICK_SHIFT
    assert segment.trim.take_turn(1, 0, 100 * tick) and segment.trim.take_turn(1, 0, 50 * tick)
    assert segment.trim.take_turn(1, 0, (segment.layout.WATCH_TICK_MASK + 51) * tick) == 0, "the time wraps"
    assert segment.trim.take_turn(segment.layout.WATCH_GROUPS, 0, 0)


def test_a_turn_is_a_word_of_its_group(segment):
    layout = segment.layout
    for group in (1, layout.WATCH_WORDS - 1):
        before = bytes(segment.buffer)
        turn = segment.trim.take_turn(group, 0, 0)
        changed = {at for at in range(len(before)) if before[at] != segment.buffer[at]}
        word = layout.WATCH_TURNS + 4 * group
        assert segment.read(word) == turn != 0 and changed <= set(range(word, word + 4))


def test_a_turn_that_another_takes_meanwhile(segments, between):
    segment = segments()
    if segment.world.compiled:
        pytest.skip("nothing comes between")
    word = segment.layout.WATCH_TURNS + 4
    with between(segment, "cmpxchg_relaxed", lambda: segment.write(word, 77)):
        assert segment.trim.take_turn(1, 0, 0) == 0
    assert segment.read(word) == 77


@pytest.fixture
def emptied(segment):
    """A segment in which three pages of objects can be given back, and an object has five folios."""
    cold = segment.open(9)
    segment.cache(cold, range(5))
    inos = [segment.open(key) for key in range(10, 10 + 40)]
    for ino in inos:
        segment.cache(ino, [0])
    for ino in inos:
        segment.filemap.truncate(ME, ino, 63)
    layout = segment.layout
    counts = [segment.read(layout.SLAB_EMPTY + cache * layout.SLAB_STRIDE) for cache in range(layout.SLABS)]
    segment.cold, segment.spare = cold, sum(max(count - layout.SLAB_KEEP, 0) for count in counts)
    assert segment.spare > 2
    return segment


@pytest.mark.parametrize("want", [0, 1, 2])
def test_evict_frees_empty_pages_first(emptied, want):
    free = emptied.free()
    assert emptied.trim.evict(ME, want) == want == emptied.free() - free
    assert emptied.mapping.folios(emptied.cold) == 5
    assert emptied.findings() == []


@pytest.mark.parametrize("more", [0, 1, 3])
def test_evict_takes_folios_when_no_page_is_empty(emptied, more):
    free, spare = emptied.free(), emptied.spare
    assert emptied.trim.evict(ME, spare + more) == spare + more == emptied.free() - free
    assert emptied.mapping.folios(emptied.cold) == 5 - more
    assert emptied.findings() == []


def test_evict_chunk_takes_all_folios_of_a_chunk(segments):
    """Those of the first chunk are in use."""
    segment = segments(pages=4 * CHUNK)
    ino = segment.open()
    pfns = {index: segment.add(ino, index) for index in range(3 * CHUNK)}
    first = {index for index, pfn in pfns.items() if pfn // CHUNK == pfns[0] // CHUNK}
    for index in first:
        segment.hold(pfns[index])
    for index in set(pfns) - first:
        segment.folio.put(ME, pfns[index])
    assert segment.trim.evict_chunk(ME)
    left = {index for index in pfns if segment.find(ino, index) != segment.layout.NIL}
    gone = {pfns[index] for index in set(pfns) - left}
    assert len(gone) == CHUNK and len({pfn // CHUNK for pfn in gone}) == 1 and first <= left


def test_evict_chunk_goes_on_to_a_folio_that_nobody_uses(segments):
    segment = segments(pages=4 * CHUNK)
    ino = segment.open()
    pinned = [segment.hold(segment.add(ino, index)) for index in range(20)]
    cold = segment.add(ino, 20)
    segment.folio.put(ME, cold)
    assert segment.trim.evict_chunk(ME)
    assert segment.find(ino, 20) == segment.layout.NIL
    assert {segment.count(pfn) for pfn in pinned} == {2}
    assert not segment.trim.evict_chunk(ME), "all that is left is in use"
    assert segment.findings() == []


def test_evict_chunk_of_an_empty_cache(segment):
    assert not segment.trim.evict_chunk(ME)


def test_evict_chunk_takes_one_chunk(segments):
    """A chunk after the other, until nothing is cached."""
    segment = segments(pages=4 * CHUNK)
    ino = segment.open()
    segment.cache(ino, range(3 * CHUNK))
    left = [3 * CHUNK]
    while segment.trim.evict_chunk(ME):
        left.append(segment.mapping.folios(ino) if segment.mapping.head(ino) else 0)
        assert left[-2] - CHUNK <= left[-1] < left[-2]
    assert len(left) > 3


def test_a_kernel_that_refuses_changes_nothing(segment):
    if segment.world.compiled:
        pytest.skip("plain memory is always given back")
    segment.mem.stuck = errno.EOPNOTSUPP
    assert segment.trim.give_back(ME, segment.pages) == segment.layout.NIL
    assert all(marked(segment)) and segment.page_alloc.free_pages() == segment.pages and segment.client.is_idle(ME)


def test_a_client_that_has_stopped_in_an_operation_keeps_everything(segment, monkeypatch):
    segment.client.attach(ME + 1)
    segment.client.op_begin(ME + 1)
    assert segment.trim.give_back(ME, segment.pages) == segment.layout.NIL
    assert all(marked(segment)) and segment.page_alloc.free_pages() == segment.pages
    if not segment.world.compiled:
        segment.mem.full = errno.ENOSPC
        assert segment.trim.give_back(ME, segment.pages) == segment.layout.NIL
        assert all(marked(segment)) and segment.page_alloc.free_pages() == segment.pages, "what has memory needs no room"
    segment.client.op_end(ME + 1)
    assert segment.trim.give_back(ME, segment.pages) > 0


def test_the_limit_is_set_under_the_lock(segment):
    assert segment.page_alloc.set_limit(ME, 2 * CHUNK) and segment.backing.limit() == 2 * CHUNK
    while segment.trim.give_back(ME, segment.pages):
        pass
    backed = 0
    while more := segment.page_alloc.back(ME, 0):
        backed += more
    assert backed == 2 * CHUNK


def test_what_a_dead_client_left_unmarked_is_emptied(segment):
    pfn = segment.page_alloc.alloc(ME, 5)
    at = segment.shape["data"] + (pfn << 12)
    segment.backing.unmark(pfn, 4)
    segment.buffer[at : at + (32 << 12)] = b"x" * (32 << 12)
    segment.backing.empty(pfn, 5)
    assert segment.buffer[at : at + (32 << 12)] == bytes(CHUNK << 12) + b"x" * (CHUNK << 12)


def holes(segment, pages):
    """Give so many pages back."""
    while pages > 0:
        given = segment.trim.give_back(ME, pages)
        assert given > 0
        pages -= given


def test_a_hole_is_emptied(segment):
    """And stays a hole; what is in use, or free with memory, does not change."""
    holes(segment, 2 * CHUNK)
    hole = next(pfn for pfn in range(0, segment.pages, CHUNK) if not marked(segment)[pfn])
    at = segment.shape["data"] + (hole + 3 << 12)
    segment.buffer[at] = 1
    assert segment.page_alloc.is_hole(hole + 3) and segment.trim.empty_hole(ME, hole + 3)
    assert segment.buffer[at] == 0 and segment.page_alloc.backed_pages() == segment.pages - 2 * CHUNK
    assert segment.client.is_idle(ME) and segment.findings() == []
    other = next(pfn for pfn in range(0, segment.pages, CHUNK) if marked(segment)[pfn])
    used = segment.page_alloc.alloc(ME, 0)
    for pfn in (other, used, segment.pages, segment.layout.NIL):
        assert not segment.trim.empty_hole(ME, pfn)
    assert segment.page_alloc.free(ME, used, 0) and segment.findings() == []


def test_a_hole_is_not_emptied_while_a_client_has_stopped(segment):
    holes(segment, CHUNK)
    hole = marked(segment).index(False)
    at = segment.shape["data"] + (hole << 12)
    segment.buffer[at] = 1
    segment.client.attach(ME + 1)
    segment.client.op_begin(ME + 1)
    assert not segment.trim.empty_hole(ME, hole) and segment.buffer[at] == 1
    segment.client.op_end(ME + 1)
    assert segment.trim.empty_hole(ME, hole) and segment.buffer[at] == 0 and segment.findings() == []


def aged(segment, pfn, ticks):
    """Let a folio become so much older."""
    layout = segment.layout
    word = segment.field(pfn, layout.F_QUEUE)
    seen = (word >> layout.SEEN_SHIFT) - ticks & layout.SEEN_MASK
    segment.set_field(pfn, layout.F_QUEUE, word & (1 << layout.SEEN_SHIFT) - 1 | seen << layout.SEEN_SHIFT)


def test_idle_folios_are_evicted(segment):
    layout = segment.layout
    ino = segment.open()
    pfns = segment.cache(ino, range(6))
    old, used, held, young, other, last = (pfns[n] for n in range(6))
    for pfn in (old, used, held, other, last):
        aged(segment, pfn, 10)
    segment.flags.mark_referenced(segment.at(used), 0)
    assert segment.page_ref.try_get(segment.at(held)) == layout.GOT
    assert segment.trim.evict_idle(ME, 0, 1, 10) == 1 << 32 | old + 1, "one is enough"
    assert segment.trim.evict_idle(ME, last, segment.pages, 11) == last + layout.IDLE_BATCH
    assert segment.trim.evict_idle(ME, old + 1, segment.pages, 10) == 2 << 32 | old + 1 + layout.IDLE_BATCH
    assert [segment.find(ino, n) == layout.NIL for n in range(6)] == [True, False, False, False, True, True]
    word = segment.field(used, layout.F_QUEUE)
    assert word >> layout.USED_SHIFT & 1 and not segment.flags.load(segment.at(used)) & layout.PG_REFERENCED
    assert not segment.field(held, layout.F_QUEUE) >> layout.USED_SHIFT & 1
    for pfn in (used, held, young):
        age = segment.field(young, layout.F_QUEUE) - segment.field(pfn, layout.F_QUEUE) >> layout.SEEN_SHIFT
        assert age in (0, -1, -2), "seen now"
    assert segment.trim.evict_idle(ME, 0, segment.pages, 10) == layout.IDLE_BATCH


def test_an_age_of_another_clock_is_none(segment):
    layout = segment.layout
    ino = segment.open()
    pfn = segment.cache(ino, [0])[0]
    aged(segment, pfn, -1000)
    assert segment.trim.evict_idle(ME, 0, 1, 1) == layout.IDLE_BATCH
    aged(segment, pfn, layout.SEEN_AHEAD - 1 + 1000)
    assert segment.trim.evict_idle(ME, 0, 1, 1) == 1 << 32 | pfn + 1
