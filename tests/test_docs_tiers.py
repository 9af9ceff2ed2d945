"""docs/tiers.md shows the files as they are, and the options that there are."""

import re

import pytest
from documents import page, rows

from foliocache.tiers import behind, guard, layout, urls
from foliocache.tiers.valkey import BLOCK, ValkeyTier, _key

pytest.importorskip("valkey")
TEXT = page("tiers.md")
WORDS = " ".join(TEXT.split())


def test_the_parts_are_where_it_says():
    told = {name: int(at) for name, at, _ in rows(TEXT, "part of the index", "at") if at}
    assert told == {"superblock": 0, "state": layout.STATE_AT, "table": layout.TABLE_AT}
    shape = layout.Shape(layout.SLOT, 1000, b"")
    assert layout.TABLE_AT < shape.ghosts_at < shape.marks_at < shape.headers_at < shape.index_bytes


def test_the_header_is_as_it_says():
    told = [int(at) for at, _ in rows(TEXT, "bytes of a header", "what they are")]
    fields = layout.Header(digest=b"\1" * 16, offset=2, slot=3, generation=4, length=5, crc=6, state=layout.FULL)
    data = layout.pack_header(fields, 0)
    assert data[:16] == b"\1" * 16
    assert [int.from_bytes(data[at : at + 4], "little") for at in told[1:-1]] == [2, 3, 4, 5, 6, layout.FULL]
    assert told[-1] == layout.HEADER.size - 4 and layout.HEADER.size == 64


def test_the_options_are_those():
    names = [name.strip("`") for name, _ in rows(TEXT, "option of `disk:/FOLDER`", "meaning")]
    values = {"size": "1GiB", "slot": "64KiB", "direct": "no", "timeout": "2", "rate": "1MiB", "any_owner": "yes"}
    assert names == list(values)
    assert urls.split("disk:/x?" + "&".join(f"{name}={value}" for name, value in values.items()))


def test_the_options_of_a_server_are_those():
    names = [name.strip("`") for name, _ in rows(TEXT, "option of `valkey://HOST`", "meaning")]
    values = {"timeout": "1", "cluster": "yes", "ca": "/x", "prefix": "x", "rate": "1MiB", "lease": "3"}
    assert names == list(values)
    assert f"the same; {urls.LEASE:g} by default" in WORDS
    assert urls.split("valkeys://h?" + "&".join(f"{name}={value}" for name, value in values.items()))


def test_the_keys_are_those():
    made = ValkeyTier("valkey://127.0.0.1:1", 1.0)  # it connects when it is asked for something
    name, at = made._name(b"\xab" * 16), 0x543210000
    told = [key.strip("`") for key, _ in rows(TEXT, "key, behind the prefix and `:`", "what its value is")]
    places = {"DIGEST": "ab" * 16, "OFFSET / 4 MiB": "150c", "LENGTH": "10000"}
    keys, offsets = (_key(name, at, 0x10000), _key(name, at - 0x10000, BLOCK)), (at, at - 0x10000)
    for key, pattern, offset in zip(keys, told, offsets, strict=True):
        for word, value in {**places, "OFFSET": f"{offset:x}"}.items():
            pattern = pattern.replace(word, value)
        assert key.decode() == f"folio:{pattern}"
    made.close()


def test_the_numbers_are_those():
    assert f"{layout.SLOT >> 10} KiB by default" in TEXT
    assert f"{behind.LARGE_COUNT * behind.LARGE >> 20} MiB in folios" in WORDS
    assert f"{behind.SMALL_COUNT * behind.SMALL >> 20} MiB in smaller ones" in WORDS
    assert not behind.may_pin((1 << 30) - 1) and behind.may_pin(1 << 30) and "less than 1 GiB" in WORDS
    assert f"at {layout.PACE_AT}, when" in WORDS
    assert re.search(rf"for {guard.PAUSE:.0f} s, then {2 * guard.PAUSE:.0f}, up to {guard.PAUSE_MAX:.0f}", WORDS)
    assert layout.GHOSTS_PER_SLOT == 4 and "four times as many pieces" in WORDS
