"""``foliocache rm``: remove a pool."""

from __future__ import annotations

import foliocache
from foliocache.cli.options import Json, Name
from foliocache.cli.output import console, emit_json


def rm(name: Name, /, *, json: Json = False) -> None:
    """Remove a pool.

    Processes that have it attached keep it until they end; others get a new one.

    Parameters
    ----------
    name
        The pool.
    json
        Print {"removed": name} as JSON.
    """
    foliocache.remove(name)
    if json:
        emit_json({"removed": name})
    else:
        console().print(f"removed pool {name}")
