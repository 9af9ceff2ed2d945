"""Doubly linked lists of folios, threaded through their descriptors (F_PREV, F_NEXT).

A list is two words of the header: its first and its last pfn. A folio is on one list at a time, and that list's lock guards its
links. Links are in shared memory and may be damaged: a value that is not a pfn of this segment counts as the end of the list.
"""

import cython

if not cython.compiled:
    from . import atomics, layout


def reset(mem, where):
    """Make the list at offset ``where`` empty."""
    atomics.write32(mem, where + layout.LIST_FIRST, layout.NIL)
    atomics.write32(mem, where + layout.LIST_LAST, layout.NIL)


def first(mem, where):
    """Return the first pfn, or NIL."""
    return _checked(mem, atomics.read32(mem, where + layout.LIST_FIRST))


def last(mem, where):
    """Return the last pfn, or NIL."""
    return _checked(mem, atomics.read32(mem, where + layout.LIST_LAST))


def before(mem, pfn):
    """Return the pfn before this one on its list, or NIL."""
    return _checked(mem, atomics.read32(mem, atomics.folio_at(mem, pfn) + layout.F_PREV))


def push_first(mem, where, pfn):
    """Insert pfn before all others."""
    _insert(mem, where, layout.NIL, pfn, first(mem, where))


def push_last(mem, where, pfn):
    """Insert pfn after all others."""
    _insert(mem, where, last(mem, where), pfn, layout.NIL)


def remove(mem, where, pfn):
    """Take pfn off the list that it is on."""
    folio = atomics.folio_at(mem, pfn)
    before = _checked(mem, atomics.read32(mem, folio + layout.F_PREV))
    behind = _checked(mem, atomics.read32(mem, folio + layout.F_NEXT))
    _link(mem, where, before, behind)


def _insert(mem, where, before, pfn, behind):
    _link(mem, where, before, pfn)
    _link(mem, where, pfn, behind)


def _link(mem, where, before, behind):
    """Make two folios neighbours; NIL stands for the end of the list on that side."""
    if before == layout.NIL:
        atomics.write32(mem, where + layout.LIST_FIRST, behind)
    else:
        atomics.write32(mem, atomics.folio_at(mem, before) + layout.F_NEXT, behind)
    if behind == layout.NIL:
        atomics.write32(mem, where + layout.LIST_LAST, before)
    else:
        atomics.write32(mem, atomics.folio_at(mem, behind) + layout.F_PREV, before)


def _checked(mem, pfn):
    return pfn if pfn < atomics.npages(mem) else layout.NIL
