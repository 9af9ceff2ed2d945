"""``foliocache explain``: what would happen on a read of a URL through ``folio::``, and why.

The origin is asked who the object is now, as an ``open`` would ask; no byte of it is read. No pool is made, and nothing in one
is changed.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import foliocache
from foliocache import FoliocacheError, Pool
from foliocache.cli.exits import CommandError
from foliocache.cli.options import Json, Length, Name, Offset
from foliocache.cli.output import console, counted, emit_json, one_line, pairs, percent
from foliocache.pool.mapping import object_digest
from foliocache.sizes import format_size, parse_size

if TYPE_CHECKING:
    from foliocache.adapters.fsspec import FolioFileSystem
    from foliocache.adapters.fsspec.target import Identity
    from foliocache.pool.names import Name as KnownName

STEPS = 60  # of the picture of what is cached
SPAN, SPANS_MAX = 64 << 10, 1024  # bytes that a tier is asked for at a time, and how often at most
FULL, SOME, NONE = "█▒·"


def explain(url: str, /, *, name: Name = "default", offset: Offset = "0", length: Length = None, json: Json = False) -> None:
    """Show what would happen on a read of a URL, and why.

    The origin is asked who the object is now, but no byte of it is read, and nothing in a pool is changed.

    Parameters
    ----------
    url
        A URL as fsspec knows them (https://…, s3://…, a path).
    name
        The pool.
    offset
        The first byte of the read.
    length
        How many bytes; all up to the end if left out.
    json
        Print the answer as JSON.
    """
    start = 0 if offset.strip() == "0" else parse_size(offset, "--offset")
    wanted = None if length is None else 0 if length.strip() == "0" else parse_size(length, "--length")
    fs, path = _file(url)
    told: dict[str, Any] = {"url": url, "pool": name, "filesystem": type(fs.fs).__name__, "key": fs.target.key(path)}
    identity = _identity(url, fs, path)
    why_not = _why_not(fs, identity)
    told |= {"size": identity.size, "version": identity.version, "cacheable": not why_not}
    pool, trouble = _pool(name)
    told["name"] = None if pool is None else _known(pool, told["key"], fs._who, identity)
    told["residency"] = _residency(pool, told["key"], identity) if pool is not None and not why_not else None
    told["tiers"] = _tiers(pool, told["key"], identity) if pool is not None and not why_not else []
    told["read"] = None if why_not else _read(pool, told["key"], identity, start, wanted)
    told["because"] = why_not or trouble or _because(told, identity)
    if json:
        return emit_json(told)
    _show(told)


def _file(url: str) -> tuple[FolioFileSystem, str]:
    """Return the filesystem and the path of the one file that a URL names. Raises CommandError."""
    from foliocache.cli import warm

    found = warm.resolve(url, {"check_files": True})
    if len(found) > 1:
        raise CommandError(f"{url} is {len(found):,} files; explain takes one, such as {found[0][2]}")
    return found[0][1:]


def _identity(url: str, fs: FolioFileSystem, path: str) -> Identity:
    """Return who the object is now, by the origin's answer. Raises CommandError."""
    try:
        return fs._identify(path)
    except Exception as error:
        raise CommandError(f"{url}: {type(error).__name__}: {one_line(error)}") from error


def _why_not(fs: FolioFileSystem, identity: Identity) -> str:
    """Return why the object is not cached; empty if it is."""
    from foliocache.adapters.fsspec.target import Target

    if identity.cacheable:
        return ""
    if type(fs.target) is Target:
        return (
            f"it is not cached: of {type(fs.fs).__name__} it is not known how it proves the version of bytes. "
            "trust_info=True vouches for its info()"
        )
    if identity.size == 0:
        return "it is not cached: it is empty"
    return "it is not cached: the origin's answer does not have what proves the version of bytes, or the size (docs/fsspec.md)"


def _pool(name: str) -> tuple[Pool | None, str]:
    """Return the pool if there is one that can be attached; else None, and what a read would then do."""
    try:
        return foliocache.attach(name), ""
    except foliocache.PoolNotFoundError:
        return None, f"there is no pool {name!r}: the first read makes it, and fetches"
    except FoliocacheError as error:
        return None, f"the pool cannot be used: {error}"


def _known(pool: Pool, key: str, who: str, now: Identity) -> dict[str, Any] | None:
    """Return what the pool says the key means; None if it says nothing."""
    from foliocache.adapters.fsspec.identities import unshared

    found: KnownName | None = pool.names.recall(key, math.inf, who=who)
    if found is None:
        return None
    age = next((each.age for each in pool.names.list() if each.key == key and each.exists == found.exists), None)
    same = found.exists and unshared(key, found).same(now)
    return {"exists": found.exists, "size": found.size, "version": found.version, "age": age, "is_current": bool(same)}


def _residency(pool: Pool, key: str, identity: Identity) -> dict[str, Any]:
    """Return how much of the object is cached, and how much of its other versions."""
    here = [each for each in pool.mappings() if each.key == key]
    mine = [each for each in here if each.version == identity.version and each.size == identity.size]
    mapping, size = pool.mapping(key, identity.size or 0, identity.version), identity.size or 0
    units = -(-size // mapping.unit_size)
    steps = min(STEPS, units)
    bounds = [min(size, units * n // steps * mapping.unit_size) for n in range(steps + 1)]
    return {
        "cached_bytes": sum(each.cached_bytes for each in mine),
        "folios": sum(each.cached_folios for each in mine),
        "pins": sum(each.pins for each in mine),
        "unit_size": mapping.unit_size,
        "picture": "".join(_step(mapping, begin, end) for begin, end in pairwise(bounds)),
        "other_versions_bytes": sum(each.cached_bytes for each in here if each not in mine),
    }


def _step(mapping: foliocache.Mapping, begin: int, end: int) -> str:
    """Return a character for a part of the object: all of it is cached, some, or nothing of what was looked at."""
    if mapping.is_cached(begin, end - begin):
        return FULL
    unit = mapping.unit_size
    stride = max(unit, (end - begin) // 16 // unit * unit)
    return SOME if any(mapping.is_cached(at, 1) for at in range(begin, end, stride)) else NONE


def _tiers(pool: Pool, key: str, identity: Identity) -> list[dict[str, Any]]:
    """Return the pool's tiers, and what share of the object each seems to have."""
    size, found = identity.size or 0, []
    digest = object_digest(key, size, identity.version)
    step = SPAN * -(-size // (SPAN * SPANS_MAX))
    spans = [(at, min(SPAN, size - at)) for at in range(0, size, step)]
    for guard, stat in zip(pool._agreed_tiers(), pool.tiers, strict=True):
        looks = hasattr(guard.tier, "holds")
        there = guard.holds(digest, spans) if looks else ()
        found.append({"url": stat.url, "state": stat.state, "share": sum(map(bool, there)) / len(spans) if looks else None})
    return found


def _read(pool: Pool | None, key: str, identity: Identity, offset: int, length: int | None) -> dict[str, Any]:
    """Return how many bytes of a range are cached, and how many must be fetched."""
    size = identity.size or 0
    start = min(offset, size)
    end = size if length is None else min(size, start + length)
    missing = end - start
    if pool is not None and missing:
        mapping = pool.mapping(key, size, identity.version)
        if mapping.is_cached(start, missing):
            missing = 0
        else:
            unit = mapping.unit_size
            cuts = [start, *range(start - start % unit + unit, end, unit), end]
            missing = sum(b - a for a, b in pairwise(cuts) if not mapping.is_cached(a, b - a))
    return {"offset": start, "length": end - start, "cached_bytes": end - start - missing, "missing_bytes": missing}


def _because(told: dict[str, Any], identity: Identity) -> str:
    """Return in a sentence what a read would do."""
    read = told["read"]
    if identity.nonce:
        return "all of it is fetched: it changed a moment ago, so its version cannot be told from the next; ask again"
    if not read["length"]:
        return "there is nothing to read there"
    if not read["missing_bytes"]:
        return "all of it is a hit, in place, after the origin has confirmed the version"
    if read["cached_bytes"]:
        text = f"{format_size(read['cached_bytes'])} are hits, and {format_size(read['missing_bytes'])} are fetched"
    elif told["residency"]["other_versions_bytes"]:
        text = "all of it is fetched: what is cached is of another version or folio size"
    elif told["name"] is None:
        text = "all of it is fetched: no process has asked for it through this pool, or with other options for the target"
    else:
        text = "all of it is fetched: nothing of it is cached, or no longer"
    having = [tier["url"] for tier in told["tiers"] if tier["share"]]
    off = [tier["url"] for tier in told["tiers"] if tier["state"] != "ready"]
    text += f"; from {having[0]}, as far as that has it" if having else ""
    return text + (f"; {off[0]} is left alone" if off else "")


def _show(told: dict[str, Any]) -> None:
    """Print the answer for people."""
    rows = [("key", told["key"]), ("filesystem", told["filesystem"])]
    size = "unknown" if told["size"] is None else f"{format_size(told['size'])} ({told['size']:,} bytes)"
    rows += [("size", size), ("version", told["version"] or "none")]
    rows.append(("name", _name_row(told)))
    there = told["residency"]
    if there is not None:
        share = percent(there["cached_bytes"], told["size"])
        unit = format_size(there["unit_size"])
        rows.append(
            ("cached", f"{share}, in {counted(there['folios'], 'folio')} of units of {unit}; {counted(there['pins'], 'pin')}")
        )
        rows.append(("", there["picture"]))
        if there["other_versions_bytes"]:
            rows.append(("", f"and {format_size(there['other_versions_bytes'])} of other versions or folio sizes"))
    for tier in told["tiers"]:
        share = "" if tier["share"] is None else f"; about {100 * tier['share']:.0f} % of it is there"
        rows.append(("tier", f"{tier['url']}: {tier['state']}{share}"))
    read = told["read"]
    if read is not None:
        what = f"{format_size(read['length'])} at {read['offset']:,}"
        rows.append(
            ("a read", f"of {what}: {format_size(read['cached_bytes'])} cached, {format_size(read['missing_bytes'])} missing")
        )
    rows.append(("so", told["because"]))
    console().print(pairs(told["url"], rows))


def _name_row(told: dict[str, Any]) -> str:
    """Return what the pool knows of the key, and when the origin is asked."""
    known = told["name"]
    asked = "each open asks the origin, unless expiry= or check_files=False is given"
    if known is None:
        return f"not known to the pool; {asked}"
    age = "" if known["age"] is None else f", asked {known['age']:,.0f} s ago"
    if not known["exists"]:
        return f"the pool says that there is no such object{age}; {asked}"
    return f"known to the pool{age}, and {'still true' if known['is_current'] else 'no longer true'}; {asked}"
