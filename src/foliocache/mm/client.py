"""A client's slot: for now its counters. Its ledger has its place in the layout (CLIENT_BUSY, CLIENT_OP, CLIENT_LEDGER)."""

import cython

if not cython.compiled:
    from . import atomics, layout


def slot(mem, me):
    """The offset of client me's slot."""
    return atomics.clients(mem) + me * layout.CLIENT_SIZE


def count(mem, me, counter, n):
    """Add n to one of a client's counters. Each client writes only its own, so this is no read-modify-write."""
    atomics.count64(mem, slot(mem, me) + layout.CLIENT_COUNTERS + counter * 8, n)
