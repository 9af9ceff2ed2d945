"""``foliocache ls``: the objects in a pool."""

from __future__ import annotations

import foliocache
from foliocache.cli.options import Json, Name
from foliocache.cli.output import console, emit_json, number, percent, table
from foliocache.sizes import format_size

VERSION_WIDTH = 12  # columns of a version, which is for machines; --json has it whole


def ls(name: Name = "default", /, *, json: Json = False) -> None:
    """The objects in a pool: how much of each is cached, and its pins.

    Parameters
    ----------
    name
        The pool.
    json
        Print a list of mappings as JSON.
    """
    found = sorted(foliocache.attach(name).mappings(), key=lambda mapping: (mapping["key"], mapping["version"]))
    if json:
        return emit_json(found)
    made = table(None, "key", "version", ">cached", ">of", ">share", ">pins")
    made.columns[1].overflow, made.columns[1].max_width, made.columns[1].no_wrap = "ellipsis", VERSION_WIDTH, True
    for mapping in found:
        cached, size = mapping["cached_bytes"], mapping["size"]
        share = percent(cached, size)
        made.add_row(mapping["key"], mapping["version"], format_size(cached), format_size(size), share, number(mapping["pins"]))
    console().print(made if found else f"pool {name} holds no mappings")
