"""Put a damaged pool right while others use it: what is proven to be damaged, and nothing else.

The audit takes no lock, so an operation under way can look like damage to it. Two steps keep a healthy pool as it is:

- Lists, chains and counts are made again only where LOOKS audits found the very same, each after all operations of the one before had
  ended. Making them again changes nothing in a sound part; it only holds the part's lock for as long as a look at every page takes.
- A folio is dropped only if its words contradict each other at a moment in which no client was in an operation
  (``audit.is_damaged``). If there is no such moment, the finding stands, and a later repair looks again.
"""

from ..mm import audit, client, layout, robust_lock
from ..mm import reap as core

LOOKS = 3
ROUNDS = 4  # what is dropped in one can leave something to be counted again in the next
_PAGES = (layout.REPAIR_LISTS, layout.REPAIR_QUEUES)
PARTS = {
    "buddy": _PAGES,
    "free": _PAGES,
    "kind": (*_PAGES, layout.REPAIR_SLABS),
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


def repair(attachment):
    """Settle what the dead have left, repair what is proven to be damaged: the findings of the audit that are left."""
    memory, mem, me = attachment.memory, attachment.memory.handle, attachment.number
    attachment.repair()
    attachment.reap()
    findings = audit.audit(memory)
    for _ in range(ROUNDS):
        certain = _same_again(memory, me, findings)
        if not certain:
            break
        _free_locks(mem, me)
        for part in sorted({part for found in certain for part in PARTS.get(found["check"], ())}):
            core.repair(mem, me, part)
        core.sweep(mem, me)
        for pfn in _pages(_same_again(memory, me, audit.audit(memory))):
            if audit.is_damaged(memory, pfn):
                attachment.drop(pfn)
        findings = audit.audit(memory)
    return findings


def _same_again(memory, me, findings):
    """Those of the findings that further audits find again."""
    for _ in range(LOOKS - 1):
        if not findings:
            break
        client.wait_grace_period(memory.handle, me)
        again = audit.audit(memory)
        findings = [found for found in findings if found in again]
    return findings


def _pages(findings):
    return sorted({int(found["where"].removeprefix("pfn ")) for found in findings if found["where"].startswith("pfn ")})


def _free_locks(mem, me):
    """Take over the locks that are broken, or whose words name nobody who lives, and repair what they protect."""
    core.locks(mem, me, me)
    owners = {robust_lock.owner(mem, word) for word in audit.lock_words()} - {layout.NIL}
    for owner in owners:
        if not client.is_alive(mem, owner):
            core.locks(mem, me, owner)
