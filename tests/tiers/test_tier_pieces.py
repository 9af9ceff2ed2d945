"""How ranges are divided into pieces and blocks, beside the plainest way to say it."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from foliocache.tiers import pieces

KIB = 1 << 10
PIECE, BLOCK, TRAILED = 64 * KIB, 1024 * KIB, 64 * KIB + 8
NAME = b"folio:{0123"


def key(offset, length):
    return b"%s:%x}:%x:%x" % (NAME, offset // (4 << 20), offset, length)


def cut(offset, length):
    """Piece by piece, as (begin, end)."""
    cuts = [offset, *range((offset // PIECE + 1) * PIECE, offset + length, PIECE), offset + length]
    return [(a, b) for a, b in pairwise(cuts) if a < b]


def place(begin, end):
    if end - begin < PIECE:
        return None
    return key(begin // BLOCK * BLOCK, BLOCK), begin % BLOCK // PIECE * TRAILED


@pytest.mark.parametrize("offset", [0, 1, PIECE - 1, 15 * PIECE, (4 << 20) - PIECE, 1 << 40, (1 << 62) + 1])
def test_keys(offset):
    for length in (1, PIECE, BLOCK):
        assert pieces.key(NAME, offset, length) == key(offset, length)


@pytest.mark.parametrize("length", [0, 1, PIECE - 1, PIECE, PIECE + 1, BLOCK, 3 * BLOCK + 5])
def test_spans(length):
    for offset in (0, 1, PIECE - 1, PIECE, 7 * PIECE + 100, 1 << 40):
        assert pieces.spans_of(offset, length) == cut(offset, length)


def test_wrong_numbers_are_refused():
    for offset, length in ((-1, 1), (0, -1), (1 << 64, 1)):
        with pytest.raises(OverflowError):
            pieces.key(NAME, offset, length)


@pytest.mark.parametrize(("offset", "length"), [((1 << 63) - 1, 1), (1 << 63, 0), ((1 << 64) - 1, 2), ((1 << 64) - PIECE, 5)])
def test_ranges_behind_the_largest_object_are_refused(offset, length):
    """They would have no pieces, and a range without pieces is found."""
    with pytest.raises(OverflowError):
        pieces.spans_of(offset, length)
    with pytest.raises(OverflowError):
        pieces.divided(NAME, [(offset, memoryview(bytes(length)))])


def test_the_last_range_of_the_largest_object():
    offset = (1 << 63) - 1 - PIECE
    assert pieces.spans_of(offset, PIECE) == cut(offset, PIECE)
    assert pieces.divided(NAME, [(offset, memoryview(bytes(PIECE)))])[0] == [key(a, b - a) for a, b in cut(offset, PIECE)]


@pytest.mark.parametrize("seed", range(20))
def test_division(seed):
    chosen = random.Random(seed)
    parts, expected, at = [], [], 0
    for number in range(chosen.choice([0, 1, 1, 2, 5])):
        at = chosen.choice([at, at, chosen.randrange(0, 6 << 20), chosen.randrange(96) * PIECE])
        length = chosen.choice([0, 1, 100, PIECE, 4 * PIECE, BLOCK, 2 * BLOCK + 7])
        data = chosen.randbytes(length)
        parts.append((at, memoryview(data)))
        expected += [(key(b, e - b), data[b - at : e - at], place(b, e), number) for b, e in cut(at, length)]
        at += length
    keys, views, blocks, owners = pieces.divided(NAME, parts)
    assert list(zip(keys, map(bytes, views), blocks, owners, strict=True)) == expected
    for view in views:
        view.release()
    for _, part in parts:
        part.release()  # nothing of it is lent any more


def whole(blocks):
    """The places that belong to 16 in a row that are a block."""
    found = [None] * len(blocks)
    for n in range(len(blocks) - 15):
        sixteen = blocks[n : n + 16]
        if None not in sixteen and sixteen == [(sixteen[0][0], m * TRAILED) for m in range(16)]:
            found[n : n + 16] = sixteen
    return found


@pytest.mark.parametrize("seed", range(20))
def test_complete_blocks(seed):
    """Runs of pieces that begin and end anywhere, some with a piece that is missing, twice there, or of another block."""
    chosen = random.Random(seed)
    blocks = []
    for _ in range(8):
        first, count = chosen.choice([(0, 16), (0, 32), (0, 15), (5, 27), (16, 16), (3, 2)])
        run = [place(n * PIECE, (n + 1) * PIECE) for n in range(first, first + count)]
        if chosen.random() < 0.3:
            at = chosen.randrange(len(run))
            run[at : at + chosen.choice([0, 1])] = [chosen.choice([None, run[at], place(99 * PIECE, 100 * PIECE)])]
        blocks += run
    assert pieces.complete(blocks) == whole(blocks)
    assert pieces.complete([]) == []
