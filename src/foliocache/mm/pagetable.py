"""Page tables: a window over many folios, in which each entry owns a reference; and pinning folios through them.

A table is a folio of type TABLE, an array of words: 0, or a folio's pfn + 1, shifted left (as in an XArray slot). ``map`` hands
a reference over to an entry, ``unmap`` clears the entry and then drops it. A mapped folio has a reference that reclaim cannot
freeze, so it is never evicted.

``gup_fast`` pins a folio through its entry without any lock, as the kernel's ``gup_fast_pte_range`` (``mm/gup.c``) does:

1. load the entry;  2. get the folio that it names;  3. load the entry again, and put the folio if it has changed.

The interleavings are those of ``filemap``: if 2 comes before the drop of ``unmap``, the folio stays; if it comes after, then 3
sees the cleared entry. There is no identity to compare here. A folio is the right one because the entry names it: if the entry
was cleared and filled again between 1 and 3, with whatever folio, and 3 sees the same pfn, then that is the folio that it names
now.
"""

import cython

if not cython.compiled:
    from . import atomics, backing, client, folio, layout, page_ref, page_type, vmscan, xarray


def create(mem, me, entries):
    """Make an empty table, which is announced in the slot of me. Return its pfn; NIL if there is no memory, or the table would
    need more than the largest folio."""
    order = 0
    while _capacity(mem, order) < entries:
        order += 1
    if order > layout.MAX_ORDER:
        return layout.NIL
    pfn = vmscan.alloc_folio(mem, me, order)
    if pfn == layout.NIL:
        return layout.NIL
    for entry in range(_capacity(mem, order)):
        atomics.store_relaxed(mem, _entry(mem, pfn, entry), 0)
    folio.prepare(mem, pfn, layout.TYPE_TABLE, order, 0, 0, 0, _capacity(mem, order) * 4)
    page_ref.init(mem, atomics.folio_at(mem, pfn), 1)
    return pfn


def make(mem, me, n, entries):
    """Like ``create``, as an operation of its own; the table is word n of the ledger."""
    client.op_begin(mem, me)
    table = create(mem, me, entries)
    if table != layout.NIL:
        client.hold(mem, me, n, table)
    client.op_end(mem, me)
    return table


def release(mem, me, n, table):
    """Destroy a table that is word n of the ledger: an operation of its own.

    The ledger names it until it is empty, so that a reaper finds it, with what is left in it, if this client dies. False if a
    lock is refused: the caller tries again while the word names the table.
    """
    client.op_begin(mem, me)
    released = clear(mem, me, table)
    if released:
        client.drop(mem, me, n, table)
        released = folio.put(mem, me, table)
        if not released:
            client.defer(mem, me, n)
    client.op_end(mem, me)
    return released


def clear(mem, me, table):
    """Unmap everything. False if it ended early because a lock is refused."""
    if not page_type.is_private(mem, table, layout.TYPE_TABLE):  # its type is damaged
        return True
    for entry in range(_capacity(mem, min(page_type.order(mem, table), page_type.limit(mem, table)))):
        if not unmap(mem, me, table, entry):
            return False
    return True


def maps(mem, table, pfn):
    """True if some entry names pfn."""
    for entry in range(_readable(mem, table)):
        if xarray.load(mem, _entry(mem, table, entry)) == pfn:
            return True
    return False


def entries(mem, table):
    """Return the pfns that a table names, as a list. For audits."""
    found = [xarray.load(mem, _entry(mem, table, entry)) for entry in range(_readable(mem, table))]
    return [pfn for pfn in found if pfn != layout.NIL]


def _readable(mem, table):
    """Return how many entries a table has; 0 if it has no memory, so that its type is damaged."""
    order = page_type.order(mem, table)
    return _capacity(mem, order) if backing.is_backed(mem, table, order) else 0


def map(mem, table, entry, pfn):
    """Publish a folio in an entry, which takes over one of the caller's references. False if the entry is in use; then the
    caller keeps the reference.

    Relaxed, as in ``xarray``: a getter relies only on its get, which synchronizes with ``page_ref.init``.
    """
    return atomics.cmpxchg_relaxed(mem, _entry(mem, table, entry), 0, (pfn + 1) << 1) == 0


def move(mem, me, n, table, entry, pfn):
    """Move the pin that is word n of the ledger to an empty entry, as an operation of its own."""
    client.op_begin(mem, me)
    client.drop(mem, me, n, pfn)
    map(mem, table, entry, pfn)
    client.retract(mem, me, pfn)
    client.op_end(mem, me)


def unmap(mem, me, table, entry):
    """Clear an entry and then drop its reference, unless it is empty. False if the folio stays named because a lock is refused.

    When two clients unmap an entry at once, the cmpxchg decides which of them drops. A getter relies on the order of the drop
    (``page_ref.put`` is a release), so the cmpxchg may be relaxed.
    """
    found = atomics.load_relaxed(mem, _entry(mem, table, entry))
    pfn = xarray.pfn_of(mem, found)
    if pfn == layout.NIL:
        return True
    client.announce(mem, me, pfn)
    if atomics.cmpxchg_relaxed(mem, _entry(mem, table, entry), found, 0) != found:
        client.retract(mem, me, pfn)
        return True
    return folio.put(mem, me, pfn)


def gup_fast(mem, me, table, entry):
    """Pin the folio that an entry names. Return its pfn, or NIL if the entry is empty or has changed each time. The pin is
    announced in the slot of me."""
    for _ in range(layout.FIND_RETRIES):
        slot = _entry(mem, table, entry)
        pfn = xarray.load(mem, slot)
        if pfn == layout.NIL:
            return layout.NIL
        client.announce(mem, me, pfn)
        got = page_ref.try_get(mem, atomics.folio_at(mem, pfn))
        if got == layout.GOT and xarray.reload(mem, slot) == pfn:
            return pfn
        if got == layout.DEAD:
            client.retract(mem, me, pfn)
        elif not folio.put(mem, me, pfn):
            break
    return layout.NIL


def lookup(mem, me, n, table, entry):
    """Like ``gup_fast``, as an operation of its own; the pin is word n of the ledger."""
    client.op_begin(mem, me)
    pfn = gup_fast(mem, me, table, entry)
    if pfn != layout.NIL:
        client.hold(mem, me, n, pfn)
    client.op_end(mem, me)
    return pfn


def gup(mem, me, table, first, count, pins):
    """Pin the folios of entries first .. first + count - 1, all or none. True if they are pinned.

    pins is another table, of at least count entries and all of them empty: entry i receives the reference on the i-th folio,
    where a reaper finds it. ``unpin`` drops them.
    """
    for i in range(count):
        pfn = gup_fast(mem, me, table, first + i)
        if pfn == layout.NIL:
            unpin(mem, me, pins, i)
            return False
        map(mem, pins, i, pfn)
        client.retract(mem, me, pfn)
    return True


def unpin(mem, me, pins, count):
    """Drop the first count references that ``gup`` left in pins."""
    for i in range(count):
        unmap(mem, me, pins, i)


def _entry(mem, table, entry):
    return atomics.page_at(mem, table) + entry * 4


def _capacity(mem, order):
    return 1 << (atomics.page_shift(mem) + order - 2)
