"""Fill once: of all who miss a folio at once, one reads it from the source, the others sleep.

A folio is inserted locked, with F_OWNER naming the client that fills it. The filler writes the content, then ``complete`` sets
PG_UPTODATE and wakes everybody; or ``fail`` sets PG_ERROR. A failed folio has left its mapping before anybody is woken, so
one who wakes to PG_ERROR, or comes later, finds a miss and tries for himself. With PG_REASON, the filler has written the reason into
the page (``explain``): it is nobody else's content, and stays as long as one of those who waited has it pinned.

A filler may die. Whoever waits for it, or comes later, finds that out from F_OWNER and takes its place by a cmpxchg (``take_over``);
one wins, and fills as if it had added the folio. The reaper only says that nobody is at it (``abandon``): then the folio waits for
its next reader, or for reclaim.

Content is written once in a life, between ``begin`` and ``complete``, and only by the filler: that is what lets readers look at
it without any lock.
"""

import cython

if not cython.compiled:
    from . import atomics, client, flags, layout


def begin(mem, me, pfn):
    """Lock a frozen folio for its filler; before ``page_ref.init``."""
    folio = atomics.folio_at(mem, pfn)
    atomics.store_relaxed(mem, folio + layout.F_OWNER, me)
    flags.init(mem, folio, layout.PG_LOCKED)


def complete(mem, pfn):
    """The content is there."""
    flags.unlock(mem, atomics.folio_at(mem, pfn), layout.PG_UPTODATE)


def fail(mem, pfn):
    """The source failed; the caller has withdrawn the folio (``filemap.remove``)."""
    flags.unlock(mem, atomics.folio_at(mem, pfn), layout.PG_ERROR)


def explain(mem, pfn):
    """As fail, after the filler has written into the folio why: for those who wait now, and look before they let go of it."""
    flags.unlock(mem, atomics.folio_at(mem, pfn), layout.PG_ERROR | layout.PG_REASON)


def take_over(mem, me, pfn):
    """Become the filler of a locked folio that the caller holds, if its filler is dead; whether he is now.

    The content may be there already, if the other died on his last steps: look at the flags before anything is written. Acquire: pairs
    with the release of ``abandon``, so that they are there to be seen if the reaper had seen them. (Who asks himself whether the owner
    lives is told after the owner's last instruction.)
    """
    word = atomics.folio_at(mem, pfn) + layout.F_OWNER
    owner = atomics.load_relaxed(mem, word)
    return not client.is_alive(mem, owner) and atomics.cmpxchg_acquire(mem, word, owner, me) == owner


def abandon(mem, dead, pfn):
    """What the reaper does to a folio that a dead filler holds: finish the fill if its content is there, else leave it to others."""
    folio = atomics.folio_at(mem, pfn)
    seen = flags.load(mem, folio)
    if seen & layout.PG_LOCKED:
        atomics.cmpxchg_release(mem, folio + layout.F_OWNER, dead, layout.NIL)
        if seen & layout.PG_UPTODATE:
            complete(mem, pfn)


def wait(mem, pfn, timeout_ns):
    """Sleep until a folio that the caller holds is filled or failed: its flags then, or with PG_LOCKED set after timeout_ns."""
    return flags.wait(mem, atomics.folio_at(mem, pfn), timeout_ns)
