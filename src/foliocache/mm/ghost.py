"""Ghosts: what is remembered of folios that reclaim has evicted. One word for each unit; LRU_LOCK guards them all.

A word contains a fingerprint of the object's key and the unit's index, why the folio was evicted (its *verdict*), its heat,
and the time of the eviction in ticks (``layout``, "A ghost's word"). A ghost is a unit's, and not a folio's, so that it is
found when what was evicted as one folio is read again as several, or as a part of a larger one. The key is known by the upper
half of F_DIGEST, the same for all versions of an object: one that is recreated has a new version each time, and comes back
nevertheless. (An ino would not even outlive the object's last folio.)

An object that is gone without any part of it (WHOLE_SHIFT: a Python object) has one ghost for all of its units: that of the
part that was evicted last. It stays when it is taken, so all units of an object that is recreated get the same heat; else the
unit with the least would be evicted first, and the others would be of no use.

The table is divided into sets of GHOST_WAYS words. A ghost may be anywhere in the set that its hash selects, and replaces the
oldest there. The table has a word for each page of the pool, and units of 2^order pages use 1 / 2^order of it. So about as
many evictions are remembered as such units fit into the pool; remembering more would not help, because a folio that comes back
later than that would have been evicted in the meantime. Old ghosts are overwritten, so no list is needed. Any content of the
table is valid: a wrong word is a wrong guess about one folio.
"""

import cython

if not cython.compiled:
    from . import atomics, layout


def remember(mem, digest, index, order, verdict, heat, tick):
    """Store a ghost."""
    mixed = _hash(digest, index)
    word = verdict | heat << layout.GHOST_HEAT_SHIFT | (tick & layout.GHOST_TICK_MASK) << layout.GHOST_TICK_SHIFT
    place = _set(mem, mixed, 0 if is_whole(digest) else order)
    known = _find(mem, place, _print(mixed)) if is_whole(digest) else 0
    atomics.write32(mem, known or _oldest(mem, place, tick), word | _print(mixed) << layout.GHOST_PRINT_SHIFT)


def take(mem, digest, index, order, tick):
    """Remove a ghost, unless it is of a whole object. Return verdict | heat << GHOST_HEAT_SHIFT | age in ticks <<
    GHOST_TICK_SHIFT, or 0 if there is none."""
    mixed = _hash(digest, index)
    place = _find(mem, _set(mem, mixed, 0 if is_whole(digest) else order), _print(mixed))
    if place == 0:
        return 0
    word = atomics.read32(mem, place)
    if not is_whole(digest):
        atomics.write32(mem, place, 0)
    age = _age(word, tick)
    left = word & ((1 << layout.GHOST_TICK_SHIFT) - 1)
    return left | age << layout.GHOST_TICK_SHIFT if age <= layout.TICKS_MAX else 0


def is_whole(digest):
    """True if an object with this digest is gone without any part of it."""
    return digest >> layout.WHOLE_SHIFT & 1


def _find(mem, place, printed):
    """Return the offset of the ghost with this fingerprint in the set at place, or 0."""
    for _ in range(layout.GHOST_WAYS):
        word = atomics.read32(mem, place)
        if word != 0 and word >> layout.GHOST_PRINT_SHIFT == printed:
            return place
        place += 4
    return 0


def _oldest(mem, place, tick):
    """Return the offset of an empty word of the set at place, or else of the oldest ghost there."""
    oldest = place
    most = 0
    for _ in range(layout.GHOST_WAYS):
        word = atomics.read32(mem, place)
        if word == 0:
            return place
        if _age(word, tick) > most:
            oldest = place
            most = _age(word, tick)
        place += 4
    return oldest


def _age(word, tick):
    return (tick - (word >> layout.GHOST_TICK_SHIFT)) & layout.GHOST_TICK_MASK


def _set(mem, mixed, order):
    sets = atomics.nghosts(mem) // layout.GHOST_WAYS >> order
    return atomics.ghosts(mem) + ((mixed >> 32) * max(sets, 1) >> 32) * layout.GHOST_WAYS * 4


def _print(mixed):
    return mixed & (layout.NIL >> layout.GHOST_PRINT_SHIFT)


def _hash(digest, index):
    """Return a 64-bit hash of a digest's upper half, which is of the key, and an index (the multiplier is 2^64 / golden ratio;
    the shift folds the high bits down)."""
    key = (digest >> layout.KEY_SHIFT) * layout.HASH_MULTIPLIER & layout.HASH_MASK
    mixed = (key ^ (0 if is_whole(digest) else index)) * layout.HASH_MULTIPLIER & layout.HASH_MASK
    return mixed ^ (mixed >> 29)
