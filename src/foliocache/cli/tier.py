"""``foliocache tier``: look at a tier on a disk, check it, and remove it."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from foliocache.cli import exits
from foliocache.cli.options import Json
from foliocache.cli.output import console, counted, emit_json, number, one_line, pairs, percent, table
from foliocache.sizes import format_size
from foliocache.tiers import checking
from foliocache.tiers.disk import DiskTier
from foliocache.tiers.files import remove
from foliocache.tiers.urls import folder_of

Flag = Annotated[bool, Parameter(show_default=False)]
Action = Literal["stat", "ls", "check", "rm"]


def tier(action: Action, path: str, /, *, data: Flag = False, repair: Flag = False, json: Json = False) -> int:
    """Look at a tier on a disk, check it, or remove it.

    stat shows how much of it is used, and ls the digests of the objects that it has pieces of. check looks for damage: to
    readers, everything that it finds is a miss. The exit code is 1 if there is any.

    Parameters
    ----------
    action
        stat, ls, check or rm.
    path
        Its folder, or the tier as a pool has it (disk:/nvme/foliocache?size=1TiB).
    data
        With check: read all slots, and compare their bytes with their checksums.
    repair
        With check: drop what is damaged.
    json
        Print the answer as JSON.
    """
    folder = _folder(path)
    if (data or repair) and action != "check":
        raise exits.UsageError("--data and --repair are for foliocache tier check")
    if action == "rm":
        _remove(folder, json)
        return exits.OK
    try:
        opened = DiskTier(folder, any_owner=True)
    except ImportError as error:
        raise exits.CommandError(one_line(error)) from error
    try:
        if action == "check":
            return _check(opened, data, repair, json)
        (_stat if action == "stat" else _list)(opened, json)
        return exits.OK
    finally:
        opened.close()


def _folder(path: str) -> str:
    try:
        return folder_of(path)
    except ValueError as error:
        raise exits.UsageError(str(error)) from error


def _remove(folder: str, json: bool) -> None:
    remove(folder)
    if json:
        emit_json({"removed": folder})
    else:
        console().print(f"removed tier {folder}")


def _stat(opened: DiskTier, json: bool) -> None:
    used = checking.use(opened)
    if json:
        return emit_json(used._asdict())
    rows = [
        ("tier", used.path),
        ("files", f"{format_size(used.file_bytes)}, {number(used.slots)} slots of {format_size(used.slot_size)}"),
        ("full", f"{number(used.full_slots)} slots ({percent(used.full_slots, used.slots)})"),
        ("bytes", f"{format_size(used.pieces_bytes)} of {counted(used.objects, 'object')}"),
        ("read lately", f"{number(used.used_slots)} slots"),
        ("being written", f"{number(used.writing_slots)} slots"),
        ("stores", "what is missed twice" if used.is_round else "everything, until it is full"),
        ("page cache", "bypassed" if used.is_direct else "used"),
    ]
    console().print(pairs(None, rows))


def _list(opened: DiskTier, json: bool) -> None:
    found = checking.held(opened)
    if json:
        return emit_json([one._asdict() for one in found])
    made = table(None, "object", ">pieces", ">bytes")
    for one in found:
        made.add_row(one.digest, number(one.pieces), format_size(one.bytes))
    console().print(made if found else f"tier {opened.path} holds nothing")


def _check(opened: DiskTier, data: bool, repair: bool, json: bool) -> int:
    before = opened.check(repair=repair, data=data)
    findings = opened.check(data=data) if repair else before
    repaired = max(0, len(before) - len(findings))
    if json:
        told = {"clean": not findings, "findings": [finding.to_dict() for finding in findings]}
        emit_json(told | ({"repaired": repaired} if repair else {}))
    elif findings:
        made = table(f"tier {opened.path}: {counted(len(findings), 'finding')}", "check", "where", "message")
        for finding in findings:
            made.add_row(finding.check, finding.where, finding.message)
        console().print(made)
    else:
        mended = f", {counted(repaired, 'finding')} repaired" if repaired else ""
        console().print(f"tier {opened.path} is clean{mended}")
    return exits.FOUND if findings else exits.OK
