"""Fill once: of all clients that miss a folio at the same time, one reads it from the source and the others sleep.

A folio is inserted locked, with F_OWNER naming the client that fills it, the *filler*. The filler writes the content, then
``complete`` sets PG_UPTODATE and wakes all waiters; or ``fail`` sets PG_ERROR. A failed folio has left its mapping before a
waiter is woken, so a client that wakes to PG_ERROR, or comes later, finds a miss and may fill the folio itself. With PG_REASON,
the filler has written the reason into the page (``explain``): the page has no other content, and it stays as long as a waiter
has it pinned.

A filler may die. A client that waits for it, or comes later, finds that out from F_OWNER and takes its place by a cmpxchg
(``take_over``); one client wins, and fills the folio as if it had added it. The reaper only clears F_OWNER (``abandon``): then
the folio waits for its next reader, or for reclaim.

Content is written once in a life, between ``begin`` and ``complete``, and only by the filler. Therefore readers need no lock.
"""

import cython

if not cython.compiled:
    from . import atomics, client, flags, layout


def begin(mem, me, pfn):
    """Lock a frozen folio for me, its filler. Called before ``page_ref.init``."""
    folio = atomics.folio_at(mem, pfn)
    atomics.store_relaxed(mem, folio + layout.F_OWNER, me)
    flags.init(mem, folio, layout.PG_LOCKED)


def complete(mem, pfn):
    """End a fill that succeeded: the content is complete and visible to readers."""
    flags.unlock(mem, atomics.folio_at(mem, pfn), layout.PG_UPTODATE)


def fail(mem, pfn):
    """End a fill that failed. The caller has removed the folio from its mapping (``filemap.remove``)."""
    flags.unlock(mem, atomics.folio_at(mem, pfn), layout.PG_ERROR)


def explain(mem, pfn):
    """Like ``fail``, after the filler has written the reason into the page, for the clients that wait with the folio pinned."""
    flags.unlock(mem, atomics.folio_at(mem, pfn), layout.PG_ERROR | layout.PG_REASON)


def take_over(mem, me, pfn):
    """Become the filler of a locked folio that the caller holds, if its filler is dead. True if this client is now the filler.

    The content may be complete already, if the filler died in its last steps: the caller looks at the flags before it writes
    anything. Acquire pairs with the release in ``abandon``, so that the caller sees flags that the reaper saw. (A caller that
    asks the kernel itself whether the owner is alive learns of its death after the owner's last instruction.)
    """
    word = atomics.folio_at(mem, pfn) + layout.F_OWNER
    owner = atomics.load_relaxed(mem, word)
    return not client.is_alive(mem, owner) and atomics.cmpxchg_acquire(mem, word, owner, me) == owner


def abandon(mem, dead, pfn):
    """For the reaper, about a folio that a dead client fills: complete the fill if the content is complete, else clear
    F_OWNER."""
    folio = atomics.folio_at(mem, pfn)
    seen = flags.load(mem, folio)
    if seen & layout.PG_LOCKED:
        atomics.cmpxchg_release(mem, folio + layout.F_OWNER, dead, layout.NIL)
        if seen & layout.PG_UPTODATE:
            complete(mem, pfn)


def begin_wait(mem, pfn):
    """Announce a sleeper on a folio that the caller holds, who sleeps by other means than ``wait``: ``flags.begin_wait``."""
    return flags.begin_wait(mem, atomics.folio_at(mem, pfn))


def wait(mem, pfn, timeout_ns):
    """Sleep until the fill of a folio that the caller holds has ended. Return its flags; PG_LOCKED is still set after
    timeout_ns."""
    return flags.wait(mem, atomics.folio_at(mem, pfn), timeout_ns)
