"""What a folio is: its type and its order, in one word of its descriptor (F_KIND), and the only module that touches it.

Written by the owner of a frozen folio; read by whoever holds a reference or owns it, and by those who walk the folio table to repair
something: hence atomic, relaxed. The order part of a block changes under page_alloc's lock alone. The order decides how far a folio reaches, so
one that would reach beyond the segment is read as 0: the word lies in shared memory, and somebody may have damaged it.
"""

import cython

if not cython.compiled:
    from . import atomics, layout


def set(mem, pfn, type, order):
    """Begin (or, with TYPE_NONE, end) a life."""
    atomics.store_relaxed(mem, atomics.folio_at(mem, pfn) + layout.F_KIND, type | order << layout.ORDER_SHIFT)


def type(mem, pfn):
    """TYPE_FILE and so on."""
    return atomics.load_relaxed(mem, atomics.folio_at(mem, pfn) + layout.F_KIND) & layout.TYPE_MASK


def order(mem, pfn):
    """The folio has 2^order pages."""
    found = atomics.load_relaxed(mem, atomics.folio_at(mem, pfn) + layout.F_KIND) >> layout.ORDER_SHIFT
    if found > layout.MAX_ORDER or pfn + (1 << found) > atomics.npages(mem):
        return 0
    return found
