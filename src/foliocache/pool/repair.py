"""Repair a damaged pool while other processes use it: only what is proven to be damaged.

The audit takes no lock, so an unfinished operation can look like damage. Two rules keep a pool without damage unchanged:

- Lists, chains and counts are rebuilt only if LOOKS audits found the same, each begun after all operations of the one before
  had ended. Rebuilding changes nothing in a part without damage; it only holds the part's lock for as long as reading every
  page's descriptor takes.
- A folio is dropped only if its words contradict each other when sampled outside any operation (``audit.is_damaged``). If no
  such sample is possible, the finding stays, and a later repair looks again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..mm import audit, client, layout, robust_lock
from ..mm import reap as core

if TYPE_CHECKING:
    from ..observe.records import Finding
    from .attachment import Attachment

LOOKS = 3
ROUNDS = 4  # dropping folios in one round can make it necessary to rebuild counts in the next
_PAGES = (layout.REPAIR_LISTS, layout.REPAIR_QUEUES)
PARTS: dict[str, tuple[int, ...]] = {
    "buddy": _PAGES,
    "backing": _PAGES,
    "free": _PAGES,
    "type": (*_PAGES, layout.REPAIR_SLABS),
    "tail": _PAGES,
    "queue": _PAGES,
    "list": (*_PAGES, layout.REPAIR_SLABS),
    "slab": (layout.REPAIR_SLABS, layout.REPAIR_TABLE, layout.REPAIR_TREES, layout.REPAIR_NAMES),
    "name": (layout.REPAIR_SLABS, layout.REPAIR_NAMES),
    "table": (layout.REPAIR_TABLE, layout.REPAIR_TREES),
    "mapping": (layout.REPAIR_TABLE, layout.REPAIR_TREES),
    "node": (layout.REPAIR_SLABS, layout.REPAIR_TREES),
    "slot": (layout.REPAIR_TREES,),
}


def repair(attachment: Attachment) -> list[Finding]:
    """Settle what dead clients have left, and repair what is proven to be damaged. Return the findings of the audit that
    remain."""
    memory, mem, me = attachment.memory, attachment.memory.handle, attachment.number
    attachment.repair()
    attachment.reap()
    findings = attachment.audit()
    for _ in range(ROUNDS):
        proven = _same_again(attachment, findings)
        if not proven:
            break
        attachment.alone(_free_locks, mem, me)
        for part in sorted({part for found in proven for part in PARTS.get(found.check, ())}):
            attachment.alone(core.repair, mem, me, part)
        attachment.alone(core.sweep, mem, me)
        for pfn in _pages(_same_again(attachment, attachment.audit())):
            if audit.is_damaged(memory, pfn):
                attachment.drop(pfn)
        findings = attachment.audit()
    return findings


def _same_again(attachment: Attachment, findings: list[Finding]) -> list[Finding]:
    """Return those of the findings that further audits find again."""
    for _ in range(LOOKS - 1):
        if not findings:
            break
        client.wait_grace_period(attachment.memory.handle, attachment.number)
        again = attachment.audit()
        findings = [found for found in findings if found in again]
    return findings


def _pages(findings: list[Finding]) -> list[int]:
    return sorted({int(found.where.removeprefix("pfn ")) for found in findings if found.where.startswith("pfn ")})


def _free_locks(mem: int, me: int) -> None:
    """Take over the locks that are marked broken, or whose owner is not alive, and repair what they protect."""
    core.locks(mem, me, me)
    owners = {robust_lock.owner(mem, word) for word in audit.lock_words()} - {layout.NIL}
    for owner in owners:
        if not client.is_alive(mem, owner):
            core.locks(mem, me, owner)
