"""Which pages and client slots have memory behind them.

The segment's file is sparse: a page of it has no memory until it is asked for (``fallocate``). Where the file system is full,
an access to such a page through a mapping is a SIGBUS, and elsewhere it takes memory that nobody has counted. So no page is
accessed before it is *marked*.

A mark is a bit, for a chunk of pages: 2^CHUNK_SHIFT bytes, or a page if that is larger; where the file system gives huge pages
(2^HUGE_SHIFT), one of those, so that it is taken and given back as a whole. It is set by the owner of a frozen
block in it (``page_alloc``), after the kernel has given memory to the whole chunk. So

    a marked chunk has memory, at every instruction, wherever a client was killed.

The reverse does not hold: a client that is killed between the two steps leaves memory without a mark. Asking for it again is
cheap, and takes no more; and the reaper that frees the dead client's block takes it away (``empty``).

Marks are loaded without a lock, by walkers that follow what they cannot trust (``slab.at``). What a walker has seen marked
keeps its memory while the walker's operation lasts: memory is taken away after the mark is cleared (``unmark``) *and* a grace
period has ended (``trim``).

Client slots get memory one after the other, when all before them are in use, and keep it (``back_slot``). What goes through the
slots goes through those below SLOTS_BACKED. Where it must not miss one, it loads that number after a heavy fence, as
``client.wait_grace_period`` does: a client that has begun an operation before the fence had its slot before.
"""

import cython

if not cython.compiled:
    from . import atomics, layout


def chunk_order(mem):
    """Return log2 of the pages of a chunk."""
    return atomics.chunk_shift(mem) - min(atomics.page_shift(mem), atomics.chunk_shift(mem))


def limit(mem):
    """Return how many pages may have memory at once: the pool's size."""
    return min(atomics.load_relaxed(mem, layout.PAGES_LIMIT), atomics.npages_max(mem))


def is_marked(mem, pfn):
    """True if a page, which is below ``atomics.npages``, has memory."""
    chunk = pfn >> chunk_order(mem)
    return atomics.load_relaxed(mem, _word(mem, chunk)) >> (chunk & 31) & 1


def mark_of(mem, pfn):
    """Return where a page's mark is, for ``is_set``: the word's offset << 5 | the bit. 0 stands for one that is never set."""
    chunk = pfn >> chunk_order(mem)
    return _word(mem, chunk) << 5 | chunk & 31


def is_set(mem, mark):
    """As ``is_marked``, with the ``mark_of`` the page: for the hit path."""
    return atomics.load_relaxed(mem, mark >> 5) >> (mark & 31) & 1


def is_backed(mem, pfn, order):
    """True if all pages of a block have memory. The caller owns it."""
    end = pfn + (1 << order)
    while pfn < end:
        if not is_marked(mem, pfn):
            return False
        pfn += 1 << chunk_order(mem)
    return True


def back(mem, pfn, order):
    """Give the chunks of a block memory, and mark them; the caller owns it. False if there is none; some may be marked then."""
    end = pfn + (1 << order)
    chunk_pages = 1 << chunk_order(mem)
    pfn = pfn >> chunk_order(mem) << chunk_order(mem)
    while pfn < end:
        pages = _piece(mem, pfn, end, chunk_pages)
        while not reserve(mem, atomics.page_at(mem, pfn), pages << atomics.page_shift(mem)):
            if pages == chunk_pages:
                return False
            pages = (pages >> 1) // chunk_pages * chunk_pages  # what there is less of is not left without a mark
        for chunk in range(pfn >> chunk_order(mem), (pfn + pages) >> chunk_order(mem)):
            atomics.fetch_or_relaxed(mem, _word(mem, chunk), 1 << (chunk & 31))
        pfn += pages
    return True


def mark_again(mem, pfn, order):
    """Set the marks of a block of whole chunks again, which still has all its memory; the caller owns it."""
    for chunk in range(pfn >> chunk_order(mem), (pfn + (1 << order)) >> chunk_order(mem)):
        atomics.fetch_or_relaxed(mem, _word(mem, chunk), 1 << (chunk & 31))


def unmark(mem, pfn, order):
    """Clear the marks of a block of whole chunks; the caller owns it. Its memory stays until ``punch``."""
    for chunk in range(pfn >> chunk_order(mem), (pfn + (1 << order)) >> chunk_order(mem)):
        atomics.fetch_and_relaxed(mem, _word(mem, chunk), layout.NIL ^ (1 << (chunk & 31)))


def punch(mem, pfn, order):
    """Take the memory of a block of whole chunks away, whose marks were cleared before a grace period; the caller owns it.
    False if the kernel refuses."""
    end = pfn + (1 << order)
    while pfn < end:
        pages = _piece(mem, pfn, end, 1 << chunk_order(mem))
        if atomics.punch(mem, atomics.page_at(mem, pfn), pages << atomics.page_shift(mem)) != 0:
            return False
        pfn += pages
    return True


def empty(mem, pfn, order):
    """Take the memory away that the chunks of a block have without being marked: what is left by a client that died while it
    gave them memory, or took it. The caller owns the block, and a grace period has ended since that death."""
    chunk = chunk_order(mem)
    end = pfn + (1 << order)
    while order >= chunk and pfn < end:
        if not is_marked(mem, pfn):
            punch(mem, pfn, chunk)
        pfn += 1 << chunk


def reserve(mem, begin, length):
    """Give bytes of the segment memory, a piece at a time. False if there is none.

    A signal makes the kernel give up a call and undo it, so after one the pieces are smaller.
    """
    end = begin + length
    piece = 1 << max(layout.PIECE_SHIFT, atomics.chunk_shift(mem))
    while begin < end:
        status = atomics.fallocate(mem, begin, min(piece, end - begin))
        if status == 0:
            begin += piece
        elif status != layout.INTERRUPTED:
            return False
        elif piece >> layout.CHUNK_SHIFT > 1:
            piece >>= 1
    return True


def back_slot(mem):
    """Give the next slot of the client table memory, so that it is one of ``atomics.nclients``. False if there is no memory for
    it, or no next slot.

    Any process may do this, with a slot or without, and others at the same time. One that is killed between the steps leaves
    memory that is asked for again. The release pairs with the acquire in ``atomics.nclients``.
    """
    n = atomics.load_relaxed(mem, layout.SLOTS_BACKED)
    if n >= atomics.nclients_max(mem):
        return False
    if not reserve(mem, atomics.clients(mem) + n * layout.CLIENT_SIZE, layout.CLIENT_SIZE):
        return False
    atomics.cmpxchg_release(mem, layout.SLOTS_BACKED, n, n + 1)
    return True


def _piece(mem, pfn, end, chunk_pages):
    """Return how many of the pages from pfn to end the kernel is asked for at once: whole chunks."""
    return max(min(end - pfn, _pages(mem, layout.PIECE_SHIFT)), chunk_pages)


def _pages(mem, shift):
    """Return how many pages are in 2^shift bytes."""
    return 1 << (shift - min(shift, atomics.page_shift(mem)))


def _word(mem, chunk):
    return atomics.backed(mem) + (chunk >> 5) * 4
