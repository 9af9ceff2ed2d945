"""Messages quote what they were given; of what is long, both ends."""

import pytest

import foliocache
from foliocache import sizes
from foliocache.sizes import quoted
from foliocache.tiers import urls

HUGE = "x" * 10_000_000
MOST = 1000  # characters of a message
DIGITS = 10**5000  # Python refuses to write it


def wrong_length(offset, length):
    return b""


def bytes_of(offset, length):
    return bytes(length)


GIVEN = {
    "a pool's name": lambda pool: foliocache.open(HUGE, size="1MiB"),
    "a key that is bytes": lambda pool: pool.mapping(HUGE.encode(), 10, "1"),
    "a version that is bytes": lambda pool: pool.mapping("key", 10, HUGE.encode()),
    "a size that is a text": lambda pool: pool.mapping(HUGE, HUGE, "1"),
    "a size that is too large": lambda pool: pool.mapping(HUGE, DIGITS, "1"),
    "a folio size": lambda pool: pool.mapping("key", 10, "1", folio_size=DIGITS),
    "a source": lambda pool: pool.mapping("key", 10, "1", HUGE),
    "an object without a source": lambda pool: pool.mapping(HUGE, 10, "1").read(0, 10),
    "an object whose source is wrong": lambda pool: pool.mapping(HUGE, 10, "1", wrong_length).read(0, 10),
    "a key to forget": lambda pool: pool.forget(HUGE.encode()),
    "a size to trim to": lambda pool: pool.trim(HUGE),
    "a size to resize to": lambda pool: pool.resize(HUGE),
    "an age": lambda pool: pool.get_or_create("key", list, expiry=HUGE),
    "a value that cannot be kept": lambda pool: pool.get_or_create(HUGE, lambda: iter([lambda: 0])),
    "what may be written": lambda pool: pool.mapping("key", 10, "1", wrong_length).window(0, 10, writable=HUGE),
    "names to ignore": lambda pool: pool.memoize(ignore=[HUGE] * 9)(wrong_length),
    "a share": lambda pool: sizes.parse_size(HUGE + "%"),
    "a tier": lambda pool: urls.guard_of(HUGE),
    "an offset": lambda pool: pool.mapping("key", 10, "1", wrong_length).read(-DIGITS, 1),
    "a byte of an object": lambda pool: pool.mapping("key", 10, "1", wrong_length)[DIGITS],
    "a byte of a lease": lambda pool: pool.mapping("key", 10, "1", bytes_of).lease(0)[DIGITS],
    "a byte of a window": lambda pool: pool.mapping("key", 10, "1", bytes_of).window(0, 10)[DIGITS],
}


@pytest.mark.parametrize("what", GIVEN)
def test_a_message_is_short_whatever_was_given(pool, what):
    with pytest.raises((ValueError, TypeError, IndexError, foliocache.FoliocacheError)) as found:
        GIVEN[what](pool)
    assert len(str(found.value)) < MOST and "Exceeds the limit" not in str(found.value)


def test_objects_say_what_they_are_in_short(pool):
    assert len(repr(pool.mapping(HUGE, 10, "1"))) < MOST


def test_what_is_quoted():
    assert quoted("a'b") == repr("a'b") and quoted(None) == "None" and quoted(10**30) == str(10**30)
    assert quoted("a" * 500 + "b").startswith("'aaa") and quoted("a" * 500 + "b").endswith("ab'")
    assert quoted(DIGITS) == "an integer of 16610 bits"


class Unreadable:
    def __repr__(self):
        raise RuntimeError("no")


def test_what_cannot_say_what_it_is():
    assert quoted(Unreadable()).startswith("<Unreadable instance")
