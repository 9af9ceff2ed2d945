"""``foliocache fsck``: check and repair a pool.

That a pool is too damaged to be attached is an answer here (not clean), not a failure of the command.
"""

from __future__ import annotations

import time

import foliocache
from foliocache import Finding
from foliocache.cli import exits
from foliocache.cli.options import Json, Name
from foliocache.cli.output import console, counted, emit_json, one_line, table


def fsck(name: Name = "default", /, *, repair: bool = False, json: Json = False) -> int:
    """Check a whole pool, and report what is wrong in it.

    Of its tiers on disks, the index is checked (foliocache tier check --data reads the slots, too). The exit code is 1 if
    anything is wrong (with --repair: after the repair). What dead processes have left behind is settled first. Other processes
    may go on using the pool, but an operation that is under way can look like damage.

    Parameters
    ----------
    name
        The pool.
    repair
        Drop what is damaged, and rebuild lists and counts. What is dropped is fetched again when it is needed.
    json
        Print {"clean": bool, "findings": [...]} as JSON; with --repair also "repaired", the number of findings that are gone.
    """
    begin = time.monotonic()
    before = _findings(name, "audit")
    findings = _findings(name, "repair") if repair else before
    repaired = max(0, len(before) - len(findings))
    if json:
        told = [finding.to_dict() for finding in findings]
        emit_json({"clean": not told, "findings": told} | ({"repaired": repaired} if repair else {}))
    else:
        if repaired:
            console().print(f"pool {name}: {counted(repaired, 'finding')} repaired")
        _show(name, findings, time.monotonic() - begin)
    return exits.FOUND if findings else exits.OK


def _findings(name: str, method: str) -> list[Finding]:
    """Return what ``audit`` or ``repair`` finds, and what is wrong in the pool's tiers. That a pool cannot be attached, or
    checked to the end, is a finding."""
    try:
        pool = foliocache.attach(name)
        found = list(getattr(pool, method)())
        if method == "repair":
            pool.check_tiers(repair=True)
        return found + pool.check_tiers()
    except foliocache.PoolNotFoundError:
        raise
    except foliocache.PoolError as error:
        return [Finding("attach", name, one_line(error))]
    except Exception as error:
        message = f"the {method} could not be finished: {type(error).__name__}: {one_line(error)}"
        return [Finding(method, name, message)]


def _show(name: str, findings: list[Finding], seconds: float) -> None:
    """Print the findings, or that there are none."""
    out = console()
    if not findings:
        return out.print(f"pool {name} is clean ({seconds:.2f} s)")
    made = table(f"pool {name}: {counted(len(findings), 'finding')}", "check", "where", "message")
    for finding in findings:
        made.add_row(finding.check, finding.where, finding.message)
    out.print(made)
