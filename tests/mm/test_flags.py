"""flags: bits, and sleeping until PG_LOCKED is cleared."""

import errno
import signal
import threading
import time

import pytest
from world import Segment, interpreted, together
from world import Word as AnyWord

SECOND = 1_000_000_000
HOUR = 3600 * SECOND  # longer than a thread may hang: a lost wake-up fails
LOCKED, WAITERS, UPTODATE, ERROR, REFERENCED, READAHEAD = 1, 2, 4, 8, 16, 32


@pytest.fixture
def word(segment):
    return Word(segment)


class Word(AnyWord):
    """The flags of a folio."""

    def __init__(self, segment):
        super().__init__(segment, segment.unlocked.flags, segment.at(7), segment.layout.F_FLAGS)


def test_the_bits_are_what_layout_says(world):
    names = "PG_LOCKED PG_WAITERS PG_UPTODATE PG_ERROR PG_REFERENCED PG_READAHEAD PG_REASON"
    assert [getattr(world.layout, name) for name in names.split()] == [1, 2, 4, 8, 16, 32, 64]


@pytest.mark.parametrize("bits", [0, LOCKED, UPTODATE | REFERENCED])
def test_init_and_load(word, bits):
    word.value = 0xFFFFFFFF
    word.init(bits)
    assert word.value == bits == word.load()


def test_mark_referenced(word):
    word.value = UPTODATE
    word.mark_referenced(UPTODATE)
    assert word.value == UPTODATE | REFERENCED


def test_mark_referenced_writes_nothing_when_the_bit_was_seen(word):
    word.value = UPTODATE
    word.mark_referenced(UPTODATE | REFERENCED)
    assert word.value == UPTODATE


def test_set_readahead(word):
    word.value = LOCKED
    word.set_readahead()
    assert word.value == LOCKED | READAHEAD


def test_clear_tells_which_bits_were_set(word):
    word.value = UPTODATE | REFERENCED
    assert word.clear(REFERENCED | READAHEAD) == REFERENCED
    assert word.clear(REFERENCED | READAHEAD) == 0
    assert word.value == UPTODATE


@pytest.mark.parametrize("result", [UPTODATE, ERROR])
@pytest.mark.parametrize("others", [0, WAITERS, REFERENCED, WAITERS | READAHEAD])
def test_unlock(word, result, others):
    word.value = LOCKED | others
    word.unlock(result)
    assert word.value == result | (others & ~WAITERS)


def test_wait_for_an_unlocked_folio_returns_at_once(word):
    word.value = UPTODATE | READAHEAD
    assert word.wait(HOUR) == UPTODATE | READAHEAD
    assert word.value == UPTODATE | READAHEAD


def test_wait_without_patience_leaves_no_mark(word):
    word.value = LOCKED
    assert word.wait(0) == LOCKED
    assert word.value == LOCKED


def test_wait_gives_up_after_its_timeout(word):
    word.value = LOCKED | READAHEAD
    assert word.wait(SECOND // 1000) & LOCKED
    assert word.value == LOCKED | WAITERS | READAHEAD


def test_other_words_of_the_folio_are_not_touched(word):
    before = bytes(word.segment.buffer)
    for call in (("init", LOCKED), ("mark_referenced", 0), ("set_readahead",), ("unlock", ERROR), ("clear", 0xFFFFFFFF)):
        getattr(word, call[0])(*call[1:])
    word.init(0)
    assert bytes(word.segment.buffer) == before


@pytest.mark.parametrize("result", [UPTODATE, ERROR])
def test_unlock_wakes_all_who_wait(word, result):
    """Repeatedly, so that the unlock meets the waiters at every stage of going to sleep."""

    def wait():
        return word.wait(HOUR)

    for _ in range(150):
        word.init(LOCKED)
        assert together(wait, wait, lambda: word.unlock(result)) == [result, result, None]
        assert word.value == result


@pytest.mark.parametrize("result", [UPTODATE, ERROR])
def test_unlock_wakes_all_who_sleep(word, result):
    """The unlock comes when both waiters have set PG_WAITERS and sleep, as far as that can be observed."""

    def wait():
        return word.wait(HOUR)

    def unlock():
        while not word.value & WAITERS or _sleepers(word) < 2:
            time.sleep(0)
        word.unlock(result)

    for _ in range(20):
        word.init(LOCKED)
        assert together(wait, wait, unlock) == [result, result, None]


def _sleepers(word):
    """Return how many sleep on the futex; the kernel does not say."""
    return 2 if word.segment.world.compiled else len(word.segment.mem.sleepers[word.at + word.segment.layout.F_FLAGS])


def test_unlock_before_the_sleep_is_not_slept_through(segments, between):
    """The word changes between the waiter's cmpxchg and its futex call: the futex does not sleep."""
    word = Word(segments())
    word.value = LOCKED
    if word.segment.world.compiled:
        together(lambda: word.wait(HOUR), lambda: word.unlock(UPTODATE))
        assert word.value == UPTODATE
        return
    with between(word.segment, "futex_wait", lambda: word.unlock(UPTODATE)):
        assert word.wait(HOUR) == UPTODATE


def test_a_changed_word_makes_the_waiter_look_again(segments, between):
    """The word changes between the waiter's load and its cmpxchg: it marks the new value."""
    word = Word(segments())
    if word.segment.world.compiled:
        word.value = LOCKED
        together(lambda: word.wait(SECOND // 1000), word.set_readahead)
        assert word.value & (LOCKED | READAHEAD) == LOCKED | READAHEAD
        return
    word.value = LOCKED
    with between(word.segment, "cmpxchg_relaxed", word.set_readahead):
        assert word.wait(SECOND // 1000) == LOCKED | WAITERS | READAHEAD


def test_nobody_waits_for_an_unlocked_folio(word):
    word.value = UPTODATE
    assert word.begin_wait() == word.value == UPTODATE


def test_an_unlock_after_the_first_look(monkeypatch):
    """The second look finds it: there is no sleep."""
    word = Word(Segment(interpreted()))
    word.value, times = LOCKED, iter((0, lambda: word.unlock(UPTODATE)))

    def now_ns():
        time = next(times)
        return time() or 1 if callable(time) else time

    monkeypatch.setattr(word.segment.world.atomics, "now_ns", now_ns)
    monkeypatch.setattr(word.segment.world.atomics, "futex_wait", lambda *args: pytest.fail("it sleeps"))
    assert word.wait(HOUR) == word.value == UPTODATE


def test_the_end_of_the_patience_is_no_time_to_wait(monkeypatch):
    word = Word(Segment(interpreted()))
    word.value = LOCKED
    monkeypatch.setattr(word.segment.world.atomics, "now_ns", lambda: 7)
    monkeypatch.setattr(word.segment.world.atomics, "futex_wait", lambda *args: pytest.fail("it sleeps"))
    assert word.wait(0) == word.value == LOCKED


def test_the_sleep_is_on_the_value_with_the_mark(monkeypatch):
    """The futex compares with the value that the waiter has stored: LOCKED with WAITERS, never an earlier one."""
    word = Word(Segment(interpreted()))  # the compiled core's futex calls cannot be watched
    slept_on = []

    def futex_wait(mem, at, expected, timeout_ns):
        slept_on.append((at, expected, word.value))
        word.unlock(UPTODATE)
        return errno.EAGAIN

    monkeypatch.setattr(word.segment.world.atomics, "futex_wait", futex_wait)
    word.value = LOCKED
    assert word.wait(SECOND) == UPTODATE
    assert slept_on == [(word.at + word.segment.layout.F_FLAGS, LOCKED | WAITERS, LOCKED | WAITERS)]


def test_a_signal_ends_the_wait(segments, monkeypatch):
    """It returns the flags, still locked, so that Python can run its handlers."""
    word = Word(segments())
    word.value = LOCKED
    if not word.segment.world.compiled:
        monkeypatch.setattr(word.segment.world.atomics, "futex_wait", lambda *args: errno.EINTR)
        assert word.wait(HOUR) == LOCKED | WAITERS
        return
    seen, over = [], threading.Event()
    before = signal.signal(signal.SIGUSR1, lambda *args: seen.append(args))
    main = threading.get_ident()

    def interrupt():
        while not over.wait(0.001):  # again and again, as the first one may come before the sleep
            if word.value & WAITERS:
                signal.pthread_kill(main, signal.SIGUSR1)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        assert word.wait(HOUR) == LOCKED | WAITERS
    finally:
        over.set()
        thread.join(60)
        signal.signal(signal.SIGUSR1, before)
    assert seen
