"""``foliocache trim`` and ``foliocache resize``: give a pool's memory back, and change how much it may take."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

import foliocache
from foliocache.cli.exits import CommandError, UsageError
from foliocache.cli.options import Json, Name, check_size
from foliocache.cli.output import console, emit_json
from foliocache.pool.geometry import pool_size
from foliocache.sizes import format_size

Bytes = Annotated[str | None, Parameter(name="--bytes")]
Idle = Annotated[float | None, Parameter(name="--idle")]
Size = Annotated[str, Parameter(validator=check_size)]


def trim(name: Name = "default", /, *, bytes: Bytes = None, idle: Idle = None, json: Json = False) -> None:
    """Give memory of a pool back to the kernel.

    The pool takes it again when it needs it.

    Parameters
    ----------
    name
        The pool.
    bytes
        How much to give back, like 1GiB: free memory first, then that of objects not used for the longest time. By default all
        that is free, and no object.
    idle
        Seconds: give back what is free, and what of objects was not used for so long, as far as the pool knows: since it was
        cached, or since the last trim --idle. At most --bytes, if that is given.
    json
        Print {"name": name, "given_back": bytes, "backed": bytes that the pool still has} as JSON.
    """
    pool = foliocache.attach(name)
    try:
        given = pool.trim(bytes, idle)
    except ValueError as error:
        raise UsageError(str(error)) from error
    left = pool.stat().backed_bytes
    if json:
        emit_json({"name": name, "given_back": given, "backed": left})
    else:
        console().print(f"pool {name}: {format_size(given)} given back, {format_size(left)} left")


def resize(name: Name, size: Size, /, *, json: Json = False) -> None:
    """Change how much memory a pool may take for its pages.

    A smaller pool evicts what is too much, and gives that memory back.

    Parameters
    ----------
    name
        The pool.
    size
        Its new size, like 4GiB or 25%.
    json
        Print {"name": name, "size": bytes, "above": bytes that the pool still has above that} as JSON.
    """
    pool = foliocache.attach(name)
    try:
        pool_size(size, pool.page_size)
    except ValueError as error:
        raise UsageError(str(error)) from error
    try:
        above = pool.resize(size)
    except ValueError as error:
        raise CommandError(str(error)) from error
    if json:
        return emit_json({"name": name, "size": pool.pool_bytes, "above": above})
    rest = f"; {format_size(above)} above that are in use, and stay until then" if above else ""
    console().print(f"pool {name}: {format_size(pool.pool_bytes)}{rest}")
