"""What the tests of the disk tier store: bytes that follow from where they are, so that any process knows what is right."""

from __future__ import annotations

import hashlib
import mmap

PAGE = 4096


class WrongBytes(AssertionError):
    """A tier has given other bytes than were stored."""


def digest(n):
    return hashlib.blake2b(str(n).encode(), digest_size=16).digest()


def content(n, offset, length):
    """The bytes of object n. Those of every page are different, and those of other objects at the same offset, too."""
    first, last = offset // PAGE, -(-(offset + length) // PAGE)
    pages = b"".join(hashlib.shake_128(b"%d %d" % (n, page)).digest(64) * (PAGE // 64) for page in range(first, last))
    return pages[offset - first * PAGE :][:length]


def aligned(length):
    """A writable buffer at a page's boundary, as a pool's pages are."""
    return memoryview(mmap.mmap(-1, -(-length // PAGE) * PAGE or PAGE))[:length]


def store(tier, n, offset, length):
    view = aligned(length)
    view[:] = content(n, offset, length)
    tier.store(digest(n), [(offset, view)])


def load(tier, n, offset, length):
    """Return True if the tier has a range, and its bytes are right; False if it has not. Fails if they are wrong."""
    view = aligned(length)
    (had,) = tier.load(digest(n), [(offset, view)])
    if had and bytes(view) != content(n, offset, length):
        raise WrongBytes(f"wrong bytes of object {n} at {offset}")
    return had
