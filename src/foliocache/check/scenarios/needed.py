"""Which atomic operations of the core the protocol needs as they are: the claims that ``coverage`` tests."""

from __future__ import annotations

from ..coverage import Claims
from . import SUITE

MODULES = (
    "page_ref", "folio", "xarray", "pagetable", "robust_lock", "flags", "fill", "client", "mapping", "slab", "names",
    "page_alloc", "backing", "vmscan", "lru", "reap", "page_type", "turn",
)  # fmt: skip
# Where a module has scenarios of its own, those alone are tried.
OWN: dict[str, tuple[str, ...]] = {
    "robust_lock": ("lock/two", "lock/spin", "lock/broken", "death/lock", "death/lock-spin", "refused/truncate"),
    "flags": ("fill/one-waiter", "fill/early-reader", "fill/interrupted"),
    "fill": ("fill/one-waiter", "fill/abandoned", "death/fill-read"),
    "client": ("retire/walk", "death/get-get", "death/hold-hold", "death/get-leave", "death/hand-over-next"),
    "mapping": ("repair/table", "repair/trees-open", "death/path-truncate-open", "operations/fill-forget"),
    "slab": ("retire/walk", "repair/slabs", "names/lookup-reuse"),
    "names": (
        "names/lookup-answer",
        "names/lookup-make",
        "names/lookup-repair",
        "names/withdraw",
        "names/ask-old",
        "names/lookup-reuse",
    ),
    "page_alloc": ("operations/describe", "death/alloc-split", "death/back"),
    "backing": ("death/back", "death/trim"),
    "vmscan": ("tree/lookup-evict",),
    "lru": ("retire/contest", "repair/queues"),
    "reap": ("repair/drop-hold", "repair/drop-remove"),
    "page_type": ("tree/lookup-truncate",),
    "turn": ("threads/turn", "threads/turns", "threads/turn-waits"),
}
# The scenarios of death are many, those of large folios repeat the small ones, and the others are tried above.
ELSEWHERE = ("death/", "folio/", "names/", "operations/", "refused/", "repair/", "retire/", "threads/")
SLOW = {"lookup/three-getters", "lock/three", "lock/three-spin", "lookup/two-getters"}
# What only a repair calls, or the making of a node, is asked about where that happens.
ALONE: dict[str, tuple[str, ...]] = {
    "_recount": ("death/path-node-freed-both",),
    "_recount_folio": ("death/path-evict-get", "death/folio-remove"),
    "correct": ("death/slab-grow",),
    "_describe": ("operations/describe", "death/back"),
    "back_slot": ("table/grow", "death/table"),
    "join": ("names/ask-two",),
    "_write": ("names/lookup-answer", "names/ask-two"),
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
    (
        "backing",
        "mark_again",
        "drop",
    ): "after a grace period that did not come: no scenario has one in trim; tests/mm/test_trim.py",
    ("slab", "_grow", "drop"): "the owner of an object is written when the object is taken into use; tests/mm/test_slab.py",
    ("slab", "_rebuild_page", "drop"): "a page's chain names each free object once: tests/mm/test_slab.py",
    ("slab", "_take", "drop"): "OBJECT_OWNER of a node is written again with its place; of others, repairs alone read it",
    (
        "slab",
        "_clear",
        "drop",
    ): "what is left there is a hint to a late walker; tests/mm/test_slab.py",
    ("names", "_mark_used", "drop"): "a hint to the choice of the name that makes room: tests/mm/test_names.py",
    ("names", "_victim", "drop"): "the same",
    ("names", "_make", "drop"): "the text, which is for people, and its length; in an object that is clear",
    (
        "names",
        "_discard",
        "drop",
    ): "an id is given once; it is cleared for a repair that finds the record",
    ("page_alloc", "setup", "drop"): "a new segment is all zeros; tests/mm/test_page_alloc.py",
    ("page_alloc", "set_limit", "drop"): "a ceiling of pages, which nothing else depends on: tests/mm/test_trim.py",
    ("reap", "_unpublish", "drop"): "F_ATTACHED of a folio whose mapping is gone: no death leaves that, damage does",
    ("vmscan", "_clear_block", "drop"): "any block will do: a lost count tries the same one again",
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
    if function in ALONE:
        return name in ALONE[function]
    if module in OWN:
        return name in OWN[module]
    return name not in SLOW and not name.startswith(ELSEWHERE)


SUITE.claims = Claims(MODULES, REASONS, asked, RECHECKS)
