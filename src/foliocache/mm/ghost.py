"""Ghosts: what is remembered of folios that reclaim has evicted. One word for each unit; LRU_LOCK guards them all.

A word says whose it is, how it went, how hot it was and when (``layout``, "A ghost's word"). Whose it is: a fingerprint of the
object's digest and the unit's index, so that what was evicted as one folio is found when it is read again as several, or as a part
of a larger one. A digest stays the same when an object's record goes with its last folio and is made anew, which
an ino does not.

The table is cut into sets of GHOST_WAYS words. A ghost may stand anywhere in the set that its hash names, and takes the place of
the oldest there. The table has a word for each page of the pool, and units of 2^order pages use 1 / 2^order of it. So about as many
evictions are remembered as such units fit (more would be less: what comes back after longer than that may as well be out), and
what is older fades out, without a list to keep. Any content of the table is sound: a wrong word is a wrong guess about one folio.
"""

import cython

if not cython.compiled:
    from . import atomics, layout


def remember(mem, digest, index, order, verdict, heat, tick):
    """Leave a ghost."""
    mixed = _hash(digest, index)
    word = verdict | heat << layout.GHOST_HEAT_SHIFT | (tick & layout.GHOST_TICK_MASK) << layout.GHOST_TICK_SHIFT
    atomics.write32(mem, _oldest(mem, _set(mem, mixed, order), tick), word | _print(mixed) << layout.GHOST_PRINT_SHIFT)


def take(mem, digest, index, order, tick):
    """Take a ghost away: its verdict | heat << GHOST_HEAT_SHIFT | age in ticks << GHOST_TICK_SHIFT, or 0 if there is none."""
    mixed = _hash(digest, index)
    place = _set(mem, mixed, order)
    for _ in range(layout.GHOST_WAYS):
        word = atomics.read32(mem, place)
        if word != 0 and word >> layout.GHOST_PRINT_SHIFT == _print(mixed):
            atomics.write32(mem, place, 0)
            age = _age(word, tick)
            left = word & ((1 << layout.GHOST_TICK_SHIFT) - 1)
            return left | age << layout.GHOST_TICK_SHIFT if age <= layout.TICKS_MAX else 0
        place += 4
    return 0


def _oldest(mem, place, tick):
    """Of the set at place, an empty word or else the oldest one."""
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
    """64 bits, mixed (the multiplier is 2^64 / golden ratio; the shifts fold the high half down)."""
    mixed = ((digest * layout.HASH_MULTIPLIER & layout.HASH_MASK) ^ index) * layout.HASH_MULTIPLIER & layout.HASH_MASK
    return mixed ^ (mixed >> 29)
