"""docs/scale.md has the arithmetic of benchmarks/tiers/scale.py, and what its simulation says holds."""

import pytest
from documents import page

from benchmarks.common.plan import KIB
from benchmarks.tiers import scale
from foliocache.tiers import layout

pytest.importorskip("crc32c")
pytestmark = pytest.mark.usefixtures("alone_with_benchmarks")
TEXT = page("scale.md")


def test_the_fleet_is_that_of_the_arithmetic():
    assert scale.fleet().markdown() in TEXT


@pytest.mark.parametrize(("slot", "told"), [(64 * KIB, "1.54"), (1024 * KIB, "0.10")])
def test_the_index_takes_what_it_says(slot, told):
    shape = layout.Shape(slot, layout.slots_for(scale.TB, slot), b"")
    assert f"{shape.index_bytes / scale.GB:.2f}" == told
    assert f"an index of {told} GB" in TEXT


def test_a_disk_that_holds_the_part_leaves_nothing_to_the_origin():
    pieces = 800
    sharded = scale.simulate(pieces, 12, pieces // 8, list(scale.orders("sharded", pieces, 3)))
    assert [share.origin for share in sharded] == [1, 0, 0]


def test_shuffled_it_keeps_its_share_of_all_data():
    pieces = 800
    shuffled = scale.simulate(pieces, 12, pieces // 4, list(scale.orders("shuffled", pieces, 12)))
    assert 0.65 < shuffled[-1].origin < 0.9
    assert all(abs(share.pool + share.disk + share.origin - 1) < 1e-9 for share in shuffled)
