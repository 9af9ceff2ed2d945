"""xarray.recount: what a repair of a tree keeps, what it clears, and what it writes again."""

import pytest
from test_xarray import OK, Tree
from world import ME, compiled, interpreted, small_nodes

NIL = 0xFFFFFFFF
INO = 77


@pytest.fixture(params=[compiled, interpreted, small_nodes])
def tree(request):
    """A tree of two levels, with nodes on three slots of its root."""
    return Repaired(request.param())


class Repaired(Tree):
    def __init__(self, world):
        super().__init__(world, 2)
        self.width = 1 << self.shift
        self.segment.new_file()  # so that no node has the number 0

    def folio(self, index, span=0, stored=True, order=0):
        """Return the pfn of a new folio, which all of its slots name if it is stored."""
        s, layout = self.segment, self.layout
        pfn = s.page_alloc.alloc(ME, order)
        s.client.retract(ME, pfn)
        s.folio.prepare(pfn, layout.TYPE_FILE, order, span, INO, index, 1)
        s.page_ref.init(s.at(pfn), 1)
        if stored:
            assert self.xarray.store(ME, self.head, self.height, index, span, pfn, INO) == OK
        return pfn

    def put(self, index, pfn):
        self.segment.write(self.slot(index), pfn + 1 << 1)

    def recount(self):
        return self.xarray.recount(ME, self.head, self.height, INO)

    def found(self):
        """Return what the slots name, without those that are empty."""
        slots = {index: self.load(index) for index in range(3 * self.width)}
        return {index: pfn for index, pfn in slots.items() if pfn != NIL}

    def node(self, index):
        """Return (number, offset) of the leaf for an index."""
        entry = self.segment.read(self.segment.world.xarray.slot_at(self.root(), 1, index))
        return entry >> 1, self.xarray.node_at(entry)

    def root(self):
        return self.xarray.node_at(self.segment.read(self.head))

    def attached(self, pfn):
        return self.segment.field(pfn, self.layout.F_ATTACHED)


def test_what_is_right_stays(tree):
    one, two = tree.folio(1), tree.folio(2, span=1)
    other = tree.folio(2 * tree.width)
    tree.segment.set_field(one, tree.layout.F_ATTACHED, 0)
    before = tree.found()
    assert tree.recount() == 3
    assert tree.found() == before == {1: one, 2: two, 3: two, 2 * tree.width: other}
    assert [tree.attached(pfn) for pfn in (one, two, other)] == [1, 1, 1]
    assert tree.nodes() == 3


def test_what_says_where_a_node_is_is_written_again(tree):
    tree.folio(1)
    tree.folio(2 * tree.width)
    words = {
        tree.root(): (2, 1, INO, 0),
        tree.node(1)[1]: (1, 0, INO, 0),
        tree.node(2 * tree.width)[1]: (1, 0, INO, 2 * tree.width),
    }
    for node in words:
        tree.segment.write(node + tree.layout.NODE_COUNT, 9)
        tree.segment.write(node + tree.layout.NODE_LEVEL, 9)
        tree.segment.write64(node + tree.layout.NODE_INO, 9)
        tree.segment.write64(node + tree.layout.NODE_INDEX, 9)
    assert tree.recount() == 2
    for node, (count, level, ino, index) in words.items():
        assert tree.segment.read(node + tree.layout.NODE_COUNT) == count
        assert tree.segment.read(node + tree.layout.NODE_LEVEL) == level
        assert tree.segment.read64(node + tree.layout.NODE_INO) == ino
        assert tree.segment.read64(node + tree.layout.NODE_INDEX) == index


def test_the_type_of_a_folio_is_written_again(tree):
    """Its order is impossible, so it counts as 0."""
    pfn = tree.folio(2, span=1)
    word = tree.segment.field(pfn, tree.layout.F_TYPE)
    tree.segment.set_field(pfn, tree.layout.F_TYPE, word | tree.layout.ORDER_MASK << tree.layout.ORDER_SHIFT)
    assert tree.recount() == 1
    assert tree.segment.field(pfn, tree.layout.F_TYPE) == word


def _frozen(tree, pfn):
    assert tree.segment.page_ref.freeze(tree.segment.at(pfn), 1)


def _no_file(tree, pfn):
    tree.segment.page_type.set(pfn, tree.layout.TYPE_TABLE, 0, 0)


def _of_another(tree, pfn):
    tree.segment.write64(tree.segment.at(pfn) + tree.layout.F_INO, INO + 1)


def _elsewhere(tree, pfn):
    tree.segment.write64(tree.segment.at(pfn) + tree.layout.F_INDEX, 3)


@pytest.mark.parametrize("damage", [_frozen, _no_file, _of_another, _elsewhere])
def test_what_does_not_belong_there_goes(tree, damage):
    pfn, kept = tree.folio(1), tree.folio(2)
    damage(tree, pfn)
    assert tree.recount() == 1
    assert tree.found() == {2: kept}
    assert tree.segment.read(tree.node(2)[1] + tree.layout.NODE_COUNT) == 1


def test_a_slot_that_names_no_page_goes(tree):
    kept = tree.folio(2)
    tree.put(1, tree.segment.pages)
    tree.segment.write(tree.slot(3), 1)  # a node, where there is none
    assert tree.recount() == 1
    assert tree.found() == {2: kept}
    assert [tree.segment.read(tree.slot(index)) for index in (1, 3)] == [0, 0]


def test_a_folio_that_is_not_aligned_goes(tree):
    pfn = tree.folio(1, span=1, stored=False)
    kept = tree.folio(3)
    for index in (1, 2):
        tree.put(index, pfn)
    assert tree.recount() == 1
    assert tree.found() == {3: kept}


def test_a_folio_of_more_units_than_there_may_be_goes(tree):
    span = tree.layout.SPAN_MAX + 1
    pfn = tree.folio(0, span=span, stored=False)
    kept = tree.folio(2 * tree.width)
    tree.xarray.store(ME, tree.head, tree.height, 0, 0, pfn, INO)
    for index in range(min(1 << span, tree.width)):
        tree.put(index, pfn)
    assert tree.recount() == 1
    assert tree.found() == {2 * tree.width: kept}


@pytest.mark.parametrize("missing", [0, 1, 2, 3])
def test_a_folio_that_lacks_a_slot_goes(tree, missing):
    pfn = tree.folio(0, span=2)
    kept = tree.folio(tree.width)
    tree.segment.set_field(pfn, tree.layout.F_ATTACHED, 1)
    tree.segment.write(tree.slot(missing), 0)
    assert tree.recount() == 1
    assert tree.found() == {tree.width: kept}
    assert tree.attached(pfn) == 0 and tree.nodes() == 2


def test_a_free_node_is_not_written_to(tree):
    tree.folio(1)
    kept = tree.folio(tree.width)
    number, node = tree.node(1)
    assert tree.segment.slab.free(ME, tree.layout.SLAB_NODES, number)
    before = bytes(tree.segment.buffer[node : node + tree.layout.NODE_SIZE])
    assert tree.recount() == 1
    assert tree.found() == {tree.width: kept}
    assert bytes(tree.segment.buffer[node : node + tree.layout.NODE_SIZE]) == before
    assert tree.segment.read(tree.segment.world.xarray.slot_at(tree.root(), 1, 1)) == 0 and tree.nodes() == 2


def test_a_slot_that_names_no_node_goes(tree):
    kept = tree.folio(tree.width)
    above = tree.segment.world.xarray.slot_at(tree.root(), 1, 0)
    tree.segment.write(above, NIL)
    assert tree.recount() == 1
    assert tree.found() == {tree.width: kept} and tree.segment.read(above) == 0


def test_an_empty_node_goes_after_its_slot(tree, monkeypatch):
    tree.folio(1)
    kept = tree.folio(tree.width)
    number, _ = tree.node(1)
    above, slot = tree.segment.world.xarray.slot_at(tree.root(), 1, 1), tree.slot(1)
    slab, freed = tree.segment.world.slab, []
    if not tree.segment.world.compiled:
        free = slab.free

        def watched(mem, me, cache, which):
            freed.append((which, tree.segment.read(above)))
            return free(mem, me, cache, which)

        monkeypatch.setattr(slab, "free", watched)
    tree.segment.write(slot, 0)
    assert tree.recount() == 1
    assert tree.found() == {tree.width: kept} and tree.nodes() == 2
    assert not tree.segment.slab.is_used(tree.layout.SLAB_NODES, number)
    assert tree.segment.world.compiled or freed == [(number, 0)]


def test_a_node_that_an_erase_empties_goes_after_its_slot(tree, monkeypatch):
    if tree.segment.world.compiled:
        pytest.skip("nothing comes between")
    tree.folio(1)
    tree.folio(tree.width)
    number, _ = tree.node(1)
    above = tree.segment.world.xarray.slot_at(tree.root(), 1, 1)
    slab, freed = tree.segment.world.slab, []
    free = slab.free

    def watched(mem, me, cache, which):
        freed.append((which, tree.segment.read(above)))
        return free(mem, me, cache, which)

    monkeypatch.setattr(slab, "free", watched)
    assert tree.erase(1)
    assert freed == [(number, 0)]


def test_nothing_is_kept_of_an_empty_tree(tree):
    assert tree.recount() == 0 and tree.nodes() == 0
    pfn = tree.folio(1)
    _frozen(tree, pfn)
    assert tree.recount() == 0
    assert tree.segment.read(tree.head) == 0 and tree.nodes() == 0
