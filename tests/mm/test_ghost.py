"""ghost: what is remembered of evicted folios."""

import pytest

LEFT, LOST, BEATEN = 1, 2, 3
DIGEST = 0x9876543210ABCDEF  # of an object that is read in parts


def left(segment, verdict, heat, age):
    return verdict | heat << segment.layout.GHOST_HEAT_SHIFT | age << segment.layout.GHOST_TICK_SHIFT


@pytest.mark.parametrize(("digest", "index"), [(1, 0), (0xFFFFFFFF7FFFFFFF, (1 << 40) - 1), (DIGEST, 3), (0, 0)])
def test_a_ghost_is_taken_once(segment, digest, index):
    segment.ghost.remember(digest, index, 0, LOST, 5, 100)
    assert segment.ghost.take(digest, index + 1, 0, 100) == 0
    assert segment.ghost.take(digest ^ 1 << 40, index, 0, 100) == 0
    assert segment.ghost.take(digest, index, 0, 103) == left(segment, LOST, 5, 3)
    assert segment.ghost.take(digest, index, 0, 103) == 0


def test_versions_of_an_object_have_the_same_ghosts(segment):
    """The lower half of a digest is of the version, too."""
    segment.ghost.remember(DIGEST, 3, 0, LOST, 5, 100)
    assert segment.ghost.take(DIGEST ^ 0x7FFFFFFF, 3, 0, 100) == left(segment, LOST, 5, 0)


def test_a_table_has_one_set_at_least(segment):
    for key in range(64):
        segment.ghost.remember(key << segment.layout.KEY_SHIFT, 0, 31, LEFT, 0, 100)
    words = [segment.read(segment.shape["ghosts"] + place * 4) for place in range(segment.shape["nghosts"] + 16)]
    assert any(words[: segment.layout.GHOST_WAYS]) and not any(words[segment.layout.GHOST_WAYS :])


def test_an_object_that_is_gone_without_any_part_has_one_ghost_which_stays(segment):
    whole = DIGEST | 1 << segment.layout.WHOLE_SHIFT
    segment.ghost.remember(whole, 3, 2, LEFT, 0, 100)
    segment.ghost.remember(whole, 0, 0, LOST, 5, 101)  # its last unit has fewer pages
    for index, order in ((0, 2), (3, 0), (7, 1)):
        assert segment.ghost.take(whole ^ 1, index, order, 103) == left(segment, LOST, 5, 2)
    words = [segment.read(segment.shape["ghosts"] + place * 4) for place in range(segment.shape["nghosts"])]
    assert sum(map(bool, words)) == 1
    assert segment.ghost.take(whole, 0, 0, 101 + segment.layout.TICKS_MAX + 1) == 0


@pytest.mark.parametrize("verdict", [LEFT, LOST, BEATEN])
@pytest.mark.parametrize("heat", [0, 7])
def test_every_verdict_and_heat_is_kept(segment, verdict, heat):
    segment.ghost.remember(DIGEST, 1, 0, verdict, heat, 0)
    assert segment.ghost.take(DIGEST, 1, 0, 0) == left(segment, verdict, heat, 0)


def test_ticks_go_round(segment):
    segment.ghost.remember(DIGEST, 1, 0, LEFT, 0, 0xFFFFFFFF)
    assert segment.ghost.take(DIGEST, 1, 0, 4) == left(segment, LEFT, 0, 5)


def test_one_that_is_too_old_is_none(segment):
    for age, known in ((segment.layout.TICKS_MAX, True), (segment.layout.TICKS_MAX + 1, False)):
        segment.ghost.remember(DIGEST, age, 0, LEFT, 0, 10)
        assert bool(segment.ghost.take(DIGEST, age, 0, 10 + age)) is known


def test_ghosts_stay_within_their_table_and_use_all_of_it(segment):
    start, count = segment.shape["ghosts"], segment.shape["nghosts"]
    before = bytes(segment.buffer)
    for index in range(1000):
        segment.ghost.remember(DIGEST, index, 0, LEFT, 0, index)
    after = bytes(segment.buffer)
    assert before[:start] == after[:start]
    assert before[start + count * 4 :] == after[start + count * 4 :]
    assert all(segment.read(start + i * 4) for i in range(count))


def test_the_oldest_of_a_set_makes_room(segments):
    """With ticks that differ, what is left are the latest ones, more or less; never more than there are words."""
    segment = segments(256)
    for index in range(1000):
        segment.ghost.remember(DIGEST, index, 0, LEFT, 0, index // 32)
    kept = [index for index in range(1000) if segment.ghost.take(DIGEST, index, 0, 31)]
    assert len(kept) == segment.shape["nghosts"] == 256
    assert len([index for index in kept if index >= 1000 - 256]) > 180
    assert min(kept) > 1000 - 4 * 256


def test_any_table_is_sound(segment):
    start, count = segment.shape["ghosts"], segment.shape["nghosts"]
    for word in (0xFFFFFFFF, 0x12345678, 1):
        for place in range(count):
            segment.write(start + place * 4, word)
        for index in range(100):
            found = segment.ghost.take(DIGEST, index, 0, 5)
            assert found >> segment.layout.GHOST_TICK_SHIFT <= segment.layout.TICKS_MAX
            segment.ghost.remember(DIGEST, index, 0, LEFT, 0, 5)


def test_large_folios_use_the_part_of_the_table_that_their_number_needs(segments):
    segment = segments(256)
    for index in range(1000):
        segment.ghost.remember(DIGEST, index, 3, LEFT, 0, 0)
    used = [place for place in range(256) if segment.read(segment.shape["ghosts"] + place * 4)]
    assert used == list(range(32))
    assert segment.ghost.take(DIGEST, 999, 3, 0)
    segment.ghost.remember(DIGEST, 1, 10, LEFT, 0, 0)
    assert segment.ghost.take(DIGEST, 1, 10, 0)
