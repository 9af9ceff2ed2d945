"""Keys: equal strings are one key, different strings never are."""

import enum
import re

import numpy as np
import pytest

import foliocache
from foliocache.mm import layout
from foliocache.pool import mapping


class Name(str, enum.Enum):  # noqa: UP042 - as programs older than StrEnum have it
    DATA = "data"


class Masked(str):
    def __repr__(self):
        return "'***'"

    def __str__(self):
        return "***"

    def encode(self, *args):
        return b"***"

    def __format__(self, spec):
        return "***"


class Shout(enum.StrEnum):
    DATA = "data"


@pytest.mark.parametrize("key", [Name.DATA, Shout.DATA, np.str_("data"), Masked("data")])
@pytest.mark.parametrize("what", ["key", "version"])
def test_a_string_is_the_characters_that_it_has(pool, make_source, key, what):
    first, second = make_source(100), make_source(100, seed=1)
    names = {"key": "data", "version": "data"}
    pool.mapping(size=100, read=first.read, **names).read(0, 100)
    mapping = pool.mapping(size=100, read=second.read, **(names | {what: key}))
    assert mapping.read(0, 100) == first.content and second.calls == []
    assert type(mapping.key) is str and type(mapping.version) is str
    assert [(found.key, found.version) for found in pool.mappings()] == [("data", "data")]


def test_what_a_string_says_of_itself_does_not_make_two_one(pool, make_source):
    sources = {Masked(name): make_source(100, seed) for seed, name in enumerate(("one", "two", "three"))}
    for key, source in sources.items():
        assert pool.mapping(key, 100, "v", source.read).read(0, 100) == source.content
    assert pool.forget(Masked("two")) == 1
    assert {found.key for found in pool.mappings()} == {"one", "three"}


PAIRS = [
    (("ab", 1, "c"), ("a", 1, "bc")),
    (("a", 11, "1"), ("a", 1, "11")),
    (("a', 1, 'b", 1, ""), ("a", 1, "b', 1, '")),
    (("a\0", 1, "b"), ("a", 1, "\0b")),
    (("\ud800", 1, ""), ("?", 1, "")),
    (("\ud83d\ude00", 1, ""), ("\U0001f600", 1, "")),
    (("\udcff", 1, ""), ("\udcfe", 1, "")),
    (("a", 1, ""), ("", 1, "a")),
]


@pytest.mark.parametrize("pair", PAIRS)
def test_two_objects_never_share_a_name(pool, pair):
    for number, (key, size, version) in enumerate(pair):
        mapping = pool.mapping(key, size, version, lambda offset, length, number=number: bytes([number]) * length)
        assert mapping.read(0, size) == bytes([number]) * size
    assert len(pool.mappings()) == 2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"read": b"abc"}, "read must be a function that is called with (offset, length), not b'abc'"),
        ({"readinto": bytearray(9)}, "readinto must be a function that is called with (offset, buffer), not bytearray(b'"),
        ({"source": "x"}, "source must be an object with the method read_into or read_into_async"),
        ({"source": lambda offset, length: b""}, "source must be an object with the method read_into or read_into_async"),
    ],
)
def test_what_cannot_be_called_is_no_source(pool, given, said):
    with pytest.raises(TypeError, match=re.escape(said)):
        pool.mapping("k", 100, "1", **given)


def test_bad_names_are_refused_in_words(pool):
    for key in (b"k", 5, None, ["k"]):
        with pytest.raises(ValueError, match="the key of an object must be a string, not"):
            pool.mapping(key, 10)
        with pytest.raises(ValueError, match="must be a string, not"):
            pool.forget(key)
        with pytest.raises(ValueError, match="the version of an object must be a string, not"):
            pool.mapping("k", 10, key)


@pytest.mark.parametrize("size", [np.int64(10), np.uint8(10), 10])
def test_a_size_is_whatever_has_an_index(pool, size):
    assert pool.mapping("k", size, "v", lambda offset, length: b"x" * length).read(0, 20) == b"x" * 10
    assert pool.mapping("k", 10, "v").read(0, 10) == b"x" * 10


@pytest.mark.parametrize("size", [True, np.bool_(True), 10.0, np.float64(10), "10", None, -1, np.int64(-1), np.array([1, 2])])
def test_what_is_no_size(pool, size):
    with pytest.raises(ValueError, match="the size of 'k' must be a number of bytes, not"):
        pool.mapping("k", size)


def test_the_mapping_without_a_source_reads_what_is_cached(pool, source):
    pool.mapping("k", len(source.content), "v", source.read).read(0, 10)
    assert pool.mapping("k", len(source.content), "v").read(0, 10) == source.content[:10]
    with pytest.raises(foliocache.SourceError, match="without a source"):
        pool.mapping("k", len(source.content), "w").read(0, 10)


def test_a_digest_is_of_all_and_its_upper_half_word_of_the_key():
    """By which the ghosts of one version are those of another (``mm.ghost``)."""
    said = [("k", 1, ""), ("k", 2, ""), ("k", 1, "2"), ("k", 1, "", 4096), ("l", 1, "")]
    digests = [mapping.pool_digest(*one) for one in said]
    words = [int.from_bytes(digest[:8], "little") for digest in digests]
    keys = [word >> layout.KEY_SHIFT for word in words]
    assert keys == [int.from_bytes(mapping.key_digest(key[0]), "little") >> layout.KEY_SHIFT for key in said]
    assert len(set(keys[:4])) == 1 and len(set(keys)) == 2
    assert [len({digest[at:end] for digest in digests}) for at, end in ((0, 4), (8, 12), (12, 16))] == [5, 5, 5]
    whole = [int.from_bytes(mapping.pool_digest(*one, is_whole=True)[:8], "little") for one in said]
    assert [word | 1 << layout.WHOLE_SHIFT for word in words] == whole
    assert not any(word >> layout.WHOLE_SHIFT & 1 for word in words)


def test_digests_of_tiers_stay_what_they_are():
    """Tiers on disks outlive a version of the package."""
    assert mapping.object_digest("key", 1000, "v1").hex() == "27e2a764f9026bcc8642f1a811de94e4"
