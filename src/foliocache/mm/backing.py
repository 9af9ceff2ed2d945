"""Which pages have memory behind them.

The segment's file is sparse: a page of it has no memory until it is asked for (``fallocate``). Where the file system is full,
an access to such a page through a mapping is a SIGBUS, and elsewhere it takes memory that nobody has counted. So no page is
accessed before it is *marked*.

A mark is a bit, for a chunk of pages: 2^CHUNK_SHIFT bytes, or a page if that is larger. It is set by the owner of a frozen
block in it (``page_alloc``), after the kernel has given memory to the whole chunk. So

    a marked chunk has memory, at every instruction, wherever a client was killed.

The reverse does not hold: a client that is killed between the two steps leaves memory without a mark. Asking for it again is
cheap, and takes no more.

Marks are loaded without a lock, by walkers that follow what they cannot trust (``slab.at``). A mark that is set stays true
while such a walker's operation lasts.
"""

import cython

if not cython.compiled:
    from . import atomics, layout


def chunk_order(mem):
    """Return log2 of the pages of a chunk."""
    return layout.CHUNK_SHIFT - min(atomics.page_shift(mem), layout.CHUNK_SHIFT)


def limit(mem):
    """Return how many pages may have memory at once: the pool's size."""
    return min(atomics.load_relaxed(mem, layout.PAGES_LIMIT), atomics.npages_max(mem))


def is_marked(mem, pfn):
    """True if a page, which is below ``atomics.npages``, has memory."""
    chunk = pfn >> chunk_order(mem)
    return atomics.load_relaxed(mem, _word(mem, chunk)) >> (chunk & 31) & 1


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
        pages = max(min(end - pfn, _pages(mem, layout.PIECE_SHIFT)), chunk_pages)
        if not reserve(mem, atomics.page_at(mem, pfn), pages << atomics.page_shift(mem)):
            return False
        for chunk in range(pfn >> chunk_order(mem), (pfn + pages) >> chunk_order(mem)):
            atomics.fetch_or_relaxed(mem, _word(mem, chunk), 1 << (chunk & 31))
        pfn += pages
    return True


def reserve(mem, begin, length):
    """Give bytes of the segment memory, a piece at a time. False if there is none.

    A signal makes the kernel give up a call and undo it, so after one the pieces are smaller.
    """
    end = begin + length
    piece = 1 << layout.PIECE_SHIFT
    while begin < end:
        status = atomics.fallocate(mem, begin, min(piece, end - begin))
        if status == 0:
            begin += piece
        elif status != layout.INTERRUPTED:
            return False
        elif piece >> layout.CHUNK_SHIFT > 1:
            piece >>= 1
    return True


def _pages(mem, shift):
    """Return how many pages are in 2^shift bytes."""
    return 1 << (shift - min(shift, atomics.page_shift(mem)))


def _word(mem, chunk):
    return atomics.backed(mem) + (chunk >> 5) * 4
