"""What a folio is: its type and its order, in one word of its descriptor (F_KIND), and the only module that touches it.

Written by the owner of a frozen folio; read by whoever holds a reference or owns it, and by those who walk the folio table to repair
something: hence atomic, relaxed. The order part of a block changes under page_alloc's lock alone. The order decides how far a folio reaches, so
one that would reach beyond the segment is read as 0: the word lies in shared memory, and somebody may have damaged it. For the same
reason nobody writes into a page because of this word alone: a second one must say the same (``is_private``, ``limit``).
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
    word = atomics.load_relaxed(mem, atomics.folio_at(mem, pfn) + layout.F_KIND)
    type = word & layout.TYPE_MASK
    found = word >> layout.ORDER_SHIFT
    if found > layout.MAX_ORDER or pfn + (1 << found) > atomics.npages(mem):
        return 0
    if type == layout.TYPE_NODE or type == layout.TYPE_INODE or type == layout.TYPE_NAME:  # single pages
        return 0
    return found


def is_private(mem, pfn, wanted):
    """Whether a page has this type, which is not FILE, and is no file's: a page of user data whose type was damaged has its ino still.

    For those who know that the page, if it has that type, keeps it meanwhile.
    """
    return type(mem, pfn) == wanted and atomics.read64(mem, atomics.folio_at(mem, pfn) + layout.F_INO) == 0


def limit(mem, pfn):
    """The smallest order that has room for a folio's F_LENGTH bytes: its order, for FILE and TABLE. For who holds or owns it. MAX_ORDER
    if no length is given."""
    length = atomics.read32(mem, atomics.folio_at(mem, pfn) + layout.F_LENGTH)
    if length == 0:
        return layout.MAX_ORDER
    found = 0
    size = 1 << atomics.page_shift(mem)
    while found < layout.MAX_ORDER and size < length:
        size <<= 1
        found += 1
    return found
