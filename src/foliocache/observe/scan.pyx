"""Passes over a pool's tables that are too long for Python: the sums of what clients have counted, and the folio table.

They take no lock and pin nothing. Each word is loaded once, so a sum is of values that were true at some moment of the pass.
"""
cimport cython
from libc.stdint cimport uint8_t as u8, uint32_t as u32, uint64_t as u64
from libc.stdlib cimport calloc, free

from ..mm cimport atomics, backing, flags, layout, page_alloc, page_ref, page_type
from ..mm.atomics cimport Memory, mem_t

# A dot of a picture: the state of a page, and these bits.
UNBACKED, FREE, CACHED, FILLING, INDEX, CHANGING = range(6)
PINNED = 8
REFERENCED = 16
QUEUE_SHIFT = 5
FILLING_MAX = 256

cdef enum:
    C_UNBACKED = 0
    C_FREE = 1
    C_CACHED = 2
    C_FILLING = 3
    C_INDEX = 4
    C_CHANGING = 5
    C_STATE = 7
    C_PINNED = 8
    C_REFERENCED = 16
    C_QUEUE_SHIFT = 5
    COUNTERS_MAX = 64


def totals(Memory memory not None, slots, counters):
    """Return the sums over the given client slots: of the counters numbered 0 .. counters - 1, and of the statistics."""
    cdef mem_t mem = memory.handle
    cdef u64 counted[COUNTERS_MAX]
    cdef u64 told[layout.STAT_WORDS]
    cdef u64 at
    cdef u32 slot, n
    cdef u32 wanted = min(<u32>counters, <u32>COUNTERS_MAX)
    for n in range(<u32>COUNTERS_MAX):
        counted[n] = 0
    for n in range(layout.STAT_WORDS):
        told[n] = 0
    for slot in slots:
        if slot >= atomics.nclients(mem):
            raise ValueError(f"slot {slot}: the pool has {atomics.nclients(mem)}")
        at = atomics.clients(mem) + <u64>slot * layout.CLIENT_SIZE
        for n in range(wanted):
            counted[n] += atomics.load_relaxed64(mem, at + layout.CLIENT_COUNTERS + n * 8)
        at += layout.CLIENT_STATISTICS
        for n in range(layout.STAT_WORDS):
            told[n] += atomics.load_relaxed64(mem, at + n * 8)
    return [counted[n] for n in range(wanted)], [told[n] for n in range(layout.STAT_WORDS)]


cdef struct Found:
    u64 ino  # 0: the place is free
    u64 bytes
    u64 referenced
    u64 filling
    u32 folios
    u32 pins
    u32 owner


@cython.final
@cython.auto_pickle(False)
cdef class _Objects:
    """What was found of each object: a hash table by ino, with open addressing."""
    cdef Found *table
    cdef u64 size, used

    def __cinit__(self):
        self.size = 1024
        self.table = <Found *>calloc(self.size, sizeof(Found))
        if self.table == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.table)

    cdef Found *place(self, u64 ino) noexcept:
        """Return the object's entry, or the free one that it would have."""
        cdef u64 at = ino * layout.HASH_MULTIPLIER >> 20
        while True:
            at &= self.size - 1
            if self.table[at].ino == ino or self.table[at].ino == 0:
                return &self.table[at]
            at += 1

    cdef Found *of(self, u64 ino) except NULL:
        cdef Found *found = self.place(ino)
        if found.ino == 0:
            if self.used * 2 >= self.size:
                self.grow()
                found = self.place(ino)
            found.ino = ino
            self.used += 1
        return found

    cdef int grow(self) except -1:
        cdef Found *old = self.table
        cdef u64 size = self.size, n
        cdef Found *bigger = <Found *>calloc(size * 2, sizeof(Found))
        if bigger == NULL:
            raise MemoryError
        self.table, self.size = bigger, size * 2
        for n in range(size):
            if old[n].ino:
                self.place(old[n].ino)[0] = old[n]
        free(old)
        return 0


def table(Memory memory not None, limit, dots, most):
    """Walk the folio table. Return (picture, pages of a dot, objects, number of objects).

    picture: bytes, two for each dot: its state with the bits above, and a hash of its object. The pages are the first ``limit``
    at least, and all up to the last that has memory; they have at most ``dots`` dots (none: no picture). A dot has the state of
    its first page, or FILLING if one of its pages is being filled.

    objects: of the ``most`` objects with the most bytes, and of those that are being filled, tuples of ino, bytes, bytes used
    since reclaim last looked, folios, pins, bytes that are being filled, and the client that fills, or None.
    """
    cdef mem_t mem = memory.handle
    cdef _Objects objects = _Objects()
    cdef Found *found
    cdef u64 at, ino, dot
    cdef u32 pfn = 0, described, shown, stride = 1
    cdef u32 n, mark, order, word, seen, type, queue
    cdef u32 wanted = dots, at_least = limit
    cdef bytearray picture
    cdef u8 *out = NULL
    cdef u8 state
    described = atomics.npages(mem)
    shown = _end_of_memory(mem, described)
    if shown < at_least:
        shown = min(at_least, atomics.npages_max(mem))
    if wanted:
        stride = max((shown + wanted - 1) // wanted, 1)
    picture = bytearray(2 * ((shown + stride - 1) // stride) if wanted else 0)
    if wanted and len(picture):
        out = picture
    while pfn < described:
        at = atomics.folio_at(mem, pfn)
        mark = page_alloc.mark(mem, pfn)
        ino = 0
        if mark != 0 and mark != layout.BUDDY_QUARANTINED and mark != layout.BUDDY_PARKED:
            order = (mark & ~<u32>layout.BUDDY_HOLE) - 1
            state = C_UNBACKED if mark & layout.BUDDY_HOLE else C_FREE
        else:
            order = page_type.order(mem, pfn)
            type = page_type.type(mem, pfn)
            word = page_ref.count(mem, at)
            if word & layout.FROZEN or type == layout.TYPE_NONE:
                state = C_CHANGING
            elif type != layout.TYPE_FILE:
                state = C_INDEX
            else:
                seen = flags.load(mem, at)
                ino = atomics.load_relaxed64(mem, at + layout.F_INO)
                queue = atomics.load_relaxed(mem, at + layout.F_QUEUE) & layout.QUEUE_MASK
                state = C_FILLING if seen & layout.PG_LOCKED else C_CACHED
                state |= C_PINNED if word > 1 else 0
                state |= C_REFERENCED if seen & layout.PG_REFERENCED else 0
                state |= (queue if queue < layout.QUEUES else 0) << C_QUEUE_SHIFT
                if ino:
                    found = objects.of(ino)
                    n = atomics.load_relaxed(mem, at + layout.F_LENGTH)
                    found.folios += 1
                    found.pins += min(word - 1, <u32>0xFFFF) if word else 0
                    if seen & layout.PG_LOCKED:
                        found.filling += n
                        found.owner = atomics.load_relaxed(mem, at + layout.F_OWNER)
                    else:
                        found.bytes += n
                        found.referenced += n if seen & layout.PG_REFERENCED else 0
        if order > layout.MAX_ORDER or (<u64>1 << order) > described - pfn:
            order = 0  # damaged, or changed since
        if out != NULL:
            dot = (pfn + stride - 1) // stride
            while dot * stride < min(pfn + (<u64>1 << order), shown):
                out[2 * dot] = state
                out[2 * dot + 1] = <u8>(ino * layout.HASH_MULTIPLIER >> 56)
                dot += 1
            if (state & C_STATE) == C_FILLING and pfn < shown:
                out[2 * (pfn // stride)] = state
        pfn += 1 << order
    return bytes(picture), stride, _largest(objects, most), objects.used


cdef u32 _end_of_memory(mem_t mem, u32 described) noexcept:
    """Return the page behind the last chunk that has memory."""
    cdef u32 chunk = 1 << backing.chunk_order(mem)
    cdef u32 pfn = (described + chunk - 1) // chunk * chunk
    while pfn and not backing.is_marked(mem, pfn - chunk):
        pfn -= chunk
    return min(pfn, described)


cdef list _largest(_Objects objects, u64 most):
    """Return the tuples of the objects that are being filled, and of the ``most`` largest others, largest first."""
    cdef list filling = []
    cdef u64 n, place, have = 0
    cdef u64 *best = <u64 *>calloc(most + 1, sizeof(u64))  # places in the table, the largest object's first
    if best == NULL:
        raise MemoryError
    try:
        for n in range(objects.size):
            if objects.table[n].ino == 0:
                continue
            if objects.table[n].filling:
                if len(filling) < FILLING_MAX:
                    filling.append(_told(objects.table[n]))
            elif have < most or (most and objects.table[n].bytes > objects.table[best[most - 1]].bytes):
                place = have if have < most else most - 1
                while place and objects.table[best[place - 1]].bytes < objects.table[n].bytes:
                    best[place] = best[place - 1]
                    place -= 1
                best[place] = n
                have = min(have + 1, most)
        filling.sort(key=_bytes, reverse=True)
        return filling + [_told(objects.table[best[n]]) for n in range(have)]
    finally:
        free(best)


cdef tuple _told(Found each):
    filler = each.owner if each.filling else None
    return each.ino, each.bytes, each.referenced, each.folios, each.pins, each.filling, filler


def _bytes(found):
    return found[1]
