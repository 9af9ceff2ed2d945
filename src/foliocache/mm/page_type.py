"""What a folio is: type, order and span, in one word of its descriptor (F_TYPE). No other module accesses that word.

A folio has 2^order pages. One of FILE has 2^span units of its mapping; the span of any other is 0.

It is written by the owner of a frozen folio, and read by clients that hold a reference or own the folio, and by repairs that
walk the folio table: hence the accesses are atomic and relaxed. The order of a block changes only under page_alloc's lock. The
order decides how far a folio extends, so one that would extend beyond the segment is read as 0: the word is in shared memory
and may be damaged. For the same reason, no page is written to because of this word alone: a second one must agree
(``is_private``, ``limit``).
"""

import cython

if not cython.compiled:
    from . import atomics, layout


def set(mem, pfn, type, order, span):
    """Set type, order and span: begin a life or, with TYPE_NONE, end it."""
    word = type | order << layout.ORDER_SHIFT | span << layout.SPAN_SHIFT
    atomics.store_relaxed(mem, atomics.folio_at(mem, pfn) + layout.F_TYPE, word)


def type(mem, pfn):
    """Return the type: TYPE_FILE and so on."""
    return atomics.load_relaxed(mem, atomics.folio_at(mem, pfn) + layout.F_TYPE) & layout.TYPE_MASK


def order(mem, pfn):
    """Return the order: the folio has 2^order pages."""
    word = atomics.load_relaxed(mem, atomics.folio_at(mem, pfn) + layout.F_TYPE)
    type = word & layout.TYPE_MASK
    found = word >> layout.ORDER_SHIFT & layout.ORDER_MASK
    if found > layout.MAX_ORDER or pfn + (1 << found) > atomics.npages(mem):
        return 0
    if type == layout.TYPE_NODE or type == layout.TYPE_INODE or type == layout.TYPE_NAME:  # single pages
        return 0
    return found


def span(mem, pfn):
    """Return the span: the folio has 2^span units. It is at most SPAN_MASK, whatever the word holds."""
    return atomics.load_relaxed(mem, atomics.folio_at(mem, pfn) + layout.F_TYPE) >> layout.SPAN_SHIFT & layout.SPAN_MASK


def is_private(mem, pfn, wanted):
    """True if a page has this type, which is not FILE, and its F_INO is 0: a page of user data with a damaged type still has
    its ino.

    The caller knows that the page, if it has that type, keeps it for the time of the call.
    """
    return type(mem, pfn) == wanted and atomics.read64(mem, atomics.folio_at(mem, pfn) + layout.F_INO) == 0


def limit(mem, pfn):
    """Return the smallest order that has room for the folio's F_LENGTH bytes (its order, for FILE and TABLE), or MAX_ORDER if
    F_LENGTH is
    0. The caller holds or owns the folio."""
    length = atomics.read32(mem, atomics.folio_at(mem, pfn) + layout.F_LENGTH)
    if length == 0:
        return layout.MAX_ORDER
    found = 0
    size = 1 << atomics.page_shift(mem)
    while found < layout.MAX_ORDER and size < length:
        size <<= 1
        found += 1
    return found
