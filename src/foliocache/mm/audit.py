"""The audit: walk the whole folio table, every XArray and every free list, and report what is inconsistent.

It takes no lock and pins nothing, so it is exact only while no client works on the segment (or, in the checker, at the end of
an execution). It checks that

- every page belongs to exactly one free block or one folio, and every one that is not a live folio's head is frozen;
- every page is marked as having memory, except those of holes;
- every folio that a slot names has that identity, and every attached folio is named by exactly one slot for each of its units;
- every folio's count is its slots' reference (or its slab's), plus one for each pin in a ledger and each entry of a page table;
  except for those that an operation under way (or a client that has not been reaped) names;
- every cached folio is on a queue, where reclaim finds it; no lock is held by a dead client, no page is in quarantine without a
  name;
- node and mapping counts, the table's chains, the slabs' pages with their chains, and the queues' lengths are correct;
- every word of the name table's index leads to a name of its set, each name is in it once, and none is half written.

It reads through the facade like the rest of the core, and runs compiled and interpreted. Unlike the rest it is called from
Python, with the ``Memory`` object, and returns Python objects.
"""

import cython

if not cython.compiled:
    from . import (
        atomics,
        backing,
        client,
        flags,
        layout,
        names,
        page_ref,
        page_type,
        pagelist,
        pagetable,
        robust_lock,
        slab,
        xarray,
    )

TYPES = ("none", "file", "node", "inode", "table", "name")


def audit(memory):
    """Return the findings, dicts of "check", "where" and "message". There are none in an undamaged segment in which no
    operation is under way."""
    return Audit(memory.handle).run()


def census(memory):
    """Return pages by state, folios by type, and pins (references beyond the slots' and slabs'), as a dict."""
    found = Audit(memory.handle)
    found.walk_pages()
    used = sum(found.pages.values()) - found.pages["hole"]
    found.pages["hole"] = max(backing.limit(memory.handle) - used, 0)  # as many as may get memory, with descriptors or without
    return {"pages_by_state": found.pages, "folios_by_type": found.folios, "pins": found.pins}


def mappings(memory):
    """Return a dict for each cached object: key, version, size, unit_size, units, cached_folios, cached_bytes, pins."""
    found = Audit(memory.handle)
    return [found.describe(memory, number) for number in found.records()]


def lock_words():
    """Return the offsets of all locks of a segment."""
    singles = [layout.ALLOC_LOCK, layout.LRU_LOCK, layout.TABLE_LOCK, layout.NAMES_LOCK]
    slabs = [layout.SLAB_LOCK + cache * layout.SLAB_STRIDE for cache in range(layout.SLABS)]
    return [*singles, *slabs, *(layout.TREE_LOCK + n * layout.LINE for n in range(layout.TREE_LOCKS))]


def _lock_name(word):
    if word < layout.SLAB_LOCK:
        singles = {layout.ALLOC_LOCK: "allocator", layout.LRU_LOCK: "queues", layout.TABLE_LOCK: "mapping table"}
        return (singles | {layout.NAMES_LOCK: "name table"})[word]
    if word < layout.TREE_LOCK:
        return f"slab {(word - layout.SLAB_LOCK) // layout.SLAB_STRIDE}"
    return f"tree {(word - layout.TREE_LOCK) // layout.LINE}"


def held_locks(memory):
    """Return the locks that are held now: dicts of lock (its name) and slot (its owner's). A lock that a second call finds with
    the same slot belongs to a process that has stopped."""
    found = []
    for word in lock_words():
        owner = robust_lock.owner(memory.handle, word)
        if owner != layout.NIL:
            found.append({"lock": _lock_name(word), "slot": owner})
    return found


def is_damaged(memory, pfn):
    """True if the words of the folio at pfn contradict each other, in a sample outside any operation.

    False also if QUIET_TRIES tries brought no such sample: then nothing is proven.
    """
    for _ in range(layout.QUIET_TRIES):
        before = _activities(memory.handle)
        if before is not None:
            found = Audit(memory.handle)
            found.read_names()
            found.walk_folio(pfn)
            found.check_place(pfn)
            if _activities(memory.handle) == before:
                return any(finding["where"] == f"pfn {pfn}" for finding in found.findings)
    return False


def _activities(mem):
    """Return ``client.op_seq`` of each living client; None if one of them is in an operation.

    Loads are a consistent sample if this is the same before and after them, with a heavy fence in between.
    """
    atomics.asymmetric_fence_heavy(mem)
    numbers = [n for n in range(atomics.nclients(mem)) if client.state(mem, n) != layout.SLOT_CLEAN and client.is_alive(mem, n)]
    found = [(n, client.op_seq(mem, n)) for n in numbers]
    return None if any(activity & 1 for _, activity in found) else found


def readable(data):
    """Return the text that ``Mapping`` has encoded; if it is damaged, what can be read of it."""
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return data.decode("utf-8", "replace")


class Audit:
    """One pass over a segment."""

    def __init__(self, mem):
        self.mem = mem
        self.findings = []
        self.pages = {"free": 0, "hole": 0, "file": 0, "node": 0, "inode": 0, "table": 0, "name": 0, "frozen": 0}
        self.folios = {"file": 0, "node": 0, "inode": 0, "table": 0, "name": 0}
        self.pins = 0
        self.held = {}  # pfn -> pins
        self.intents = set()
        self.attached = {}
        self.slab_used = {}
        self.objects = {layout.TYPE_NODE: 0, layout.TYPE_INODE: 0, layout.TYPE_NAME: 0}
        self.empty = {layout.TYPE_NODE: 0, layout.TYPE_INODE: 0, layout.TYPE_NAME: 0}
        self.nodes = set()
        self.queued = set()

    def run(self):
        self.read_names()
        self.check_locks()
        self.walk_pages()
        self.check_free_lists()
        for number in self.records():
            self.check_mapping(number)
        for pfn in self.attached:
            self.find("slot", f"pfn {pfn}", "is attached, but no slot names it")
        self.check_names()
        self.check_slabs()
        self.check_queues()
        return self.findings

    def find(self, check, where, message):
        self.findings.append({"check": check, "where": where, "message": message})

    # Clients.

    def read_names(self):
        """Read all client slots: ``held`` gets the number of pins of each pfn, ``intents`` the folios of operations under
        way."""
        for number in range(atomics.nclients(self.mem), atomics.nclients_max(self.mem)):
            if atomics.client_alive(self.mem, number) and number >= atomics.nclients(self.mem):
                self.find("client", f"slot {number}", f"is held, but only {atomics.nclients(self.mem)} slots have memory")
        for number in range(atomics.nclients(self.mem)):
            words = [atomics.load_relaxed(self.mem, client.word_at(self.mem, number, n)) for n in range(client.words(self.mem))]
            names = [word for word in words if word]
            if client.state(self.mem, number) == layout.SLOT_CLEAN and any(word & layout.PIN_OWNED for word in names):
                self.find("client", f"slot {number}", "is clean, but has pins in its ledger")
            unnamed = atomics.load_relaxed(self.mem, client.slot(self.mem, number) + layout.CLIENT_UNNAMED)
            if unnamed:
                self.find("client", f"slot {number}", f"had {unnamed} folios for which it had no word")
            for word in names:
                self.read_name(number, word)

    def read_name(self, number, word):
        pfn = word & layout.PIN_PFN
        if pfn >= atomics.npages(self.mem):
            self.find("client", f"slot {number}", f"names pfn {pfn}, which is beyond the pool")
        elif word & layout.PIN_INTENT:
            self.intents.add(pfn)
        else:
            self.count_pin(pfn)
            if page_type.type(self.mem, pfn) == layout.TYPE_TABLE:
                for mapped in pagetable.entries(self.mem, pfn):
                    self.count_pin(mapped)

    def count_pin(self, pfn):
        self.held[pfn] = self.held.get(pfn, 0) + 1

    def check_locks(self):
        for word in lock_words():
            owner = robust_lock.owner(self.mem, word)
            if owner == layout.NIL and atomics.load_relaxed(self.mem, word) & layout.LOCK_BROKEN:
                self.find("lock", f"lock at {word}", "is broken: its next owner repairs what it protects")
            if owner != layout.NIL and not client.is_alive(self.mem, owner):
                self.find("lock", f"lock at {word}", f"is held by client {owner}, which is dead")

    # Pages.

    def walk_pages(self):
        """Visit every page once, folio by folio."""
        pfn = 0
        while pfn < atomics.npages(self.mem):
            pfn += self.walk_folio(pfn)

    def walk_folio(self, pfn):
        """Account for the folio or free block at pfn. Return its number of pages."""
        word = self.word(pfn)
        free_order = self.field(pfn, layout.F_BUDDY)
        if free_order and free_order not in (layout.BUDDY_QUARANTINED, layout.BUDDY_PARKED):
            return self.walk_free(pfn, (free_order & ~layout.BUDDY_HOLE) - 1, free_order & layout.BUDDY_HOLE)
        order = self.reach(pfn)
        type = page_type.type(self.mem, pfn)
        if self.field(pfn, layout.F_BUDDY) and pfn not in self.intents:
            self.find(
                "quarantine",
                f"pfn {pfn}",
                f"is marked {self.field(pfn, layout.F_BUDDY):#x} for a reaper, but no client names it",
            )
        if word & layout.FROZEN or not 0 < type < len(TYPES):
            self.pages["frozen"] += 1 << order
            if pfn in self.intents:
                return 1 << order
            self.find("frozen", f"pfn {pfn}", f"belongs to nobody: neither free nor a live folio (word {word:#x}, type {type})")
            return 1 << order
        if pfn not in self.intents or self.field(pfn, layout.F_ATTACHED):
            self.check_type(pfn, type)
        if type != layout.TYPE_FILE and not page_type.is_private(self.mem, pfn, type):
            type = layout.TYPE_FILE
        name = TYPES[type]
        self.pages[name] += 1 << order
        self.folios[name] += 1
        self.check_live(pfn, word, type)
        self.check_backed(pfn, order)
        self.check_tails(pfn, 1 << order)
        return 1 << order

    def reach(self, pfn):
        """Return the order of the folio at pfn; a larger one if its length requires it and no folio begins in those pages."""
        order = page_type.order(self.mem, pfn)
        if page_type.type(self.mem, pfn) == layout.TYPE_FILE and self.field(pfn, layout.F_LENGTH):
            longer = page_type.limit(self.mem, pfn)
            tails = range(pfn + (1 << order), min(pfn + (1 << longer), atomics.npages(self.mem)))
            if longer > order and all(
                self.field(tail, layout.F_BUDDY) == page_type.type(self.mem, tail) == 0 for tail in tails
            ):
                return longer
        return order

    def check_type(self, pfn, type):
        """Check that no other word contradicts F_TYPE."""
        word, order, span = self.field(pfn, layout.F_TYPE), page_type.order(self.mem, pfn), page_type.span(self.mem, pfn)
        most = min(order, layout.SPAN_MAX) if type == layout.TYPE_FILE else 0
        if word != type | order << layout.ORDER_SHIFT | span << layout.SPAN_SHIFT or span > most:
            self.find("type", f"pfn {pfn}", f"has page type {word:#x}, which cannot be")
        elif type != layout.TYPE_FILE and not page_type.is_private(self.mem, pfn, type):
            self.find("type", f"pfn {pfn}", f"has page type {word:#x}, but belongs to ino {self.long(pfn, layout.F_INO):#x}")
        elif type == layout.TYPE_FILE and self.long(pfn, layout.F_INDEX) & ((1 << span) - 1):
            self.find("type", f"pfn {pfn}", f"has 2^{span} units, but begins at index {self.long(pfn, layout.F_INDEX)}")
        elif type == layout.TYPE_FILE and self.field(pfn, layout.F_LENGTH) > 1 << atomics.page_shift(self.mem) + order:
            self.find("type", f"pfn {pfn}", f"has order {order}, but {self.field(pfn, layout.F_LENGTH)} bytes")

    def walk_free(self, pfn, order, hole):
        if not 0 <= order <= layout.MAX_ORDER or pfn & ((1 << order) - 1) or pfn + (1 << order) > atomics.npages(self.mem):
            self.find("buddy", f"pfn {pfn}", f"free block of order {order} is misplaced")
            self.pages["free"] += 1
            return 1
        self.pages["hole" if hole else "free"] += 1 << order
        if not hole:
            self.check_backed(pfn, order)
        if not self.word(pfn) & layout.FROZEN:
            self.find("free", f"pfn {pfn}", f"is free, but its count is {self.word(pfn)} instead of FROZEN")
        if page_type.type(self.mem, pfn) != layout.TYPE_NONE:
            self.find("free", f"pfn {pfn}", f"is marked free, but has type {page_type.type(self.mem, pfn)}")
        if self.queue(pfn) != layout.QUEUE_NONE:
            self.find("free", f"pfn {pfn}", f"is free, but marked as on queue {self.queue(pfn)}")
        self.check_tails(pfn, 1 << order)
        return 1 << order

    def check_backed(self, pfn, order):
        if not backing.is_backed(self.mem, pfn, order):
            self.find(
                "backing", f"pfn {pfn}", f"is in use or free for use, but not all of its 2^{order} pages are marked as backed"
            )

    def check_tails(self, pfn, pages):
        for tail in range(pfn + 1, min(pfn + pages, atomics.npages(self.mem))):
            if not self.word(tail) & layout.FROZEN:
                self.find("tail", f"pfn {tail}", f"lies within the block at {pfn}, but its count is {self.word(tail)}")
            if self.queue(tail) != layout.QUEUE_NONE:
                self.find(
                    "tail", f"pfn {tail}", f"lies within the block at {pfn}, but is marked as on queue {self.queue(tail)}"
                )
            if self.field(tail, layout.F_BUDDY):
                self.find("tail", f"pfn {tail}", f"lies within the block at {pfn}, but heads a free block")
            if page_type.type(self.mem, tail) != layout.TYPE_NONE:
                self.find(
                    "tail", f"pfn {tail}", f"lies within the block at {pfn}, but has type {page_type.type(self.mem, tail)}"
                )

    def check_live(self, pfn, word, type):
        owned = 1
        if type == layout.TYPE_FILE:
            owned = self.field(pfn, layout.F_ATTACHED)
            if self.queue(pfn) != layout.QUEUE_NONE:
                self.queued.add(pfn)
            if owned:
                self.attached[pfn] = (
                    self.long(pfn, layout.F_INO),
                    self.long(pfn, layout.F_INDEX),
                    page_type.span(self.mem, pfn),
                )
            self.check_reclaim(pfn, owned)
        elif type == layout.TYPE_TABLE:
            owned = 0  # its only reference is its owner's pin
        else:
            used = self.slab_used[pfn] = self.field(pfn, layout.F_USED)
            if type in self.objects:
                self.objects[type] += used
                self.empty[type] += used == 0
        held = self.held.get(pfn, 0)
        if pfn not in self.intents and word != owned + held:
            self.find(
                "count", f"pfn {pfn}", f"has {word} references, but {owned} of the cache itself and {held} pins are known"
            )
        self.pins += max(0, word - owned)

    def check_reclaim(self, pfn, attached):
        """Check that reclaim can find folios that are not in use, and that locked folios have a filler."""
        seen = flags.load(self.mem, atomics.folio_at(self.mem, pfn))
        idle = attached and pfn not in self.held and pfn not in self.intents
        if idle and seen & layout.PG_UPTODATE and self.field(pfn, layout.F_QUEUE) == layout.QUEUE_NONE:
            self.find("queue", f"pfn {pfn}", "is cached and unused, but on no queue")
        owner = self.field(pfn, layout.F_OWNER)
        if idle and seen & layout.PG_LOCKED and owner != layout.NIL:
            self.find("fill", f"pfn {pfn}", f"is being filled by client {owner}, which does not hold it")

    def check_place(self, pfn):
        """Check that the slots of an attached folio name it."""
        if pfn not in self.attached:
            return
        ino, index, span = self.attached[pfn]
        slots = [self.slot_of(ino, index + unit) for unit in range(1 << span)]
        if all(slots):
            self.check_owner(pfn, slab.at(self.mem, layout.SLAB_MAPPINGS, ino & layout.OBJECT_MASK), ino)
        if not all(slot and xarray.load(self.mem, slot) == pfn for slot in slots):
            self.find("slot", f"pfn {pfn}", "is attached, but not named by a slot for each of its units")

    def check_owner(self, pfn, record, ino):
        """Check that the words of an attached folio agree with its mapping's record."""
        if self.long(pfn, layout.F_DIGEST) != atomics.read64(self.mem, record + layout.MAPPING_DIGEST_LO):
            self.find("object", f"pfn {pfn}", f"belongs to ino {ino:#x}, but to another object by its digest")
        order, span = page_type.order(self.mem, pfn), page_type.span(self.mem, pfn)
        unit = atomics.read32(self.mem, record + layout.MAPPING_UNIT_ORDER)
        if order != unit + span if span else order > unit:  # the object's last unit alone may have fewer pages
            self.find("type", f"pfn {pfn}", f"has 2^{order} pages, but 2^{span} units of 2^{unit}")

    def slot_of(self, ino, index):
        """Return the offset of a folio's slot; 0 if the record or a node on the way to it is not in use."""
        number = ino & layout.OBJECT_MASK
        if not self.is_object(layout.SLAB_MAPPINGS, number):
            return 0
        record = slab.at(self.mem, layout.SLAB_MAPPINGS, number)
        if atomics.load_relaxed64(self.mem, record + layout.MAPPING_INO) != ino:
            return 0
        slot = record + layout.MAPPING_HEAD
        for level in reversed(range(min(atomics.read32(self.mem, record + layout.MAPPING_HEIGHT), layout.XA_HEIGHT_MAX))):
            entry = atomics.load_relaxed(self.mem, slot)
            if not entry & layout.XA_NODE or not self.is_object(layout.SLAB_NODES, entry >> 1):
                return 0
            slot = xarray.slot_at(xarray.node_at(self.mem, entry), level, index)
        return slot

    def is_object(self, cache, number):
        """True if a slab has an object of this number, and it is in use."""
        there = slab.at(self.mem, cache, number) and slab.holds(self.mem, cache, number)
        return there and slab.is_used(self.mem, cache, number)

    # Free lists.

    def check_free_lists(self):
        self.check_free_list("free", layout.ALLOC_LISTS, 0, layout.ALLOC_FREE)
        self.check_free_list("hole", layout.ALLOC_HOLE_LISTS, layout.BUDDY_HOLE, layout.ALLOC_HOLES)

    def check_free_list(self, state, lists, hole, counter):
        listed = 0
        for order in range(layout.MAX_ORDER + 1):
            for pfn in self.pages_on(lists + order * layout.LIST_SIZE, f"{state} list {order}"):
                listed += 1 << order
                mark = self.field(pfn, layout.F_BUDDY)
                if mark != order + 1 | hole:
                    self.find("buddy", f"pfn {pfn}", f"is on {state} list {order}, but marked {mark:#x}")
        counted = atomics.load_relaxed(self.mem, counter)
        if not listed == counted == self.pages[state]:
            self.find("free", "page_alloc", f"{listed} {state} pages listed, {counted} counted, {self.pages[state]} marked")

    def pages_on(self, where, name):
        """Return the pfns on a list; a circular list is a finding."""
        pfn = pagelist.first(self.mem, where)
        seen = []
        while pfn != layout.NIL and len(seen) <= atomics.npages(self.mem):
            seen.append(pfn)
            pfn = self.field(pfn, layout.F_NEXT)
            pfn = pfn if pfn < atomics.npages(self.mem) else layout.NIL
        before = layout.NIL
        for pfn in seen:
            if self.field(pfn, layout.F_PREV) != before:
                self.find(
                    "list",
                    name,
                    f"leads from {before:#x} to pfn {pfn}, which says that it follows {self.field(pfn, layout.F_PREV):#x}",
                )
            before = pfn
        if len(set(seen)) != len(seen):
            self.find("list", name, "goes in a circle")
            return []
        if (seen[-1] if seen else layout.NIL) != pagelist.last(self.mem, where):
            self.find("list", name, "does not end where its head says")
        return seen

    # Mappings and their trees.

    def records(self):
        """Return the object numbers of the mapping records, chain by chain."""
        found = {}
        for bucket in range(atomics.nbuckets(self.mem)):
            number = atomics.read32(self.mem, atomics.buckets(self.mem) + bucket * 4)
            while number != layout.NIL:
                at = slab.at(self.mem, layout.SLAB_MAPPINGS, number)
                if number in found or not self.is_object(layout.SLAB_MAPPINGS, number):
                    self.find(
                        "table", f"bucket {bucket}", f"chain leads to {number:#x}, which is no record or is in a chain already"
                    )
                    break
                found[number] = bucket
                number = atomics.read32(self.mem, at + layout.MAPPING_CHAIN)
        counted = atomics.load_relaxed(self.mem, layout.TABLE_COUNT)
        if counted != len(found):
            self.find("table", "mappings", f"{counted} counted, {len(found)} in the chains")
        return list(found)

    def check_mapping(self, number):
        record = slab.at(self.mem, layout.SLAB_MAPPINGS, number)
        ino = atomics.load_relaxed64(self.mem, record + layout.MAPPING_INO)
        height = min(atomics.read32(self.mem, record + layout.MAPPING_HEIGHT), layout.XA_HEIGHT_MAX)
        self.use_object(number, "mapping")
        if ino & layout.OBJECT_MASK != number:
            self.find("mapping", f"record {number:#x}", f"has ino {ino:#x}, whose record is another one")
        found = {}
        for index, pfn in self.walk_tree(record + layout.MAPPING_HEAD, height, 0, ino):
            found[pfn] = found.get(pfn, 0) + 1
            owner, first, span = self.attached.get(pfn, (0, 0, 0))
            if owner != ino or not first <= index < first + (1 << span):
                self.find("slot", f"ino {ino:#x} index {index}", f"names pfn {pfn}, which is not that folio")
        for pfn, slots in found.items():
            _, first, span = self.attached.pop(pfn, (0, 0, 0))
            if slots != 1 << span:
                self.find(
                    "slot", f"ino {ino:#x} index {first}", f"has {slots} slots that name pfn {pfn}, which has 2^{span} units"
                )
            self.check_owner(pfn, record, ino)
        counted = atomics.load_relaxed(self.mem, record + layout.MAPPING_FOLIOS)
        if counted != len(found) or not found:
            self.find("mapping", f"ino {ino:#x}", f"{counted} folios counted, {len(found)} in the tree")

    def walk_tree(self, slot, level, index, ino):
        """Yield (index, pfn) of every slot below slot that names a folio; check the nodes on the way."""
        entry = atomics.load_relaxed(self.mem, slot)
        if entry == 0:
            return
        if level == 0:
            pfn = xarray.pfn_of(self.mem, entry)
            if pfn == layout.NIL:
                self.find("slot", f"ino {ino:#x} index {index}", f"holds {entry:#x}, which is no folio")
            else:
                yield index, pfn
            return
        node = xarray.node_at(self.mem, entry)
        if node == 0 or node in self.nodes or not self.is_object(layout.SLAB_NODES, entry >> 1):
            self.find("node", f"ino {ino:#x} index {index}", f"slot holds {entry:#x}, which is no node, or has a place already")
            return
        self.nodes.add(node)
        self.use_object(entry >> 1, "node")
        below = [xarray.slot_at(node, level - 1, i << (level - 1) * layout.NODE_SHIFT) for i in range(layout.NODE_MASK + 1)]
        filled = sum(1 for child in below if atomics.load_relaxed(self.mem, child))
        counted = atomics.read32(self.mem, node + layout.NODE_COUNT)
        if counted != filled or not filled:
            self.find("node", f"ino {ino:#x} node {entry >> 1:#x}", f"{counted} slots counted, {filled} filled")
        for i, child in enumerate(below):
            yield from self.walk_tree(child, level - 1, index | i << (level - 1) * layout.NODE_SHIFT, ino)

    def use_object(self, number, what):
        pfn = slab.pfn_of(self.mem, number)
        if pfn not in self.slab_used:
            self.find("slab", f"{what} {number:#x}", f"lies in pfn {pfn}, which is not a page of objects")
        else:
            self.slab_used[pfn] -= 1

    def describe(self, memory, number):
        """Return a mapping as a dict, for display."""
        record = slab.at(self.mem, layout.SLAB_MAPPINGS, number)
        key_length = min(atomics.read32(self.mem, record + layout.MAPPING_KEY_LENGTH), layout.MAPPING_TEXT_MAX)
        version_length = min(atomics.read32(self.mem, record + layout.MAPPING_VERSION_LENGTH), layout.MAPPING_TEXT_MAX)
        text = memory.peek_bytes(record + layout.MAPPING_TEXT, layout.MAPPING_TEXT_MAX)
        size = atomics.read64(self.mem, record + layout.MAPPING_OBJECT_SIZE)
        unit_order = min(atomics.read32(self.mem, record + layout.MAPPING_UNIT_ORDER), layout.MAX_ORDER)
        unit_size = 1 << atomics.page_shift(self.mem) + unit_order
        height = min(atomics.read32(self.mem, record + layout.MAPPING_HEIGHT), layout.XA_HEIGHT_MAX)
        cached = {pfn for _, pfn in self.walk_tree(record + layout.MAPPING_HEAD, height, 0, 0)}
        return {
            "key": readable(text[:key_length]),
            "version": readable(text[key_length : key_length + version_length]),
            "size": size,
            "unit_size": unit_size,
            "units": (size + unit_size - 1) // unit_size,
            "cached_folios": len(cached),
            "cached_bytes": sum(self.field(pfn, layout.F_LENGTH) for pfn in cached),
            "pins": sum(max(0, (self.word(pfn) & ~layout.FROZEN) - 1) for pfn in cached),
        }

    # Names.

    def check_names(self):
        found = set()
        for n in range(atomics.nnames(self.mem)):
            word = atomics.load_relaxed(self.mem, atomics.names(self.mem) + n * 4)
            if word:
                self.check_name(n, word - 1, found)

    def check_name(self, n, number, found):
        where = f"name {number:#x}"
        if not self.is_object(layout.SLAB_NAMES, number):
            self.find("name", where, f"is in word {n} of the index, but is no object in use")
            return
        self.use_object(number, "name")
        if not names.is_sound(self.mem, number):
            self.find("name", where, "contradicts itself, or is half written")
            return
        at = slab.at(self.mem, layout.SLAB_NAMES, number)
        key = atomics.load_relaxed64(self.mem, at + layout.NAME_KEY)
        lo = atomics.load_relaxed64(self.mem, at + layout.NAME_DIGEST_LO)
        hi = atomics.load_relaxed64(self.mem, at + layout.NAME_DIGEST_HI)
        first = names.first_of(self.mem, key)
        if not 0 <= n - first < layout.NAME_WAYS:
            self.find("name", where, f"is in word {n} of the index, which is not in its set")
        if (first, lo, hi) in found:
            self.find("name", where, "is in the index twice")
        found.add((first, lo, hi))

    # Slabs and queues.

    def check_slabs(self):
        for pfn, left in self.slab_used.items():
            if left:
                self.find("slab", f"pfn {pfn}", f"counts {left} more objects in use than are referenced")
        for cache, type in enumerate((layout.TYPE_NODE, layout.TYPE_INODE, layout.TYPE_NAME)):
            name = TYPES[type]
            for word, what, there in (
                (layout.SLAB_PAGES, "pages", self.folios[name]),
                (layout.SLAB_OBJECTS, "objects in use", self.objects[type]),
                (layout.SLAB_EMPTY, "empty pages", self.empty[type]),
            ):
                counted = atomics.load_relaxed(self.mem, word + cache * layout.SLAB_STRIDE)
                if counted != there:
                    self.find("slab", name, f"{counted} {what} counted, {there} there")
            listed = self.pages_on(layout.SLAB_PARTIAL + cache * layout.SLAB_STRIDE, f"partial {name} pages")
            for pfn in listed:
                if pfn not in self.slab_used or not self.field(pfn, layout.F_FREE):
                    self.find("slab", f"pfn {pfn}", "is on the partial list, but has no free object")
            self.check_chains(cache, type, set(listed))

    def check_chains(self, cache, type, listed):
        """Check that each page of a cache has its free objects in its chain, and is on the partial list if there are some."""
        for pfn in self.slab_used:
            if page_type.type(self.mem, pfn) == type:
                if not slab.is_chained(self.mem, cache, pfn):
                    self.find("slab", f"pfn {pfn}", "has other objects in its chain than those that are free")
                if self.field(pfn, layout.F_FREE) and pfn not in listed:
                    self.find("slab", f"pfn {pfn}", "has a free object, but is not on the partial list")

    def check_queues(self):
        for queue in (layout.QUEUE_NEW, layout.QUEUE_SMALL, layout.QUEUE_MAIN):
            pages = 0
            for pfn in self.pages_on(layout.LRU_LISTS + queue * layout.LIST_SIZE, f"queue {queue}"):
                pages += 1 << page_type.order(self.mem, pfn)
                self.queued.discard(pfn)
                if self.queue(pfn) != queue:
                    self.find("queue", f"pfn {pfn}", f"is on queue {queue}, but marked {self.queue(pfn)}")
            counted = atomics.load_relaxed(self.mem, layout.LRU_PAGES + queue * 4)
            if counted != pages:
                self.find("queue", f"queue {queue}", f"{counted} pages counted, {pages} there")
        for pfn in self.queued:
            self.find("queue", f"pfn {pfn}", f"is marked as on queue {self.queue(pfn)}, but not on it")

    def word(self, pfn):
        return page_ref.count(self.mem, atomics.folio_at(self.mem, pfn))

    def queue(self, pfn):
        return self.field(pfn, layout.F_QUEUE) & layout.QUEUE_MASK

    def field(self, pfn, offset):
        return atomics.read32(self.mem, atomics.folio_at(self.mem, pfn) + offset)

    def long(self, pfn, offset):
        return atomics.read64(self.mem, atomics.folio_at(self.mem, pfn) + offset)
