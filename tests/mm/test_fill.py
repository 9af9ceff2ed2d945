"""fill: one client fills, the others wait."""

import pytest
from world import ME, together

SECOND = 1_000_000_000
HOUR = 3600 * SECOND  # longer than a thread may hang: a lost wake-up fails


ENDS = [("complete", ["PG_UPTODATE"]), ("fail", ["PG_ERROR"]), ("explain", ["PG_ERROR", "PG_REASON"])]


def bits(segment, flags):
    return sum(getattr(segment.layout, flag) for flag in flags)


@pytest.fixture
def filling(segment):
    """A folio that client ME fills."""
    ino = segment.open()
    found = segment.filemap.grab(ME, ino, 3, 0, 0, 3 * 4096 + 100)
    return found & segment.layout.NIL


def test_begin(segment):
    pfn = segment.page_alloc.alloc(ME, 0)
    segment.folio.prepare(pfn, segment.layout.TYPE_FILE, 0, 0, 1, 2, 3)
    segment.fill.begin(3, pfn)
    assert segment.flags.load(segment.at(pfn)) == segment.layout.PG_LOCKED
    assert segment.field(pfn, segment.layout.F_OWNER) == 3


@pytest.mark.parametrize(("end", "flags"), ENDS)
def test_the_end(segment, filling, end, flags):
    getattr(segment.fill, end)(filling)
    assert segment.flags.load(segment.at(filling)) == bits(segment, flags)
    assert segment.fill.wait(filling, HOUR) == bits(segment, flags)


def test_wait_runs_out(segment, filling):
    assert segment.fill.wait(filling, 0) & segment.layout.PG_LOCKED
    assert segment.fill.wait(filling, SECOND // 1000) & segment.layout.PG_LOCKED


@pytest.mark.parametrize(("end", "flags"), ENDS)
def test_those_who_wait_see_the_content(segment, filling, end, flags):
    fill = segment.unlocked.fill

    def wait():
        return fill.wait(filling, HOUR), segment.content(filling)

    def finish():
        segment.set_content(filling, b"content!")
        getattr(fill, end)(filling)

    results = together(wait, wait, finish)
    assert results[:2] == [(bits(segment, flags), b"content!")] * 2


def test_other_flags_survive(segment, filling):
    segment.flags.set_readahead(segment.at(filling))
    segment.fill.complete(filling)
    assert segment.flags.load(segment.at(filling)) == segment.layout.PG_UPTODATE | segment.layout.PG_READAHEAD


def test_take_over_of_what_a_living_client_fills(segment, filling):
    segment.client.attach(2)
    assert not segment.fill.take_over(2, filling)
    assert segment.field(filling, segment.layout.F_OWNER) == ME


def test_one_client_takes_over_from_a_dead_one(segment, filling):
    segment.client.attach(2)
    segment.client.set_state(ME, segment.layout.SLOT_DEAD)
    assert segment.fill.take_over(2, filling)
    assert segment.field(filling, segment.layout.F_OWNER) == 2
    assert not segment.fill.take_over(3, filling)
    assert segment.field(filling, segment.layout.F_OWNER) == 2


def test_a_loser_of_the_takeover_is_told(segments, between):
    segment = segments()
    found = segment.filemap.grab(ME, segment.open(), 3, 0, 0, 4096)
    pfn = found & segment.layout.NIL
    if segment.world.compiled:
        pytest.skip("its steps cannot be stopped")
    segment.client.set_state(ME, segment.layout.SLOT_DEAD)
    with between(segment, "cmpxchg_acquire", lambda: segment.set_field(pfn, segment.layout.F_OWNER, 3)):
        assert not segment.fill.take_over(2, pfn)
    assert segment.field(pfn, segment.layout.F_OWNER) == 3


def test_a_fill_that_is_abandoned_at_its_end_is_complete(segment, filling):
    """Its filler died between the two steps of ``flags.unlock``."""
    layout = segment.layout
    segment.set_field(filling, layout.F_FLAGS, layout.PG_LOCKED | layout.PG_UPTODATE)
    segment.fill.abandon(ME, filling)
    assert segment.flags.load(segment.at(filling)) == layout.PG_UPTODATE
