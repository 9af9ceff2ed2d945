"""Which atomic operations of the core the protocol needs as they are: the claims that ``coverage`` tests."""

from __future__ import annotations

from ..coverage import Claims
from . import SUITE

MODULES = ("page_ref", "folio", "xarray", "pagetable")
SLOW = {"lookup/three-getters", "lock/three", "lookup/two-getters"}
# The scenarios of death are many, those of large folios repeat the small ones, and names come to none of these modules; these
# are for functions that only a repair calls.
AFTER_DEATH: dict[str, tuple[str, ...]] = {
    "_recount": ("death/path-node-freed-both",),
    "_recount_folio": ("death/path-evict-get", "death/folio-remove"),
}
REASONS = {
    ("page_ref", "correct", "drop"): (
        "a leaked reference keeps a page of a slab from going back, and does no other harm; tests/mm/test_reap.py"
    ),
    ("xarray", "_say_where", "drop"): "a node names its place already, unless it was damaged: tests/test_fsck.py",
    ("xarray", "_recount_folio", "drop"): (
        "F_ATTACHED = 0: no death leaves it 1 in a folio with some of its slots, damage does; tests/mm/test_units.py"
    ),
    ("xarray", "_recount", "drop"): "after a death within a tree's lock; every step of it is in tests/mm/test_reap.py",
}
# A load cannot be dropped, for its value is what the function returns. What can be left out is the second look; that has bugs
# of its own.
RECHECKS = (
    ("pagetable.gup_fast", "gup/unmap-reuse", "no-recheck", "fails", "needed"),
    ("filemap.find_get", "lookup/truncate", "no-recheck", "fails", "needed, if the identity is not compared"),
    (
        "filemap.find_get",
        "lookup/truncate",
        "identity-only",
        "holds",
        "not needed: the identity proves it, an ino is never given twice",
    ),
)


def asked(name: str, function: str) -> bool:
    return name not in SLOW and (not name.startswith(("death/", "folio/", "names/")) or name in AFTER_DEATH.get(function, ()))


SUITE.claims = Claims(MODULES, REASONS, asked, RECHECKS)
