"""mapping: how folios come into their slots and go, where words are damaged and nodes missing; in the interpreted world."""

import pytest
from calls import Calls
from test_mapping import insert
from test_mapping_steps import is_broken, tree_lock
from world import ME, Segment, interpreted


@pytest.fixture
def segment():
    return Segment(interpreted())


@pytest.fixture
def calls(segment, monkeypatch):
    return Calls(segment, monkeypatch)


def test_a_folio_says_whose_it_is_before_it_has_a_slot(segment, calls):
    ino, pfn = segment.open(1), segment.new_file()
    digest = segment.at(pfn) + segment.layout.F_DIGEST
    calls.replace("xarray.store", [segment.layout.XA_NOMEM, segment.layout.XA_BROKEN], lambda: segment.read64(digest))
    assert insert(segment, ino, 0, pfn) == segment.layout.XA_NOMEM and not is_broken(segment, tree_lock(segment, ino))
    assert [seen for *_, seen in calls.made] == [1]
    assert insert(segment, ino, 0, pfn) == segment.layout.XA_BROKEN and is_broken(segment, tree_lock(segment, ino))
    assert (segment.mapping.folios(ino), segment.field(pfn, segment.layout.F_ATTACHED)) == (0, 0)


def test_no_folio_beyond_the_tree(segment, calls):
    ino, pfn = segment.open(1), segment.new_file()
    calls.replace("xarray.store", [segment.layout.XA_OK] * 2)
    assert insert(segment, ino, 64, pfn) == segment.layout.XA_EXISTS and calls.made == []
    assert insert(segment, ino, 63, pfn) == segment.layout.XA_OK and segment.mapping.folios(ino) == 1


INSIDE = [(0, 0), (63, 0), (62, 1), (60, 2), (56, 3), (0, 4), (48, 4)]
OUTSIDE = [(64, 0), (64, 2), (1, 1), (63, 1), (61, 2), (62, 2), (52, 3), (8, 4), (56, 4), (1 << 40, 0)]


@pytest.mark.parametrize(("index", "span"), INSIDE + OUTSIDE)
def test_a_folio_whose_words_are_damaged_is_not_looked_for(segment, calls, index, span):
    ino, pfn = segment.open(1), segment.new_file(order=4, ino=1)
    segment.page_type.set(pfn, segment.layout.TYPE_FILE, 4, span)
    segment.write64(segment.at(pfn) + segment.layout.F_INDEX, index)
    segment.set_field(pfn, segment.layout.F_ATTACHED, 1)
    segment.write(segment.mapping.record(ino) + segment.layout.MAPPING_FOLIOS, 5)
    calls.replace("xarray.erase", [segment.layout.XA_CLEARED])
    inside = (index, span) in INSIDE
    assert segment.mapping.remove(ME, ino, pfn) == 5 - inside == segment.mapping.folios(ino)
    assert len(calls.made) == inside and segment.field(pfn, segment.layout.F_ATTACHED) == 0


@pytest.mark.parametrize(("erased", "left"), [("XA_LEAKED", 5), ("XA_CLEARED", 4)])
def test_a_leaked_node_is_left_to_a_repair(segment, calls, erased, left):
    ino, pfn = segment.open(1), segment.new_file()
    segment.write(segment.mapping.record(ino) + segment.layout.MAPPING_FOLIOS, 5)
    calls.replace("xarray.erase", [getattr(segment.layout, erased)])
    segment.mapping.lock(ME, ino)
    assert segment.mapping.remove(ME, ino, pfn) == left
    assert is_broken(segment, tree_lock(segment, ino)) == (erased == "XA_LEAKED")
