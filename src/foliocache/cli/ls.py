"""``foliocache ls``: list the objects in a pool, or the names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import foliocache
from foliocache.cli.options import Json, Name
from foliocache.cli.output import console, emit_json, number, percent, table
from foliocache.sizes import format_size

if TYPE_CHECKING:
    from foliocache.observe.records import NameInfo

VERSION_WIDTH = 12  # columns of a version, of which people need no more; --json has all of it


def ls(name: Name = "default", /, *, names: bool = False, json: Json = False) -> None:
    """List the objects in a pool: how much of each is cached, and its pins.

    Parameters
    ----------
    name
        The pool.
    names
        List the names that the pool knows instead: which object each means, and how long ago that was asked.
    json
        Print the list as JSON.
    """
    if names:
        return list_names(name, json)
    found = sorted(foliocache.attach(name).mappings(), key=lambda mapping: (mapping.key, mapping.version))
    if json:
        return emit_json([mapping.to_dict() for mapping in found])
    made = table(None, "key", "version", ">cached", ">of", ">share", ">pins")
    made.columns[1].overflow, made.columns[1].max_width, made.columns[1].no_wrap = "ellipsis", VERSION_WIDTH, True
    for mapping in found:
        cached, size = mapping.cached_bytes, mapping.size
        share = percent(cached, size)
        made.add_row(mapping.key, mapping.version, format_size(cached), format_size(size), share, number(mapping.pins))
    console().print(made if found else f"pool {name} holds no objects")


def list_names(pool: str, json: bool) -> None:
    """Print the names that a pool knows."""
    found = sorted(foliocache.attach(pool).names.list(), key=lambda name: (name.key, name.version))
    if json:
        return emit_json([name.to_dict() for name in found])
    made = table(None, "key", "version", ">size", ">age")
    made.columns[1].overflow, made.columns[1].max_width, made.columns[1].no_wrap = "ellipsis", VERSION_WIDTH, True
    for name in found:
        made.add_row(name.key, name.version, _meaning(name), "" if name.age is None else f"{name.age:.0f} s")
    console().print(made if found else f"pool {pool} knows no names")


def _meaning(name: NameInfo) -> str:
    if name.exists is None:
        return "asking"
    return format_size(name.size) if name.exists else "none"
