"""``stat``, ``ls``, ``fsck`` and ``rm``: what a pool holds, whether it is sound, and its end.

They attach with the parameters that the pool has, so they need its name alone. ``fsck`` treats a pool that refuses to be
attached because it is damaged as an answer (not clean), not as a failure: whoever runs it wants to know just that.
"""

from __future__ import annotations

import os
import time
from datetime import datetime
from typing import Any

from foliocache.cli import exits
from foliocache.cli.options import Json, Name
from foliocache.cli.output import console, emit_json, number, pairs, percent, size, table
from foliocache.cli.progress import counted

VERSION_WIDTH = 12  # of a version, which is for machines; --json has it whole


def stat(name: Name = "default", /, *, json: Json = False) -> None:
    """Sizes, pages by state, hits and misses, and who is attached.

    Parameters
    ----------
    name
        The pool.
    json
        Print what pool.stat() returns, as JSON.
    """
    import foliocache

    found = foliocache.attach(name).stat()
    if json:
        return emit_json(found)
    out = console()
    out.print(pairs(f"pool {found['name']}", sizes(found)))
    out.print()
    out.print(pages(found))
    out.print()
    out.print(pairs("counters", ((key, number(value)) for key, value in found["counters"].items())))
    out.print()
    out.print(clients(found))
    for note in filter(None, (held(found), unsettled(found))):
        out.print()
        out.print(note)


def sizes(found: dict[str, Any]) -> list[tuple[str, str]]:
    """The head of ``stat``."""
    counters = found["counters"]
    lookups = counters["hits"] + counters["misses"]
    cached, free = size(found["cached_bytes"]), size(found["free_bytes"])
    return [
        ("file", found["path"]),
        ("pool", f"{size(found['pool_bytes'])} in {counted(found['pages'], 'page')} of {size(found['page_size'])}"),
        ("metadata", f"{size(found['metadata_bytes'])}, {100 * found['metadata_ratio']:.2f} % of the pool"),
        ("cached", f"{cached} in {counted(found['mappings'], 'mapping')}; {free} free"),
        ("hits", f"{percent(counters['hits'], lookups)} of {number(lookups)} lookups"),
        ("pins", number(found["pins"])),
    ]


def pages(found: dict[str, Any]) -> Any:
    """Pages by state, folios by type."""
    made = table("pages", "state", ">pages", ">share", ">folios")
    folios = found["folios_by_type"]
    for state, count in found["pages_by_state"].items():
        made.add_row(state, number(count), percent(count, found["pages"]), number(folios[state]) if state in folios else "")
    return made


def clients(found: dict[str, Any]) -> Any:
    """Attached processes, this one among them; and dead ones that have not been settled (completely) yet."""
    made = table("clients", ">slot", ">pid", "state", ">pins", "attached since", "")
    for client in found["clients"]:
        made.add_row(
            str(client["slot"]), str(client["pid"]), client["state"], number(client["pins"]), since(client), who(client)
        )
    return made


def since(client: dict[str, Any]) -> str:
    """When a client attached; a damaged slot says nothing."""
    try:
        return datetime.fromtimestamp(client["attached"]).isoformat(" ", "seconds")
    except (ValueError, OverflowError, OSError):
        return "?"


def who(client: dict[str, Any]) -> str:
    """What the pid means here: nothing, if it is one of another namespace (a container's)."""
    from foliocache.pool.slot import pid_namespace

    here, there = pid_namespace(), client["pid_namespace"]
    if there and here and there != here:
        return f"its pid is one of the namespace pid:[{there}]"
    return "this command" if client["pid"] == os.getpid() and client["state"] == "attached" else ""


def held(found: dict[str, Any]) -> str:
    """Who is in a critical section just now; nothing where nobody is."""
    if not found["locks"]:
        return ""
    locks = "; ".join(f"{lock['lock']} by slot {lock['slot']} (pid {lock['pid']})" for lock in found["locks"])
    return (
        f"locks held: {locks}. That is a matter of microseconds. If it is the same when you look again, that process has stopped, and "
        "others read privately what is not cached: let it go on (SIGCONT), or kill it."
    )


def unsettled(found: dict[str, Any]) -> str:
    """What the dead among the clients are about; nothing where there are none."""
    dead = sum(client["state"] == "dead" for client in found["clients"])
    if not dead:
        return ""
    return (
        f"{counted(dead, 'client')} died, and not all is settled: another process is about to do it, or still uses a page that the "
        f"dead one named. Look again; `foliocache fsck {found['name']}` settles what can be settled."
    )


def ls(name: Name = "default", /, *, json: Json = False) -> None:
    """The cached objects: how much of each is in the pool, and how much of that is pinned.

    Parameters
    ----------
    name
        The pool.
    json
        Print a list of mappings as JSON.
    """
    import foliocache

    found = sorted(foliocache.attach(name).mappings(), key=lambda mapping: (mapping["key"], mapping["version"]))
    if json:
        return emit_json(found)
    made = table(None, "key", "version", ">cached", ">of", ">share", ">pins")
    made.columns[1].overflow, made.columns[1].max_width, made.columns[1].no_wrap = "ellipsis", VERSION_WIDTH, True
    for mapping in found:
        cached, whole = mapping["cached_bytes"], mapping["size"]
        share = percent(cached, whole)
        made.add_row(mapping["key"], mapping["version"], size(cached), size(whole), share, number(mapping["pins"]))
    console().print(made if found else f"pool {name} holds no mappings")


def fsck(name: Name = "default", /, *, repair: bool = False, json: Json = False) -> int:
    """Walk the whole pool and say what is wrong in it; exit code 1 if anything is (after the repair, with --repair).

    What dead processes have left behind is settled before. Others may go on using the pool, but an operation of theirs that is
    under way can look like damage.

    Parameters
    ----------
    name
        The pool.
    repair
        Drop what is damaged, and rebuild lists and counts. Whatever is dropped is fetched again when it is wanted.
    json
        Print {"clean": bool, "findings": [...]} as JSON; with --repair also "repaired", the number of findings that are gone.
    """
    begin = time.monotonic()
    before = findings_of(name, "audit")
    findings = findings_of(name, "repair") if repair else before
    repaired = max(0, len(before) - len(findings))
    if json:
        emit_json({"clean": not findings, "findings": findings} | ({"repaired": repaired} if repair else {}))
    else:
        if repaired:
            console().print(f"pool {name}: {counted(repaired, 'finding')} repaired")
        show_findings(name, findings, time.monotonic() - begin)
    return exits.FOUND if findings else exits.OK


def findings_of(name: str, method: str) -> list[dict[str, Any]]:
    """What ``audit`` or ``repair`` finds; a pool too damaged to be attached, or to be walked to the end, is one finding."""
    import foliocache

    try:
        return list(getattr(foliocache.attach(name), method)())
    except foliocache.PoolNotFoundError:
        raise
    except foliocache.PoolError as error:
        return [{"check": "attach", "where": name, "message": exits.one_line(error)}]
    except Exception as error:
        message = f"the {method} could not be finished: {type(error).__name__}: {exits.one_line(error)}"
        return [{"check": method, "where": name, "message": message}]


def show_findings(name: str, findings: list[dict[str, Any]], seconds: float) -> None:
    """The findings, or that there are none."""
    out = console()
    if not findings:
        return out.print(f"pool {name} is clean ({seconds:.2f} s)")
    made = table(f"pool {name}: {counted(len(findings), 'finding')}", "check", "where", "message")
    for finding in findings:
        made.add_row(finding["check"], str(finding["where"]), finding["message"])
    out.print(made)


def rm(name: Name, /, *, json: Json = False) -> None:
    """Remove a pool. Processes that have it attached keep it until they end; others get a new one.

    Parameters
    ----------
    name
        The pool.
    json
        Print {"removed": name} as JSON.
    """
    import foliocache

    foliocache.remove(name)
    if json:
        emit_json({"removed": name})
    else:
        console().print(f"removed pool {name}")
