"""page_ref: every state of the word."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import Segment, compiled, interpreted, together
from world import Word as AnyWord

FROZEN, REF_MAX = 0x80000000, 0x40000000


@pytest.fixture
def word(segment):
    return Word(segment)


class Word(AnyWord):
    """The reference count of a folio."""

    def __init__(self, segment):
        super().__init__(segment, segment.page_ref, segment.at(5))


@pytest.mark.parametrize("before", [0, 1, 2, 1000, REF_MAX - 1])
def test_try_get_on_live_and_zero(word, before):
    word.value = before
    assert word.try_get() == word.segment.layout.GOT
    assert word.value == before + 1


@pytest.mark.parametrize("leftovers", [0, 1, 2, 77, REF_MAX])
def test_try_get_on_frozen_takes_nothing_and_leaves_exactly_frozen(word, leftovers):
    word.value = FROZEN + leftovers
    assert word.try_get() == word.segment.layout.DEAD
    assert word.value == FROZEN


@pytest.mark.parametrize("before", [REF_MAX, REF_MAX + 1, FROZEN - 2])
def test_try_get_on_saturated_takes_one_for_the_caller_to_put(word, before):
    word.value = before
    assert word.try_get() == word.segment.layout.SATURATED
    assert word.value == before + 1
    assert not word.put()
    assert word.value == before


def test_try_get_at_the_limit(word):
    word.value = REF_MAX - 1
    assert [word.try_get(), word.try_get()] == [word.segment.layout.GOT, word.segment.layout.SATURATED]


def test_reset_does_not_touch_a_new_life(segments, between):
    """Between a failed getter's add and its reset the owner lets the folio live again: the add's leftover is gone with it."""
    word = Word(segments())
    if word.segment.world.compiled:
        return by_hand(word)
    word.value = FROZEN
    with between(word.segment, "cmpxchg_relaxed", lambda: word.unfreeze(1)):
        assert word.try_get() == word.segment.layout.DEAD
    assert word.value == 1


def by_hand(word):
    word.value = FROZEN + 1  # the getter's add
    word.unfreeze(1)
    assert not word.freeze(FROZEN + 1)  # its reset, a cmpxchg of the same form
    assert word.value == 1


def test_two_failed_getters_at_once_leave_frozen(segments, between):
    word = Word(segments())
    if word.segment.world.compiled:
        word.value = FROZEN + 1  # one that has added and not reset yet
        assert word.try_get() == word.segment.layout.DEAD
        assert not word.freeze(FROZEN + 1)
    else:
        word.value = FROZEN
        with between(word.segment, "cmpxchg_relaxed", word.try_get):
            assert word.try_get() == word.segment.layout.DEAD
    assert word.value == FROZEN


@pytest.mark.parametrize(("before", "result", "after"), [(1, 1, 2), (REF_MAX - 1, 1, REF_MAX), (REF_MAX, 2, REF_MAX + 1)])
def test_get(word, before, result, after):
    word.value = before
    assert word.get() == result
    assert word.value == after


def test_put_of_one_of_several(word):
    word.value = 3
    assert not word.put()
    assert word.value == 2


def test_put_of_the_last_freezes(word):
    word.value = 1
    assert word.put()
    assert word.value == FROZEN


def test_put_when_somebody_revived_the_folio(segments, between):
    word = Word(segments())
    if word.segment.world.compiled:
        word.value = 0  # T1 has dropped the last one, and has not frozen yet
        assert word.try_get() == word.segment.layout.GOT
        assert not word.freeze(0)
        assert word.value == 1
    else:
        word.value = 1
        with between(word.segment, "cmpxchg_acquire", word.try_get):
            assert not word.put()
        assert word.value == 1
    assert word.put()


def test_put_when_the_reviver_was_the_winner(segments, between):
    """T1 drops to 0; T2 gets and puts: T2 wins, T1 does not."""
    word = Word(segments())
    won = []

    def revive_and_put():
        word.try_get()
        won.append(word.put())

    if word.segment.world.compiled:
        word.value = 0
        revive_and_put()
        assert not word.freeze(0)
    else:
        word.value = 1
        with between(word.segment, "cmpxchg_acquire", revive_and_put):
            assert not word.put()
    assert won == [True]
    assert word.value == FROZEN


@pytest.mark.parametrize("n", [0, 1, 2, 9])
def test_freeze_of_exactly_n(word, n):
    word.value = n
    assert word.freeze(n)
    assert word.value == FROZEN


@pytest.mark.parametrize(("value", "n"), [(1, 2), (3, 2), (0, 1), (FROZEN, 1), (FROZEN + 1, 1)])
def test_freeze_of_another_number_changes_nothing(word, value, n):
    word.value = value
    assert not word.freeze(n)
    assert word.value == value


@pytest.mark.parametrize("operation", ["init", "unfreeze"])
@pytest.mark.parametrize("n", [1, 2, 500])
@pytest.mark.parametrize("leftovers", [0, 3])
def test_init_and_unfreeze(word, operation, n, leftovers):
    word.value = FROZEN + leftovers
    getattr(word, operation)(n)
    assert word.value == n == word.count()


@pytest.mark.parametrize("value", [0, 1, REF_MAX, FROZEN, FROZEN + 3, 0xFFFFFFFF])
def test_count_is_the_word(word, value):
    word.value = value
    assert word.count() == value


def test_only_the_count_is_touched(segment):
    page = segment.at(5)
    for at in range(page - 64, page + 128, 4):
        segment.write(at, 0xABCD1234)
    before = bytes(segment.buffer)
    for operation in (("init", 1), ("try_get",), ("get",), ("put",), ("freeze", 2), ("try_get",), ("unfreeze", 1), ("put",)):
        getattr(segment.page_ref, operation[0])(page, *operation[1:])
    assert segment.read(page) == FROZEN
    segment.write(page, 0xABCD1234)
    assert bytes(segment.buffer) == before


@pytest.mark.parametrize("make", [compiled, interpreted])
@given(steps=st.lists(st.sampled_from(["try_get", "put", "freeze1", "freeze2", "unfreeze", "get"]), max_size=40))
def test_any_sequence_follows_the_table(make, steps):
    """Against a model: live with n references, or frozen. Only holders put and get; only the owner unfreezes."""
    word = _word_of(make)
    word.value, live = 1, 1
    for step in steps:
        if step == "try_get":
            assert word.try_get() == (word.segment.layout.GOT if live else word.segment.layout.DEAD)
            live += 1 if live else 0
        elif step == "get" and live:
            assert word.get() == word.segment.layout.GOT
            live += 1
        elif step == "put" and live:
            live -= 1
            assert word.put() == (live == 0)
        elif step.startswith("freeze") and live:
            n = int(step[-1])
            assert word.freeze(n) == (live == n)
            live = 0 if live == n else live
        elif step == "unfreeze" and not live:
            word.unfreeze(2)
            live = 2
        assert word.value == (live or FROZEN)


_words = {}


def _word_of(make):
    if make not in _words:
        _words[make] = Word(Segment(make()))
    return _words[make]


def test_one_winner_per_life_under_threads(segments):
    """Threads get and put one folio; the one that freezes it is its only owner, and starts its next life with one reference."""
    segment = segments()
    page, owner = segment.at(5), segment.at(6)
    ref = segment.unlocked.page_ref

    def visit(me, held):
        lives = 0
        for _ in range(1500):
            held = held or ref.try_get(page) == segment.layout.GOT
            if held and ref.put(page):
                lives += 1
                segment.write(owner, me)
                assert ref.try_get(page) == segment.layout.DEAD
                assert segment.read(owner) == me
                ref.init(page, 1)
            else:
                held = False
        return lives + (held and ref.put(page))

    ref.init(page, 1)
    lives = together(*(lambda me=me: visit(me, held=me == 1) for me in (1, 2, 3)))
    assert sum(lives) > 0
    assert segment.read(page) == FROZEN
