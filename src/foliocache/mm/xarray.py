"""The index of a mapping: a radix tree of 64-slot nodes from units to folios, after the kernel's ``lib/xarray.c``.

The index counts *units*, which have one size in a mapping. A folio of span k has 2^k of them, aligned, and a slot for each; all
of these slots name the folio by its first page. k is NODE_SHIFT at most, so they are neighbours in one leaf.

An object's size never changes, so its tree has its full height from the start: ``height`` levels of nodes below one word, the
*head*; at height 0 the head is the only slot. Nothing that guides a walk is stored in a node. An index beyond the tree aliases
one within it, so the caller checks (``mapping.last_index``).

An entry is a word: 0; a node's object number with bit 0 set; or a folio's pfn + 1, shifted left.

**Readers take no lock.** A node may be freed and used again, for another tree, during a reader's walk. What a reader loads is
therefore only a hint: an entry is bounds-checked before it is followed, the walk has ``height`` steps whatever it loads, and
the caller verifies the folio at its end (get it, load the same slot again, compare its identity; see ``filemap``). A stale walk
costs a retry or a false miss, and a miss is confirmed under the lock.

**No access here needs an order.** Entries are published and loaded relaxed, where the kernel uses rcu_assign_pointer and
rcu_dereference: a reader that sees a new node's entry before the node's cleared slots follows a hint from the node's former
life, which is no worse than arriving late; and what a reader may believe of a folio comes from the get, whose acquire pairs
with the folio's ``page_ref.init``. A reader that could misuse the folio after an erase sees the slot as erased: the drop that
follows the erase is a release, and the reader's get is an acquire. ``python -m foliocache.check.coverage`` lists what each of
these is needed for.

Writers hold the tree lock of the mapping. ``store`` makes the missing nodes, then looks at all slots, then fills them, which
cannot fail. ``erase`` clears the slots first and frees emptied nodes afterwards, from the leaf up. A reader may find a folio by
one of its slots while another is still (or already) empty: it has the folio, or a false miss.
"""

import cython

if not cython.compiled:
    from . import atomics, folio, layout, page_ref, page_type, slab


def height_for(count):
    """Return the levels of nodes that ``count`` indices need; count <= 2^XA_INDEX_BITS."""
    height = 0
    while count > 1:
        count = (count + layout.NODE_MASK) >> layout.NODE_SHIFT
        height += 1
    return height


def find(mem, head, height, index):
    """Return the offset of the slot for an index within the tree; 0 if there is no node on the way to it."""
    slot = head
    while height > 0:
        height -= 1
        node = node_at(mem, atomics.load_relaxed(mem, slot))
        if node == 0:
            return 0
        slot = slot_at(node, height, index)
    return slot


def load(mem, slot):
    """Return the pfn in a slot, or NIL."""
    return pfn_of(mem, atomics.load_relaxed(mem, slot))


def reload(mem, slot):
    """Load a slot once more, after a get, and return the pfn in it: the kernel's xas_reload.

    Relaxed is enough. The acquire of the get keeps this load after the get. The clear that this load must not miss precedes the
    remover's drop, which is a release; a get that could misuse the folio has read from that drop, so it sees the clear.
    """
    return pfn_of(mem, atomics.load_relaxed(mem, slot))


def next_index(mem, head, height, index, last):
    """Return the first index in index .. last that holds a folio, or last + 1. Empty subtrees are skipped whole."""
    while index <= last:
        level = _empty_level(mem, head, height, index)
        if level == layout.NIL:
            return index
        index = ((index >> (level * layout.NODE_SHIFT)) + 1) << (level * layout.NODE_SHIFT)
    return last + 1


def room(mem, head, height, index, span, last):
    """Return the largest span, up to ``span``, of an aligned range around index that ends at ``last`` at most and has only
    empty slots; under the tree lock. The slot for index is empty."""
    found = 0
    while found < span:
        first = index >> found + 1 << found + 1
        end = first + (2 << found) - 1
        if end > last or next_index(mem, head, height, first, end) <= end:
            break
        found += 1
    return found


def store(mem, me, head, height, index, span, pfn, ino):
    """Publish a folio that the caller has set up, in the 2^span slots from index on; under the tree lock.

    Returns XA_OK. Otherwise the tree is as it was: XA_EXISTS, one of the slots is taken; XA_NOMEM, no memory for a node;
    XA_BROKEN, the same, and a node could not be given back.
    """
    status = _put(mem, me, 0, head, height, index, span, pfn, ino)
    if status == layout.XA_NOMEM and erase(mem, me, head, height, index, span, pfn) & layout.XA_LEAKED:
        return layout.XA_BROKEN
    return status


def erase(mem, me, head, height, index, span, pfn):
    """Clear those of the 2^span slots from index on that name the folio, then free the nodes that this leaves empty; under the
    tree lock.

    The caller drops the slots' reference afterwards, never before. Returns two bits: XA_CLEARED if a slot named the folio;
    XA_LEAKED if a node could not be given back, so that it is in use and linked nowhere, until a repair of the tree frees it.
    """
    return _erase(mem, me, head, height, index, span, pfn) & ~layout.XA_COUNT


def recount(mem, me, head, height, ino):
    """Repair the tree after a writer was killed; under the tree lock. Returns the number of folios.

    A folio stays if all of its slots name it, it says the same of itself, and it is not frozen: only reclaim freezes a folio
    that has slots, with the tree lock held, so a frozen one was being evicted by the dead writer. Every other slot is cleared.
    A folio that had only some of its slots is named in the dead writer's client slot, and the reaper settles its reference.
    Empty nodes are freed.
    """
    return _recount(mem, me, head, height, 0, layout.SPAN_MAX if height else 0, ino)


def is_linked(mem, head, height, number):
    """Return True if the node is where it says it is in this tree; under the tree lock."""
    node = slab.at(mem, layout.SLAB_NODES, number)
    level = atomics.read32(mem, node + layout.NODE_LEVEL)
    slot = head
    while height > 0:
        height -= 1
        entry = atomics.load_relaxed(mem, slot)
        if height == level:
            return entry == number << 1 | layout.XA_NODE
        above = node_at(mem, entry)
        if above == 0:
            return False
        slot = slot_at(above, height, atomics.read64(mem, node + layout.NODE_INDEX))
    return False


def node_at(mem, entry):
    """Return the offset of the node that an entry points to, or 0 if it points to none."""
    if not entry & layout.XA_NODE:
        return 0
    return slab.at(mem, layout.SLAB_NODES, entry >> 1)


def _own_node_at(mem, entry):
    """As ``node_at``, for writers: 0 also if the node's page is not a page of nodes. The tree lock keeps a linked node
    there."""
    return node_at(mem, entry) if slab.holds(mem, layout.SLAB_NODES, entry >> 1) else 0


def slot_at(node, level, index):
    """Return the offset of the slot for index in a node at level."""
    return node + layout.NODE_SLOTS + ((index >> (level * layout.NODE_SHIFT)) & layout.NODE_MASK) * 4


def pfn_of(mem, entry):
    """Return the pfn that an entry stands for, or NIL if it stands for no page of this segment."""
    if entry == 0 or entry & layout.XA_NODE or (entry >> 1) > atomics.npages(mem):
        return layout.NIL
    return (entry >> 1) - 1


def _empty_level(mem, head, height, index):
    """Return the level up to which everything around index is empty; NIL if there is a folio at index."""
    slot = head
    while height > 0:
        node = node_at(mem, atomics.load_relaxed(mem, slot))
        if node == 0:
            return height
        height -= 1
        slot = slot_at(node, height, index)
    return 0 if load(mem, slot) == layout.NIL else layout.NIL


def _put(mem, me, parent, slot, level, index, span, pfn, ino):
    """Make the nodes on the way from slot down to index, then fill the slots at its end. parent is the node that holds slot, 0
    for the head."""
    if level == 0:
        for n in range(1 << span):
            if atomics.load_relaxed(mem, slot + n * 4) != 0:
                return layout.XA_EXISTS
        for n in range(1 << span):
            _publish(mem, parent, slot + n * 4, (pfn + 1) << 1)
        return layout.XA_OK
    entry = atomics.load_relaxed(mem, slot)
    if entry == 0:
        number = _new_node(mem, me, level - 1, index, ino)
        if number == layout.NIL:
            return layout.XA_NOMEM
        entry = number << 1 | layout.XA_NODE
        _publish(mem, parent, slot, entry)
    node = _own_node_at(mem, entry)
    if node == 0:
        return layout.XA_NOMEM
    return _put(mem, me, node, slot_at(node, level - 1, index), level - 1, index, span, pfn, ino)


def _publish(mem, parent, slot, entry):
    """Count an entry in its node, then store it."""
    if parent:
        atomics.write32(mem, parent + layout.NODE_COUNT, atomics.read32(mem, parent + layout.NODE_COUNT) + 1)
    atomics.store_relaxed(mem, slot, entry)


def _new_node(mem, me, level, index, ino):
    """Return the number of a cleared node, or NIL. What is written here is for audits and repair; no walk reads it. If this
    client dies before the node is linked, a repair finds it in use and not linked: see ``mapping``."""
    number = slab.alloc(mem, me, layout.SLAB_NODES, ino)
    if number == layout.NIL:
        return layout.NIL
    node = slab.at(mem, layout.SLAB_NODES, number)
    bits = (level + 1) * layout.NODE_SHIFT
    _say_where(mem, node, level, (index >> bits) << bits, ino)
    return number


def _say_where(mem, node, level, index, ino):
    """Write a node's owner and place, for audits and repair."""
    atomics.store_relaxed64(mem, node + layout.OBJECT_OWNER, ino)
    atomics.write64(mem, node + layout.NODE_INDEX, index)
    atomics.write32(mem, node + layout.NODE_LEVEL, level)


def _erase(mem, me, slot, level, index, span, pfn):
    """Clear the folio's slots below slot, and slot itself if nothing else is left below it.

    Returns how many entries were cleared in the node that holds slot (XA_COUNT), with XA_CLEARED and XA_LEAKED as ``erase``.
    """
    if level == 0:
        return _clear(mem, slot, span, pfn)
    entry = atomics.load_relaxed(mem, slot)
    node = _own_node_at(mem, entry)
    if node == 0:
        return 0
    below = _erase(mem, me, slot_at(node, level - 1, index), level - 1, index, span, pfn)
    left = atomics.read32(mem, node + layout.NODE_COUNT) - (below & layout.XA_COUNT)
    if below & layout.XA_COUNT:
        atomics.write32(mem, node + layout.NODE_COUNT, left)
    found = below & ~layout.XA_COUNT
    if left == 0:
        atomics.store_relaxed(mem, slot, 0)
        freed = slab.free(mem, me, layout.SLAB_NODES, entry >> 1)
        found = (found if freed else found | layout.XA_LEAKED) + 1
    return found


def _clear(mem, slot, span, pfn):
    """Clear those of the 2^span slots from slot on that name pfn. Returns how many, with XA_CLEARED if that is any."""
    cleared = 0
    for n in range(1 << span):
        if load(mem, slot + n * 4) == pfn:
            atomics.store_relaxed(mem, slot + n * 4, 0)
            cleared += 1
    return cleared | layout.XA_CLEARED if cleared else 0


def _recount(mem, me, slot, level, index, most, ino):
    """Repair what lies below slot. Returns the number of folios whose first slot is there."""
    entry = atomics.load_relaxed(mem, slot)
    if entry == 0:
        return 0
    if level == 0:
        return _recount_folio(mem, slot, pfn_of(mem, entry), index, most, ino)
    node = _own_node_at(mem, entry)
    if node == 0 or not slab.is_used(mem, layout.SLAB_NODES, entry >> 1):
        atomics.store_relaxed(mem, slot, 0)
        return 0
    _say_where(mem, node, level - 1, index, ino)
    count = 0
    filled = 0
    for _ in range(layout.NODE_MASK + 1):
        child = slot_at(node, level - 1, index)
        count += _recount(mem, me, child, level - 1, index, most, ino)
        filled += atomics.load_relaxed(mem, child) != 0
        index += 1 << ((level - 1) * layout.NODE_SHIFT)
    atomics.write32(mem, node + layout.NODE_COUNT, filled)
    if filled == 0:
        atomics.store_relaxed(mem, slot, 0)
        slab.free(mem, me, layout.SLAB_NODES, entry >> 1)
    return count


def _recount_folio(mem, slot, pfn, index, most, ino):
    """Keep a slot or clear it. Returns 1 for the first slot of a folio that is kept.

    A folio's first slot is visited first. There all of its slots are compared; at each of the others it is enough to see
    whether the first one was kept.
    """
    if pfn == layout.NIL or not _belongs(mem, pfn, index, most, ino):
        atomics.store_relaxed(mem, slot, 0)
        return 0
    behind = index - atomics.read64(mem, atomics.folio_at(mem, pfn) + layout.F_INDEX)
    whole = load(mem, slot - behind * 4) == pfn if behind else _is_whole(mem, slot, pfn)
    if not whole:
        atomics.store_relaxed(mem, slot, 0)
        atomics.store_relaxed(mem, atomics.folio_at(mem, pfn) + layout.F_ATTACHED, 0)
        return 0
    if behind:
        return 0
    page_type.set(mem, pfn, layout.TYPE_FILE, page_type.order(mem, pfn), page_type.span(mem, pfn))
    atomics.store_relaxed(mem, atomics.folio_at(mem, pfn) + layout.F_ATTACHED, 1)
    return 1


def _is_whole(mem, slot, pfn):
    """Return True if all slots of a folio name it; slot is the first."""
    for n in range(1 << page_type.span(mem, pfn)):
        if load(mem, slot + n * 4) != pfn:
            return False
    return True


def _belongs(mem, pfn, index, most, ino):
    """Return True if a folio may have the slot for index in ino's tree: its span is ``most`` at most, and it is aligned, so
    that its slots are in one leaf."""
    at = atomics.folio_at(mem, pfn)
    if (
        page_ref.is_frozen(mem, at)
        or page_type.type(mem, pfn) != layout.TYPE_FILE
        or not folio.is_identity(mem, pfn, ino, index)
    ):
        return False
    span = page_type.span(mem, pfn)
    return span <= most and atomics.read64(mem, at + layout.F_INDEX) & ((1 << span) - 1) == 0
