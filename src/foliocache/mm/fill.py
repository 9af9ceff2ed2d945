"""Fill once: of all who miss a folio at once, one reads it from the source, the others sleep.

A folio is inserted locked, with F_OWNER naming the client that fills it. The filler writes the content, then ``complete`` sets
PG_UPTODATE and wakes everybody; or ``fail`` sets PG_ERROR. A failed folio has left its mapping before anybody is woken, so
one who wakes to PG_ERROR, or comes later, finds a miss and tries for himself.

Content is written once in a life, between ``begin`` and ``complete``, and only by the filler: that is what lets readers look at
it without any lock.
"""

import cython

if not cython.compiled:
    from . import atomics, flags, layout


def begin(mem, me, pfn):
    """Lock a frozen folio for its filler; before ``page_ref.init``."""
    folio = atomics.folio_at(mem, pfn)
    atomics.write32(mem, folio + layout.F_OWNER, me)
    flags.init(mem, folio, layout.PG_LOCKED)


def complete(mem, pfn):
    """The content is there."""
    flags.unlock(mem, atomics.folio_at(mem, pfn), layout.PG_UPTODATE)


def fail(mem, pfn):
    """The source failed; the caller has withdrawn the folio (``filemap.remove``)."""
    flags.unlock(mem, atomics.folio_at(mem, pfn), layout.PG_ERROR)


def wait(mem, pfn, timeout_ns):
    """Sleep until a folio that the caller holds is filled or failed: its flags then, or with PG_LOCKED set after timeout_ns."""
    return flags.wait(mem, atomics.folio_at(mem, pfn), timeout_ns)
