"""What docs/tiers.md says of eviction on disk holds on small traces."""

import pytest

from benchmarks.tiers import eviction

pytest.importorskip("crc32c")
pytestmark = pytest.mark.usefixtures("alone_with_benchmarks")


def test_the_tier_keeps_more_than_fifo_and_writes_less():
    found = dict(eviction.rows(100, tiny=True))
    assert set(found) == {"Zipf 0.9, pool 10 %", "shuffled epochs, pool 50 %"}
    for ours, open_to_all, plain, *_, optimum, writes, plain_writes in found.values():
        assert plain < ours <= optimum and open_to_all <= optimum
        assert writes < 0.6 * plain_writes
    assert found["Zipf 0.9, pool 10 %"][0] > plain


def test_a_filter_leaves_what_it_misses():
    assert eviction.filtered([1, 2, 1, 3, 2, 1], 2) == [1, 2, 3, 2, 1]
    assert eviction.fifo([1, 2, 1, 3, 1], 2, 0) == pytest.approx(1 / 5)
