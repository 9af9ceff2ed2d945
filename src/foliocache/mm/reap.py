"""Settle what a dead client has left, exactly: nothing leaks, nothing is freed twice, no living client is disturbed.

The caller has made sure that the client is dead (SLOT_DEAD) and that no other process reaps. The caller may be killed at any
instruction: the dead client's slot stays the record of what is left to do, and every step may be repeated.

1. **Locks** that the dead client holds are taken over, and what they protect is rebuilt (see each module's ``reap``).
2. **Pins** in its ledger are owned: one reference each. They are dropped as any client drops its pins, under an intent first.
3. **Intents** are what it was doing when it died: at most a few folios, of which it is unknown whether they were got, dropped,
   frozen or never touched. Each goes through ``settle``:

   a. *Quarantine*, under the allocator's lock. A page that is free, or a tail, has leaked nothing. Any other may be freed by
      a client that uses it, but does not begin a new life meanwhile.
   b. *Grace period*: every operation that was under way has ended. So no living client that got the folio from the allocator
      before step a is still about to publish it.
   c. *Unpublish*: take the folio out of its mapping and off the queues, by the ordinary functions. It stays out: a folio is
      published once in its life, and an unpublished one is not queued (``lru.add``).
   d. *No client names it*: no living client has it in its ledger, its windows or its operation, sampled outside any operation.
      From then on no client can learn its pfn: pfns come from slots and queues (which do not name it since step c), from a scan
      of the memmap (which skips quarantined pages), from the allocator (not since step a) and from other names. So every
      reference that remains is the dead client's, and the count does not change.
   e. *Settle* by the count. If it is frozen, its owner died while it built or destroyed the folio. Otherwise freeze the folio
      at the count that it has, which takes all leaked references at once. Then destroy the folio. A page of a slab is not
      destroyed: its count is corrected to 1.

   A folio that a living client still uses has to wait (its quarantine stays on) until a reaper runs again. The names of all
   folios that wait are gathered in one dead client's slot (``hand_over_unresolved``), so that the other slots can be used
   again.

Two dead clients may name the same folio. So the pins of all dead clients are dropped first, and step d ignores their intents.

Each step is needed, and for each there is a mutation that the checker finds. If step d did not sample outside operations, a
stale getter's temporary reference could be taken for a leak, or appear afterwards. If step c came before step b, the folio
could be published after step c and withdrawn by its owner during step d. Without step a, the name could appear again in a new
life of the page. If the ledger were written after the add, a reference would have no name.

The argument is in docs/reliability.md. Names are after hazard pointers (Michael 2004); the grace period uses the asymmetric
barrier of userspace-rcu (membarrier(2)).
"""

import cython

if not cython.compiled:
    from . import (
        atomics,
        backing,
        client,
        fill,
        filemap,
        flags,
        folio,
        layout,
        lru,
        mapping,
        names,
        page_alloc,
        page_ref,
        page_type,
        pagetable,
        slab,
    )


def locks(mem, me, dead):
    """Do step 1, from the innermost lock outwards, because a repair may take inner locks."""
    client.op_begin(mem, me)
    page_alloc.reap(mem, me, dead)
    lru.reap(mem, me, dead)
    slab.reap(mem, me, dead)
    names.reap(mem, me, dead)
    mapping.reap(mem, me, dead)
    client.op_end(mem, me)


def pins(mem, me, dead):
    """Do step 2. Ends early if a lock is refused; the caller repeats it later."""
    for n in range(layout.PINS):
        word = atomics.load_relaxed(mem, client.pin(mem, dead, n))
        if word & layout.PIN_OWNED:
            client.op_begin(mem, me)
            dropped = _drop_pin(mem, me, dead, n, word & layout.PIN_PFN)
            client.op_end(mem, me)
            if not dropped:
                return


def resolve_intents(mem, me, dead):
    """Do step 3. Return how many folios have to wait, including pins that are left from step 2."""
    waiting = 0
    for n in range(client.words(mem)):
        at = client.word_at(mem, dead, n)
        word = atomics.load_relaxed(mem, at)
        if word & layout.PIN_OWNED and dead != me:
            waiting += 1
        if word & layout.PIN_INTENT:
            if settle(mem, me, dead, word & layout.PIN_PFN):
                atomics.record32(mem, at, 0)
            else:
                waiting += 1
    return waiting


def hand_over_unresolved(mem, dead, keeper):
    """Move the names of folios that have to wait to the ledger of another dead client. True if there was room for all.

    The copy is written first. Duplicates are harmless: the name of a folio that is settled already costs the cache a page.
    Program order is enough: the next reaper gets the kernel's lock after this one, and the release in ``detach`` shows the
    empty slot to its next client.
    """
    free = 0
    for n in range(client.words(mem)):
        at = client.word_at(mem, dead, n)
        word = atomics.load_relaxed(mem, at)
        while word and free < layout.PINS and atomics.load_relaxed(mem, client.pin(mem, keeper, free)):
            free += 1
        if word and free == layout.PINS:
            return False
        if word:
            atomics.record32(mem, client.pin(mem, keeper, free), word)
            atomics.record32(mem, at, 0)
    return True


def settle(mem, me, dead, pfn):
    """Do steps a to e for one folio that a dead client (or NIL) has named. True if it is settled. Must not be called within an
    operation."""
    if pfn >= atomics.npages(mem):
        return True
    quarantined = page_alloc.quarantine(mem, me, pfn)
    if quarantined != layout.QUARANTINE_ON:
        return quarantined == layout.QUARANTINE_NONE
    if not client.wait_grace_period(mem, me):
        return False
    client.op_begin(mem, me)
    unpublished = _unpublish(mem, me, pfn)
    client.op_end(mem, me)
    word = page_ref.count(mem, atomics.folio_at(mem, pfn))
    if not unpublished or _is_named(mem, dead, pfn) or not _settle_word(mem, me, pfn, word):
        return False
    return page_alloc.end_quarantine(mem, me, pfn)


def sweep(mem, me):
    """Drop every record that has no folio, each in an operation and under locks of its own. Must not be called within an
    operation."""
    number = layout.NIL
    while True:
        client.op_begin(mem, me)
        number = mapping.sweep(mem, me, number)
        client.op_end(mem, me)
        if number == layout.NIL:
            return


def repair(mem, me, part):
    """Rebuild one part from ground truth, while other clients work. Must not be called within an operation.

    REPAIR_TREES looks at one tree or node at a time and holds a lock no longer than that takes. The others hold one lock while
    they go through the whole folio table: for parts that are known to be damaged.
    """
    client.op_begin(mem, me)
    if part == layout.REPAIR_LISTS:
        page_alloc.repair(mem, me)
    elif part == layout.REPAIR_QUEUES:
        lru.repair(mem, me)
    elif part == layout.REPAIR_SLABS:
        for cache in range(layout.SLABS):
            slab.repair(mem, me, cache)
    elif part == layout.REPAIR_TABLE:
        mapping.repair_table(mem, me)
    elif part == layout.REPAIR_NAMES:
        names.repair(mem, me)
    client.op_end(mem, me)
    if part == layout.REPAIR_TREES:
        _repair_trees(mem, me)


def drop(mem, me, n, pfn):
    """Take a folio whose words are damaged out of the cache, as if a dead client had named it. True if it is settled.

    Word n of the caller's ledger names it meanwhile, and stays for ``resolve_intents`` if the folio has to wait.
    """
    at = client.pin(mem, me, n)
    atomics.write_once(mem, at, pfn | layout.PIN_INTENT)
    settled = settle(mem, me, me, pfn)
    if settled:
        atomics.write_once(mem, at, 0)
    return settled


def _repair_trees(mem, me):
    number = layout.NIL
    while True:
        client.op_begin(mem, me)
        number = mapping.repair_tree(mem, me, number)
        client.op_end(mem, me)
        if number == layout.NIL:
            break
    while True:
        client.op_begin(mem, me)
        number = mapping.repair_node(mem, me, number)
        client.op_end(mem, me)
        if number == layout.NIL:
            return


def _drop_pin(mem, me, dead, n, pfn):
    """Drop a dead client's pin. False if a lock is refused: the word is still the pin then, or an intent."""
    at = client.pin(mem, dead, n)
    if pfn < atomics.npages(mem):
        if not _finish(mem, me, dead, pfn):
            return False
        atomics.record32(mem, at, pfn | layout.PIN_INTENT)
        if not folio.put(mem, me, pfn):
            return False
    atomics.record32(mem, at, 0)
    return True


def _finish(mem, me, dead, pfn):
    """Do what the holder of a pin still had to do with the folio besides dropping it. False if a lock is refused."""
    if page_type.type(mem, pfn) == layout.TYPE_TABLE:
        return pagetable.clear(mem, me, pfn)
    if page_type.type(mem, pfn) == layout.TYPE_FILE:
        fill.abandon(mem, dead, pfn)
        return lru.add(mem, me, pfn, layout.QUEUE_SMALL)
    return True


def _unpublish(mem, me, pfn):
    """Do step c. False if a lock is refused."""
    at = atomics.folio_at(mem, pfn)
    client.announce(mem, me, pfn)
    if page_ref.try_get(mem, at) == layout.DEAD:
        client.retract(mem, me, pfn)
        return True
    unpublished = True
    if not slab.is_page(mem, pfn) and not page_type.is_private(mem, pfn, layout.TYPE_TABLE):
        unpublished = filemap.remove(mem, me, atomics.read64(mem, at + layout.F_INO), pfn)
        if unpublished:
            atomics.store_relaxed(mem, at + layout.F_ATTACHED, 0)  # one whose mapping is gone was damaged
            unpublished = lru.remove(mem, me, pfn)
        if unpublished:
            _fail(mem, pfn)
    return folio.put(mem, me, pfn) and unpublished


def _fail(mem, pfn):
    """End the fill of a folio that has left its mapping, so that clients that wait for it look it up again."""
    at = atomics.folio_at(mem, pfn)
    if flags.load(mem, at) & layout.PG_LOCKED and not client.is_alive(mem, atomics.load_relaxed(mem, at + layout.F_OWNER)):
        fill.fail(mem, pfn)


def _settle_word(mem, me, pfn, word):
    """Do step e, for a folio whose count was ``word`` in step d. True if nothing is left to do but to end the quarantine."""
    at = atomics.folio_at(mem, pfn)
    if page_alloc.mark(mem, pfn) == layout.BUDDY_PARKED:
        return True
    if not word & layout.FROZEN:
        if slab.is_page(mem, pfn):
            return word == 1 or page_ref.correct(mem, at, word, 1)
        if atomics.load_relaxed(mem, at + layout.F_ATTACHED) or lru.is_queued(mem, pfn) or not page_ref.freeze(mem, at, word):
            return False
    elif page_type.type(mem, pfn) == layout.TYPE_NONE:
        backing.empty(mem, pfn, page_type.order(mem, pfn))
    return folio.destroy(mem, me, pfn)


def _is_named(mem, dead, pfn):
    """True if a client may have a reference: a living one by any name, a dead one by pins that have not been dropped yet."""
    for other in range(atomics.nclients(mem)):
        alive = other != dead and client.is_alive(mem, other)
        if client.state(mem, other) != layout.SLOT_CLEAN and _names(mem, other, pfn, alive):
            return True
    return False


def _names(mem, other, pfn, alive):
    """True if a client names the folio, in a consistent sample if it is alive. A client without a consistent sample counts as
    naming it."""
    before = client.op_seq(mem, other)
    if alive and before & 1:
        return True
    for n in range(client.words(mem)):
        if _is_name(mem, atomics.load_relaxed(mem, client.word_at(mem, other, n)), pfn, alive):
            return True
    if not alive:
        return False
    atomics.asymmetric_fence_heavy(mem)
    return client.op_seq(mem, other) != before


def _is_name(mem, word, pfn, alive):
    named = word & layout.PIN_PFN
    if word & layout.PIN_OWNED:
        return named == pfn or (named < atomics.npages(mem) and _is_mapped(mem, named, pfn))
    return alive and word & layout.PIN_INTENT != 0 and named == pfn


def _is_mapped(mem, table, pfn):
    return page_type.type(mem, table) == layout.TYPE_TABLE and pagetable.maps(mem, table, pfn)
