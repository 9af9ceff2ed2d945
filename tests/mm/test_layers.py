"""The core's modules import downwards as in the drawing of docs/design.md; and the words of the layout do not overlap."""

import ast
import itertools
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from documents import page

import foliocache.mm
from foliocache.mm import layout
from foliocache.pool import header, shrink

MM = Path(foliocache.mm.__file__).parent

BOX = page("design.md").partition("mm, compiled")[2].partition("+----")[0]
LAYERS = [re.match(r"   \|  (\w+(?:  \w+)*) ", line)[1].split() for line in BOX.splitlines() if line.startswith("   |  ")]
LEVEL = {module: -line for line, modules in enumerate(LAYERS) for module in modules}
MODULES = sorted(set(LEVEL) - {"layout"})


def imported(module):
    """What the .py imports, relatively and otherwise."""
    relative, others = set(), set()
    for node in ast.walk(ast.parse((MM / f"{module}.py").read_text())):
        if isinstance(node, ast.Import):
            others |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert (node.level, node.module) == (1, None), f"{module}: {ast.unparse(node)}"
            relative |= {alias.name for alias in node.names}
    return relative, others


def cimported(module):
    """What the .pxd cimports: from the core, and from elsewhere."""
    text = (MM / f"{module}.pxd").read_text()
    core = re.findall(r"^from \. cimport (.*)$", text, re.MULTILINE)
    named = set(re.findall(r"^from \.(\w+) cimport", text, re.MULTILINE))
    names = {name.strip() for line in core for name in line.split(",")}
    others = set(re.findall(r"^(?:from|cimport) ([\w.]+)", text, re.MULTILINE)) - {"."} - {f".{name}" for name in named}
    return names | named, others


def test_every_module_is_drawn_once():
    assert sorted(itertools.chain(*LAYERS)) == sorted(path.stem for path in MM.glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    relative, others = imported(module)
    assert others <= {"cython"}
    assert {name: LEVEL[name] for name in relative if LEVEL[name] >= LEVEL[module]} == {}


@pytest.mark.parametrize("module", MODULES)
def test_both_worlds_import_the_same(module):
    relative, _ = imported(module)
    core, others = cimported(module)
    assert core == relative
    assert others <= {"cython", "libc.stdint", "cpython.buffer"}


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"atomics"}))
def test_what_is_cimported_is_imported_under_a_guard_alone(module):
    """Compiled, an import of the same name would shadow the C functions."""
    body = ast.parse((MM / f"{module}.py").read_text()).body
    assert not any(isinstance(node, ast.ImportFrom) for node in body)
    guards = [ast.unparse(node.test) for node in body if isinstance(node, ast.If)]
    assert guards == ["not cython.compiled"]


def begun_outside_the_core():
    """(file, line, name) wherever the package begins or ends an operation outside mm/ and the checker, by whatever module's
    name."""
    for path in sorted(path for path in MM.parent.rglob("*") if path.suffix in (".py", ".pyx", ".pxd")):
        if MM in path.parents or MM.parent / "check" in path.parents:
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            for name in re.findall(r"\b\w+\.(op_begin|op_end|let_go|keep_intent)\(", line):
                yield str(path.relative_to(MM.parent)), number, name


def test_an_operation_begins_and_ends_in_the_core():
    """No Python runs within one: nothing outside mm/ begins or ends one."""
    assert list(begun_outside_the_core()) == []


def operations(module):
    """The functions of a core module that begin an operation."""
    for node in ast.parse((MM / f"{module}.py").read_text()).body:
        calls = [ast.unparse(call.func) for call in ast.walk(node) if isinstance(call, ast.Call)]
        if isinstance(node, ast.FunctionDef) and {"client.op_begin", "client.let_go"} & set(calls):
            yield node.name


@pytest.mark.parametrize("module", MODULES)
def test_an_operation_is_compiled_without_python(module):
    text = (MM / f"{module}.pxd").read_text()
    for name in operations(module):
        assert re.search(rf"^cp?def [\w ]+ {name}\([^)]*\) noexcept nogil(?:  # .*)?$", text, re.MULTILINE), name


def test_the_operations_are_found():
    found = {module: set(operations(module)) for module in ("filemap", "folio", "pagetable")}
    assert found["filemap"] >= {"lookup", "add", "finish_fill", "withdraw", "invalidate", "forget", "open", "resolve"}
    assert found["folio"] == {"release"}
    assert found["pagetable"] == {"make", "release", "move", "lookup"}


def test_layout_imports_nothing():
    assert imported("layout") == (set(), set())


def test_the_core_refuses_to_run_uncompiled(tmp_path):
    """A copy of the sources without what was built: every module of the core says how to build."""
    pytest.importorskip("cython")
    source = MM.parent
    shutil.copytree(source, tmp_path / "foliocache", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    script = f"""
import importlib
for module in {MODULES!r}:
    try:
        importlib.import_module("foliocache.mm." + module)
    except ImportError as error:
        assert "not compiled" in str(error) and "pip install ." in str(error), (module, error)
    else:
        raise SystemExit(module + " was imported")
print("refused", len({MODULES!r}))
"""
    # The package itself imports the core at once, so it is stood in for.
    (tmp_path / "foliocache" / "__init__.py").write_text("")
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout == f"refused {len(MODULES)}\n", done.stderr


@pytest.mark.parametrize("first", ["", "import sys; sys.modules['cython'] = None; "], ids=["", "without Cython"])
def test_the_uncompiled_package_refuses_as_a_whole(tmp_path, first):
    shutil.copytree(MM.parent, tmp_path / "foliocache", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    script = f"{first}import foliocache; foliocache.open"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "not compiled" in done.stderr and "pip install ." in done.stderr


# The layout. Fields of 4 bytes, but for those named here.

SIZES = {
    **{f"HDR_{name.upper()}": field.stop - field.start for name, field in header.FIELDS.items()},
    "F_INO": 8, "F_INDEX": 8, "F_DIGEST": 8,
    "OBJECT_OWNER": 8, "NODE_INO": 8, "NODE_INDEX": 8, "NODE_SLOTS": 4 << layout.NODE_SHIFT,
    "MAPPING_INO": 8, "MAPPING_DIGEST_LO": 8, "MAPPING_DIGEST_HI": 8, "MAPPING_OBJECT_SIZE": 8, "MAPPING_KEY": 8,
    "MAPPING_TEXT": layout.MAPPING_TEXT_MAX, "CLIENT_ATTACHED": 8, "CLIENT_PID_NAMESPACE": 8,
    "CLIENT_COUNTERS": 8 * len(layout.COUNTERS),
    "CLIENT_STATISTICS": 8 * layout.STAT_WORDS,
    "CLIENT_OPS": 4 * layout.OPS, "CLIENT_LEDGER": 4 * layout.PINS, "ALLOC_LISTS": layout.LIST_SIZE * (layout.MAX_ORDER + 1),
    "LRU_LISTS": layout.LIST_SIZE * layout.QUEUES, "LRU_PAGES": 4 * layout.QUEUES, "LRU_EVICTED": 4 * (layout.VERDICT_MASK + 1),
    "LRU_REFAULTED": 4 * (layout.VERDICT_MASK + 1), "TABLE_NEXT_INO": 8,
    "SLAB_PARTIAL": layout.LIST_SIZE, "TREE_LOCK": layout.TREE_LOCKS * layout.LINE,
    "HDR_NAMES": 8, "NAMES_SERIAL": 8, "NAME_ID": 8, "NAME_ASKED": 8, "NAME_DIGEST_LO": 8, "NAME_DIGEST_HI": 8, "NAME_KEY": 8,
    "NAME_STATE": 8, "NAME_SINCE": 8, "NAME_OBJECT_SIZE": 8, "NAME_TEXT": layout.NAME_TEXT_MAX,
    "NAME_DATA": layout.NAME_DATA_MAX,
}  # fmt: skip
NO_FIELDS = {
    "HDR_IDENTITY_END", "SLAB_STRIDE", "SLAB_NODES", "SLAB_MAPPINGS", "SLAB_NAMES", "SLAB_KEEP", "TREE_LOCKS", "NODE_SHIFT",
    "NODE_MASK", "NAME_WAYS", "NAME_SHARE", "NAME_TEXT_MAX", "NAME_DATA_MAX", "NAME_SIZE", "NAME_WAITERS", "NAME_UNKNOWN",
    "NAME_PRESENT", "NAME_ABSENT", "NAME_STATE_MASK", "NAME_VERSION_SHIFT", "NAME_EXTRA_SHIFT", "NAME_TEXT_SHIFT",
    "NAME_LENGTH_MASK", "NAME_NOMEM", "NAME_FRESH", "NAME_TAKEN", "NAME_BUSY", "NAME_AHEAD_NS", "NODE_SIZE", "MAPPING_SIZE",
    "MAPPING_TEXT_MAX", "CLIENT_SIZE", "FOLIO_SIZE", "LRU_END", "F_DIGEST",
}  # fmt: skip
STRUCTS = {
    "HDR_": (0, layout.HDR_IDENTITY_END), "F_": (0, layout.FOLIO_SIZE), "NODE_": (0, layout.NODE_SIZE),
    "MAPPING_": (0, layout.MAPPING_SIZE), "NAME_": (0, layout.NAME_SIZE), "CLIENT_": (0, layout.CLIENT_SIZE),
    "ALLOC_": (layout.ALLOC_LOCK, layout.LRU_LOCK), "LRU_": (layout.LRU_LOCK, layout.LRU_END),
    "TABLE_": (layout.TABLE_LOCK, layout.NAMES_LOCK), "NAMES_": (layout.NAMES_LOCK, layout.SLAB_LOCK),
    "SLAB_": (layout.SLAB_LOCK, layout.SLAB_LOCK + layout.SLAB_STRIDE),
}  # fmt: skip
# Words of the header that belong together: those that one lock guards, or that are never written.
GUARDED = {
    "identity": ("HDR_",),
    "alloc": ("ALLOC_",),
    "lru": ("LRU_",),
    "hand": ("BLOCK_HAND",),
    "watch": ("WATCH_TURNS",),
    "table": ("TABLE_",),
    "names": ("NAMES_",),
}


def fields(prefix):
    """{name: (begin, end)} of the fields with a prefix."""
    names = [name for name in vars(layout) if name.startswith(prefix) and name not in NO_FIELDS]
    return {name: (getattr(layout, name), getattr(layout, name) + SIZES.get(name, 4)) for name in names}


def accesses(module):
    """(facade name, field) of every ``atomics.name(mem, ... + layout.FIELD, ...)`` of a module."""
    for node in ast.walk(ast.parse((MM / f"{module}.py").read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("atomics.") and len(node.args) > 1:
            place = node.args[1].right if isinstance(node.args[1], ast.BinOp) else node.args[1]
            if ast.unparse(place).startswith("layout."):
                yield node.func.attr, place.attr


def test_the_sizes_are_those_that_the_core_uses():
    """A field is accessed as 64 bits if it is named above as one, and only then."""
    found = {access for module in MODULES for access in accesses(module)}
    assert {("write64", "F_INO"), ("record32", "F_ATTACHED"), ("store_release64", "MAPPING_INO")} <= found
    for name, field in found:
        if name not in ("write_bytes", "copy_in_relaxed", "copy_out_relaxed", "count64"):
            assert name.endswith("64") == (SIZES.get(field, 4) == 8), (name, field)


@pytest.mark.parametrize("prefix", STRUCTS)
def test_fields_do_not_overlap_and_lie_within(prefix):
    begin, end = STRUCTS[prefix]
    found = sorted(fields(prefix).items(), key=lambda item: item[1])
    assert len(found) >= 2
    for (name, (_, stop)), (behind, (start, _)) in itertools.pairwise(found):
        assert stop <= start, f"{name} reaches into {behind}"
    assert begin <= found[0][1][0]
    assert found[-1][1][1] <= end


@pytest.mark.parametrize("prefix", STRUCTS)
def test_wide_fields_are_aligned(prefix):
    for name, (begin, end) in fields(prefix).items():
        assert begin % (8 if end - begin == 8 and SIZES.get(name) == 8 and "LISTS" not in name else 4) == 0, name


def lines(begin, end):
    return set(range(begin // layout.LINE, (end - 1) // layout.LINE + 1))


def test_what_different_locks_guard_is_on_different_lines():
    taken = {}
    for owner, prefixes in GUARDED.items():
        for prefix in prefixes:
            for begin, end in fields(prefix).values():
                for line in lines(begin, end):
                    assert taken.setdefault(line, owner) == owner, f"{owner} shares line {line} with {taken[line]}"
    for cache in range(layout.SLABS):
        for begin, end in fields("SLAB_").values():
            for line in lines(begin + cache * layout.SLAB_STRIDE, end + cache * layout.SLAB_STRIDE):
                assert taken.setdefault(line, cache) == cache
    assert max(taken) < layout.TREE_LOCK // layout.LINE


def test_tree_locks_have_a_line_each():
    assert layout.TREE_LOCK % layout.LINE == 0
    assert layout.HEADER_SIZE == layout.TREE_LOCK + layout.TREE_LOCKS * layout.LINE


def test_a_descriptor_is_one_line():
    assert layout.FOLIO_SIZE == layout.LINE


def test_a_file_has_its_digest_where_a_page_of_objects_has_its_counts():
    """No folio is both, so the three have one place."""
    assert (layout.F_DIGEST, layout.F_DIGEST + 4) == (layout.F_USED, layout.F_FREE)
    assert layout.F_DIGEST % 8 == 0


def test_the_fields_of_a_queue_word_and_of_a_ghost_do_not_touch():
    assert layout.QUEUES <= layout.QUEUE_MASK < 1 << layout.HEAT_SHIFT
    assert layout.HEAT_MAX << layout.HEAT_SHIFT < 1 << layout.VERDICT_SHIFT
    assert layout.VERDICT_MASK << layout.VERDICT_SHIFT < 1 << layout.USED_SHIFT < 1 << layout.SEEN_SHIFT
    assert layout.SEEN_MASK << layout.SEEN_SHIFT < 1 << 32 and layout.SEEN_AHEAD <= layout.SEEN_MASK
    assert shrink.IDLE_MAX * 1e9 < layout.SEEN_AHEAD << layout.SEEN_TICK_SHIFT
    assert layout.VERDICT_MASK < 1 << layout.GHOST_HEAT_SHIFT
    assert layout.HEAT_MAX << layout.GHOST_HEAT_SHIFT < 1 << layout.GHOST_TICK_SHIFT
    assert layout.GHOST_TICK_MASK << layout.GHOST_TICK_SHIFT < 1 << layout.GHOST_PRINT_SHIFT
    assert layout.HEAT_MAX & (layout.HEAT_MAX + 1) == 0, "it is used as a mask"


def test_objects_can_be_numbered():
    """The places of a page fit into the low bits of a number, and numbers into a word that has a bit to spare."""
    for size in (layout.NODE_SIZE, layout.MAPPING_SIZE, layout.NAME_SIZE):
        assert size >= 1 << layout.OBJECT_SHIFT
    assert layout.OBJECT_BITS == 31
    assert layout.OBJECT_NEXT >= 4
    assert layout.OBJECT_OWNER == layout.NODE_INO == layout.MAPPING_INO == layout.NAME_ID >= layout.OBJECT_NEXT + 4


def test_a_free_object_is_told_from_one_in_use():
    """OBJECT_NEXT is 0 in use; a place in a page never reaches the bit that says free."""
    assert layout.OBJECT_FREE & (layout.OBJECT_FREE - 1) == 0
    assert (1 << 21) // (1 << layout.OBJECT_SHIFT) < layout.OBJECT_FREE  # pages have 2 MiB at most


def test_what_is_copied_of_a_name_is_words_of_64_bits():
    assert layout.NAME_KEY % 8 == layout.NAME_TEXT_MAX % 8 == layout.NAME_DATA_MAX % 8 == layout.NAME_SIZE % 8 == 0
    assert all(end - begin >= 8 for begin, end in fields("NAME_").values() if begin >= layout.NAME_KEY)


def test_the_parts_of_a_names_state_do_not_touch():
    assert max(layout.NAME_UNKNOWN, layout.NAME_PRESENT, layout.NAME_ABSENT) <= layout.NAME_STATE_MASK
    assert layout.NAME_STATE_MASK < 1 << layout.NAME_VERSION_SHIFT
    width = layout.NAME_LENGTH_MASK.bit_length()
    assert layout.NAME_VERSION_SHIFT + width <= layout.NAME_EXTRA_SHIFT
    assert layout.NAME_EXTRA_SHIFT + width <= layout.NAME_TEXT_SHIFT <= 64 - width


def test_results_of_begin_are_no_ids():
    results = (layout.NAME_NOMEM, layout.NAME_FRESH, layout.NAME_TAKEN, layout.NAME_BUSY)
    assert len(set(results)) == 4 and max(results) == layout.NAME_BUSY < 1 << layout.OBJECT_BITS


def test_what_is_written_at_a_name_is_told_apart():
    assert layout.PIN_INTENT & layout.PIN_OWNED == 0
    assert layout.PIN_PFN & (layout.PIN_INTENT | layout.PIN_OWNED) == 0
    assert len({layout.SLOT_CLEAN, layout.SLOT_ATTACHED, layout.SLOT_DEAD}) == 3
    assert layout.SLOT_CLEAN == 0  # that of a new segment


def test_marks_of_a_reaper_are_no_orders_of_a_free_block():
    assert layout.MAX_ORDER + 1 < layout.BUDDY_QUARANTINED
    assert layout.BUDDY_QUARANTINED != layout.BUDDY_PARKED


def test_what_a_client_writes_alone_is_on_its_own_lines():
    """Others read its state at any time; what it writes in every operation is not there."""
    assert layout.CLIENT_SIZE % layout.LINE == 0
    assert layout.CLIENT_STATE // layout.LINE != layout.CLIENT_OP_SEQ // layout.LINE
    assert layout.CLIENT_OP_SEQ // layout.LINE == (layout.CLIENT_OPS + 4 * layout.OPS - 1) // layout.LINE
    assert layout.CLIENT_LEDGER + 4 * layout.PINS == layout.CLIENT_STATISTICS
    assert layout.CLIENT_STATISTICS + 8 * layout.STAT_WORDS == layout.CLIENT_SIZE
    assert layout.CLIENT_STATISTICS % 4096 == layout.CLIENT_SIZE % 4096 == 0  # a client that only hits has no page there


def test_statistics_do_not_overlap():
    histogram = layout.STAT_SUM + 1
    ends = {
        layout.STAT_SOURCES: layout.STAT_SOURCES + layout.SOURCE_WORDS * len(layout.SOURCES),
        layout.STAT_WAITS: layout.STAT_WAITS + histogram,
        layout.STAT_LOCK_WAITS: layout.STAT_LOCK_WAITS + histogram,
        layout.STAT_EVICTED: layout.STAT_EVICTED + layout.VERDICT_MASK + 1,
        layout.STAT_REFAULTS: layout.STAT_REFAULTS + 1 + layout.REFAULT_AGES,
        layout.STAT_TIERS: layout.STAT_TIERS + layout.TIER_WORDS * len(layout.TIERS),
    }
    assert len(layout.SOURCES) == layout.SOURCE_KINDS and layout.TIER_DECLINED < layout.TIER_WORDS
    begins = sorted(ends)
    assert all(ends[at] <= behind for at, behind in zip(begins, [*begins[1:], layout.STAT_WORDS], strict=True))
    assert histogram <= layout.SOURCE_BYTES < layout.SOURCE_ERRORS < layout.SOURCE_WORDS


def test_states_of_the_count_do_not_touch():
    assert layout.REF_MAX < layout.FROZEN
    assert layout.FROZEN & (layout.FROZEN - 1) == 0
    assert len({layout.DEAD, layout.GOT, layout.SATURATED}) == 3


def test_results_of_grab_are_told_apart():
    results = (layout.GRAB_ADDED, layout.GRAB_NOMEM, layout.GRAB_GONE)
    assert all(result > layout.NIL and result & (result - 1) == 0 for result in results)
    assert len(set(results)) == 3
