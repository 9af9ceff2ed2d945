"""The index of a mapping: a radix tree of 64-slot nodes from folio index to folio, after the kernel's ``lib/xarray.c``.

An object's size never changes, so its tree has its full height from the start: ``height`` levels of nodes below one word, the
*head*; at height 0 the head holds the only entry. Nothing that guides a walk is stored in a node.

An entry is a word: 0; a node's object number with bit 0 set; or a folio's pfn + 1, shifted left.

**Readers take no lock.** A node may be freed and used again, for another tree, while a reader stands in it. Everything it loads is therefore only a hint: an entry is bounds-checked before it is
followed, the walk has ``height`` steps whatever it meets, and the folio at its end proves itself to the caller (get it, load the
same slot again, compare its identity; see ``filemap``). A stale walk costs a retry or a false miss, and a miss is confirmed
under the lock.

**No access here needs an order.** Entries are published and loaded relaxed, where the kernel uses rcu_assign_pointer and
rcu_dereference: a reader that sees a new node's entry before the node's cleared slots follows a hint from the node's former life,
no worse than arriving late; and what a reader may believe of a folio it has from the get, whose acquire pairs with the folio's
``page_ref.init``. That an erased slot is seen as erased by who could otherwise misuse the folio is the work of the drop that
follows the erase (a release) and of the get (an acquire). ``python -m foliocache.check.coverage`` shows it.

Writers hold the tree lock of the mapping. Erasing clears the slot first and frees emptied nodes afterwards, from the leaf up.
"""

import cython

if not cython.compiled:
    from . import atomics, folio, layout, page_ref, page_type, slab


def height_for(count):
    """Levels of nodes that count indices need; count <= 2^XA_INDEX_BITS."""
    height = 0
    while count > 1:
        count = (count + layout.NODE_MASK) >> layout.NODE_SHIFT
        height += 1
    return height


def find(mem, head, height, index):
    """The offset of the slot for index, or 0 when the way there ends before."""
    slot = head
    while height > 0:
        height -= 1
        node = node_at(mem, atomics.load_relaxed(mem, slot))
        if node == 0:
            return 0
        slot = slot_at(node, height, index)
    return slot


def load(mem, slot):
    """The pfn in a slot, or NIL."""
    return pfn_of(mem, atomics.load_relaxed(mem, slot))


def reload(mem, slot):
    """The pfn in a slot once more, after a get: the kernel's xas_reload.

    Relaxed is enough: the acquire of the get before it keeps this load behind the get, and what it must not miss is a clear
    that the remover's drop was ordered after, which that get then read from.
    """
    return pfn_of(mem, atomics.load_relaxed(mem, slot))


def next_index(mem, head, height, index, last):
    """The first index in index .. last that holds a folio, or last + 1; skips empty subtrees whole."""
    while index <= last:
        level = _empty_level(mem, head, height, index)
        if level == layout.NIL:
            return index
        index = ((index >> (level * layout.NODE_SHIFT)) + 1) << (level * layout.NODE_SHIFT)
    return last + 1


def store(mem, me, head, height, index, pfn, ino):
    """Publish a folio that the caller has set up; under the tree lock. XA_OK; XA_EXISTS; XA_NOMEM (nothing has changed then); or
    XA_BROKEN: as XA_NOMEM, but a node could not be given back."""
    status = _put(mem, me, 0, head, height, index, pfn, ino)
    if status == layout.XA_NOMEM and not erase(mem, me, head, height, index):
        return layout.XA_BROKEN
    return status


def erase(mem, me, head, height, index):
    """Clear the slot of index, then free the nodes that this leaves empty; under the tree lock.

    The caller drops the slot's reference afterwards, never before. False if a node could not be given back: it is in use and linked nowhere,
    which a repair of the tree finds.
    """
    return _erase(mem, me, head, height, index) & layout.XA_LEAKED == 0


def recount(mem, me, head, height, ino):
    """Set everything right that a writer left half done when he was killed; under the tree lock. How many folios there are.

    A slot counts if its folio says the same of itself and is not frozen: only reclaim freezes a folio that has a slot, with the
    tree lock held, so one that is frozen now was being evicted by the dead. Every other slot is cleared. Nodes without slots go.
    """
    return _recount(mem, me, head, height, 0, ino)


def is_linked(mem, head, height, number):
    """Whether the node is where it says it is in this tree; under the tree lock."""
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
    """The offset of the node that an entry points to, or 0 if it does not point to one."""
    if not entry & layout.XA_NODE:
        return 0
    return slab.at(mem, layout.SLAB_NODES, entry >> 1)


def _own_node_at(mem, entry):
    """As ``node_at``, for writers: 0 also if the node's page is not one of nodes. Under the tree lock, which keeps a linked node there."""
    if not entry & layout.XA_NODE or not slab.holds(mem, layout.SLAB_NODES, entry >> 1):
        return 0
    return node_at(mem, entry)


def slot_at(node, level, index):
    """The offset of the slot for index in a node at level."""
    return node + layout.NODE_SLOTS + ((index >> (level * layout.NODE_SHIFT)) & layout.NODE_MASK) * 4


def pfn_of(mem, entry):
    """The pfn that an entry stands for, or NIL if it stands for no page of this segment."""
    if entry == 0 or entry & layout.XA_NODE or (entry >> 1) > atomics.npages(mem):
        return layout.NIL
    return (entry >> 1) - 1


def _empty_level(mem, head, height, index):
    """The level above which everything around index is empty; NIL when there is a folio at index."""
    slot = head
    while height > 0:
        node = node_at(mem, atomics.load_relaxed(mem, slot))
        if node == 0:
            return height
        height -= 1
        slot = slot_at(node, height, index)
    return 0 if load(mem, slot) == layout.NIL else layout.NIL


def _put(mem, me, parent, slot, level, index, pfn, ino):
    """Fill the way from slot down to index, then the slot at its end. parent is the node that holds slot, or 0 for the head."""
    entry = atomics.load_relaxed(mem, slot)
    if level == 0:
        if entry != 0:
            return layout.XA_EXISTS
        _publish(mem, parent, slot, (pfn + 1) << 1)
        return layout.XA_OK
    if entry == 0:
        number = _new_node(mem, me, level - 1, index, ino)
        if number == layout.NIL:
            return layout.XA_NOMEM
        entry = number << 1 | layout.XA_NODE
        _publish(mem, parent, slot, entry)
    node = _own_node_at(mem, entry)
    if node == 0:
        return layout.XA_NOMEM
    return _put(mem, me, node, slot_at(node, level - 1, index), level - 1, index, pfn, ino)


def _publish(mem, parent, slot, entry):
    if parent:
        atomics.write32(mem, parent + layout.NODE_COUNT, atomics.read32(mem, parent + layout.NODE_COUNT) + 1)
    atomics.store_relaxed(mem, slot, entry)


def _new_node(mem, me, level, index, ino):
    """The number of a cleared node, or NIL. What is written here is for audits and repair; no walk reads it. Should this client die
    before the node is linked, a repair finds it in use and not linked: see ``mapping``."""
    number = slab.alloc(mem, me, layout.SLAB_NODES, ino)
    if number == layout.NIL:
        return layout.NIL
    node = slab.at(mem, layout.SLAB_NODES, number)
    span = (level + 1) * layout.NODE_SHIFT
    atomics.write32(mem, node + layout.NODE_COUNT, 0)
    _say_where(mem, node, level, (index >> span) << span, ino)
    return number


def _say_where(mem, node, level, index, ino):
    atomics.store_relaxed64(mem, node + layout.OBJECT_OWNER, ino)
    atomics.write64(mem, node + layout.NODE_INDEX, index)
    atomics.write32(mem, node + layout.NODE_LEVEL, level)


def _erase(mem, me, slot, level, index):
    """Clear index below slot, and slot itself if nothing else is left below it: XA_CLEARED if it was, and XA_LEAKED if a node could not
    be given back."""
    entry = atomics.load_relaxed(mem, slot)
    if entry == 0:
        return 0
    if level == 0:
        atomics.store_relaxed(mem, slot, 0)
        return layout.XA_CLEARED
    node = _own_node_at(mem, entry)
    if node == 0:
        return 0
    left = atomics.read32(mem, node + layout.NODE_COUNT)
    below = _erase(mem, me, slot_at(node, level - 1, index), level - 1, index)
    if below & layout.XA_CLEARED:
        left -= 1
        atomics.write32(mem, node + layout.NODE_COUNT, left)
    if left:
        return below & layout.XA_LEAKED
    atomics.store_relaxed(mem, slot, 0)
    freed = slab.free(mem, me, layout.SLAB_NODES, entry >> 1)
    return layout.XA_CLEARED | (below if freed else layout.XA_LEAKED)


def _recount(mem, me, slot, level, index, ino):
    entry = atomics.load_relaxed(mem, slot)
    if entry == 0:
        return 0
    if level == 0:
        return _recount_folio(mem, slot, pfn_of(mem, entry), index, ino)
    node = _own_node_at(mem, entry)
    if node == 0 or not slab.is_used(mem, layout.SLAB_NODES, entry >> 1):
        atomics.store_relaxed(mem, slot, 0)
        return 0
    _say_where(mem, node, level - 1, index, ino)
    count = 0
    filled = 0
    for _ in range(layout.NODE_MASK + 1):
        child = slot_at(node, level - 1, index)
        count += _recount(mem, me, child, level - 1, index, ino)
        filled += atomics.load_relaxed(mem, child) != 0
        index += 1 << ((level - 1) * layout.NODE_SHIFT)
    atomics.write32(mem, node + layout.NODE_COUNT, filled)
    if filled == 0:
        atomics.store_relaxed(mem, slot, 0)
        slab.free(mem, me, layout.SLAB_NODES, entry >> 1)
    return count


def _recount_folio(mem, slot, pfn, index, ino):
    if pfn == layout.NIL or not _belongs(mem, pfn, index, ino):
        atomics.store_relaxed(mem, slot, 0)
        return 0
    page_type.set(mem, pfn, layout.TYPE_FILE, page_type.order(mem, pfn))
    atomics.store_relaxed(mem, atomics.folio_at(mem, pfn) + layout.F_ATTACHED, 1)
    return 1


def _belongs(mem, pfn, index, ino):
    frozen = page_ref.is_frozen(mem, atomics.folio_at(mem, pfn))
    return not frozen and page_type.type(mem, pfn) == layout.TYPE_FILE and folio.is_identity(mem, pfn, ino, index)
