"""Which atomic operations of the core the protocol needs as they are: the claims that ``coverage`` tests."""

from __future__ import annotations

from ..coverage import Claims
from . import SUITE

MODULES = ("page_ref", "folio", "xarray", "pagetable", "robust_lock", "flags", "fill")
# Where a module has scenarios of its own, those alone are tried.
OWN: dict[str, tuple[str, ...]] = {
    "robust_lock": ("lock/two", "lock/spin", "lock/broken", "death/lock", "death/lock-spin", "refused/truncate"),
    "flags": ("fill/one-waiter", "fill/early-reader", "fill/interrupted"),
    "fill": ("fill/one-waiter", "fill/abandoned", "death/fill-read"),
}
SLOW = {"lookup/three-getters", "lock/three", "lock/three-spin", "lookup/two-getters"}
# The scenarios of death are many, those of large folios repeat the small ones, and names come to none of these modules. What
# only a repair calls, or the making of a node, is asked about where that happens.
ALONE: dict[str, tuple[str, ...]] = {
    "_recount": ("death/path-node-freed-both",),
    "_recount_folio": ("death/path-evict-get", "death/folio-remove"),
    "correct": ("death/slab-grow",),
    "_say_where": ("tree/fill-truncate", "node/reuse"),
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
    ("flags", "mark_referenced", "drop"): "a hint to reclaim: a mark that is lost costs an eviction that was not the best",
    ("flags", "set_readahead", "drop"): "a hint: the next reader reads no further ahead",
    ("flags", "clear", "drop"): "hints alone are cleared: a folio stays hot, or is read ahead of once more",
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


def asked(name: str, module: str, function: str) -> bool:
    if module in OWN:
        return name in OWN[module]
    if function in ALONE:
        return name in ALONE[function]
    return name not in SLOW and not name.startswith(("death/", "folio/", "names/", "refused/"))


SUITE.claims = Claims(MODULES, REASONS, asked, RECHECKS)
