"""``foliocache rm``: remove a pool."""

from __future__ import annotations

import foliocache
from foliocache.cli.options import Json, Name
from foliocache.cli.output import console, counted, emit_json
from foliocache.pool.watch import Watch


def rm(name: Name, /, *, json: Json = False) -> None:
    """Remove a pool.

    Processes that have it attached keep it, with its memory, until they end; others get a new one.

    Parameters
    ----------
    name
        The pool.
    json
        Print {"removed": name, "clients": processes that keep its memory} as JSON.
    """
    (seen,) = Watch([name]).look()
    clients = seen.statistics.clients if seen.statistics else 0
    foliocache.remove(name)
    if json:
        emit_json({"removed": name, "clients": clients})
    else:
        kept = (
            f"; its memory is free when {counted(clients, 'client')} of it {'has' if clients == 1 else 'have'} ended"
            if clients
            else ""
        )
        console().print(f"removed pool {name}{kept}")
