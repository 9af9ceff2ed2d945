"""docs/layout.md says where every word of a segment lies, how wide it is and what it may hold, and is right."""

import ast
import itertools
import re

import pytest
from documents import MM, atomic_calls, functions, number, page, rows, section

from foliocache.mm import layout
from foliocache.pool import geometry, header
from foliocache.sizes import parse_size

TEXT = page("layout.md")
# What a section's tables are about: the constants with these beginnings are the offsets, or are no offsets.
HEADER = ("HDR_", "ALLOC_", "PAGES_", "SLOTS_", "WATCH_TURNS", "LRU_", "BLOCK_HAND", "TABLE_", "NAMES_", "SLAB_", "TREE_LOCK")
PARTS = {
    "Header": (
        HEADER,
        {"HDR_IDENTITY_END", "LRU_END", "SLAB_STRIDE", "SLAB_NODES", "SLAB_MAPPINGS", "SLAB_NAMES", "SLAB_KEEP"}
        | {"TREE_LOCKS", "TREE_LOCKED"},
    ),
    "Folio descriptor": (("F_",), set()),
    "XArray node": (("NODE_", "OBJECT_NEXT"), {"NODE_SHIFT", "NODE_MASK", "NODE_SIZE"}),
    "Mapping record": (("MAPPING_", "OBJECT_NEXT"), {"MAPPING_TEXT_MAX", "MAPPING_SIZE"}),
    "Name": (
        ("NAME_", "OBJECT_NEXT"),
        {
            "NAME_WAYS",
            "NAME_SHARE",
            "NAME_TEXT_MAX",
            "NAME_DATA_MAX",
            "NAME_SIZE",
            "NAME_WAITERS",
            "NAME_UNKNOWN",
            "NAME_PRESENT",
        }
        | {"NAME_ABSENT", "NAME_STATE_MASK", "NAME_VERSION_SHIFT", "NAME_EXTRA_SHIFT", "NAME_TEXT_SHIFT", "NAME_LENGTH_MASK"}
        | {"NAME_NOMEM", "NAME_FRESH", "NAME_TAKEN", "NAME_BUSY", "NAME_AHEAD_NS"},
    ),
    "Client slot": (("CLIENT_",), {"CLIENT_SIZE"}),
    "Samples": (("HISTORY_",), {"HISTORY_SAMPLES", "HISTORY_SIZE", "HISTORY_STEP_NS"}),
}
SIZES = {
    "XArray node": layout.NODE_SIZE,
    "Mapping record": layout.MAPPING_SIZE,
    "Name": layout.NAME_SIZE,
    "Client slot": layout.CLIENT_SIZE,
    "Samples": layout.HISTORY_SIZE,
}


def words(title):
    """name -> (offset, bytes) of a section's tables."""
    found = {}
    for offset, bits, field, *_ in rows(section(TEXT, title), "offset", "bits", "field"):
        count, _, width = bits.rpartition(" x ")
        found[field.strip("`")] = number(offset), number(count or "1") * int(width) // 8
    return found


@pytest.mark.parametrize("title", PARTS)
def test_every_word_has_a_row_and_its_offset(title):
    beginnings, others = PARTS[title]
    known = {name for name in vars(layout) if name.startswith(beginnings)} - others
    said = words(title)
    assert set(said) == known
    assert {name: offset for name, (offset, _) in said.items()} == {name: getattr(layout, name) for name in said}


@pytest.mark.parametrize("title", PARTS)
def test_words_do_not_overlap(title):
    """But for those of a folio descriptor that two types of folio use for different things."""
    said = {name: where for name, where in words(title).items() if name != "F_DIGEST"}
    ordered = sorted(said.values())
    assert all(at + width <= behind for (at, width), (behind, _) in itertools.pairwise(ordered))
    assert ordered[-1][0] + ordered[-1][1] <= SIZES.get(
        title, layout.FOLIO_SIZE if title == "Folio descriptor" else layout.HEADER_SIZE
    )


def accessed():
    """name of a constant -> widths in bits with which the core accesses the word that it names."""
    found = {}
    for path in sorted(MM.glob("*.py")):
        for _, node in functions(path):
            for operation, call in atomic_calls(node):
                copies = operation.startswith("copy_")
                for part in ast.walk(call.args[1]) if len(call.args) > 1 and not copies else ():
                    if isinstance(part, ast.Attribute) and ast.unparse(part).startswith("layout."):
                        found.setdefault(part.attr, set()).add(64 if operation.endswith("64") else 32)
    return found


def test_widths_are_those_of_the_accesses():
    said = {name: width * 8 for title in PARTS for name, (_, width) in words(title).items()}
    narrow = {name: widths for name, widths in accessed().items() if said.get(name) in (32, 64)}
    assert len(narrow) > 20
    assert narrow == {name: {said[name]} for name in narrow}


def test_the_header_is_packed_as_it_is_described():
    said = [where for name, where in words("Header").items() if name.startswith("HDR_")]
    assert said[-1][0] + said[-1][1] == layout.HDR_IDENTITY_END
    shape = geometry.compute(64, 4096, 1) | {"fenced": 0}
    head = header.pack(shape, layout.STATE_READY)
    read = {
        name: int.from_bytes(head[at : at + width], "little")
        for name, (at, width) in words("Header").items()
        if name.startswith("HDR_")
    }
    assert (read["HDR_MAGIC"], read["HDR_ABI"], read["HDR_STATE"]) == (layout.MAGIC, layout.ABI, layout.STATE_READY)
    for name in (
        "size",
        "page_shift",
        "npages",
        "nclients",
        "nbuckets",
        "nghosts",
        "memmap",
        "data",
        "clients",
        "buckets",
        "ghosts",
        "nnames",
        "names",
        "backed",
    ):
        assert read[f"HDR_{name.upper()}"] == shape[name]
    assert read["HDR_POOL"] == 64 * 4096


def test_the_map_is_that_of_a_pool_of_4_gib():
    pages = (4 << 30) // geometry.DEFAULT_PAGE_SIZE
    shape = geometry.compute(pages, geometry.DEFAULT_PAGE_SIZE, geometry.DEFAULT_CLIENTS)
    drawn = [number(at) for at in re.findall(r"^\+-+\+ ([\d,]+)", section(TEXT, "Map"), re.MULTILINE)]
    tables = [shape[name] for name in ("clients", "buckets", "ghosts", "names", "backed", "memmap", "data", "size")]
    assert drawn == [0, layout.TREE_LOCK, *tables] and shape["clients"] == layout.HEADER_SIZE
    inside = [int(at) for at in re.findall(r" at +(\d+) \|", section(TEXT, "Map"))]
    assert inside == [
        layout.ALLOC_LOCK,
        layout.ALLOC_LISTS,
        layout.ALLOC_HOLE_LISTS,
        layout.LRU_LOCK,
        layout.BLOCK_HAND,
        layout.LRU_FULL,
        layout.TABLE_LOCK,
        layout.NAMES_LOCK,
        *(layout.SLAB_LOCK + cache * layout.SLAB_STRIDE for cache in range(layout.SLABS)),
        layout.PAGES_DESCRIBED,
        layout.WATCH_TURNS,
        layout.HISTORY,
    ]


def lines(n):
    return -(-n // layout.LINE) * layout.LINE


@pytest.mark.parametrize("clients", [1, 5, 256])
@pytest.mark.parametrize("page_size", [4096, 16384, 2 << 20])
@pytest.mark.parametrize("pages", [64, 65, 1000, 4097, 262144])
def test_the_formula_of_the_tables(pages, page_size, clients):
    said = re.search(r"^tables = (.*)$", TEXT, re.MULTILINE)[1]
    names = {"C": clients, "P": pages, "Q": 1 << (pages - 1).bit_length(), "G": -(-pages // 4) * 4}
    names["B"] = -(-pages * page_size // (32 << layout.CHUNK_SHIFT))
    names["N"] = -(-(pages * page_size // (layout.NAME_SHARE * layout.NAME_SIZE)) // layout.NAME_WAYS) * layout.NAME_WAYS
    factors = re.sub(r"(\d) (?=[A-Zm])", r"\1 * ", re.sub(r"(?<=\d),(?=\d)", "", said))
    terms = factors.split(" + ")
    total = sum(lines(int(eval(term, {"max": max} | names))) for term in terms)
    shape = geometry.compute(pages, page_size, clients)
    assert total == lines(tables_of(shape))
    assert shape["data"] == -(-total // layout.DATA_ALIGN) * layout.DATA_ALIGN and "multiple of 2 MiB" in TEXT


def tables_of(shape):
    return shape["memmap"] + shape["npages"] * layout.FOLIO_SIZE


def size(text):
    return parse_size(text.replace(" ", ""))


def test_the_tables_of_some_pools():
    found = rows(TEXT, "pool", "page", "tables")
    assert len(found) > 4
    for pool, page_size, tables, share in found:
        shape = geometry.compute(size(pool) // size(page_size), size(page_size), geometry.DEFAULT_CLIENTS)
        slots = geometry.first_slots(shape)
        data = geometry.table_bytes(shape, slots) + shape["npages"] * layout.FOLIO_SIZE
        assert (tables, share) == (f"{data:,} B", f"{100 * data / size(pool):.3f} %")
    page_size, least, most = 16384, re.search(r"([\d.]+) % at 16 KiB", TEXT)[1], re.search(r"([\d.]+) % at worst", TEXT)[1]
    ratios = [tables_of(geometry.compute(pages, page_size, 256)) / (pages * page_size) for pages in (1 << 24, (1 << 24) + 1)]
    assert [f"{100 * ratio:.2f}" for ratio in ratios] == [least, most]


def test_the_first_client_slots():
    assert f"fit 1/{geometry.SLOT_SHARE} of the first size, but {geometry.SLOTS_FIRST} at least" in TEXT
    assert f"and {geometry.SLOTS_MOST} at most" in TEXT


def test_objects_to_a_page():
    for _, each, count, _ in rows(TEXT, "", "size"):
        assert number(count) == geometry.DEFAULT_PAGE_SIZE // number(each.removesuffix(" B"))
    assert [number(row[1].removesuffix(" B")) for row in rows(TEXT, "", "size")] == [
        layout.NODE_SIZE,
        layout.MAPPING_SIZE,
        layout.NAME_SIZE,
    ]


def test_counts_are_those_of_the_constants():
    assert f"{layout.ABI}." in section(TEXT, "The version") and f"| layout version, {layout.ABI} |" in TEXT
    said = {name: width for title in PARTS for name, (_, width) in words(title).items()}
    assert said["ALLOC_LISTS"] == (layout.MAX_ORDER + 1) * layout.LIST_SIZE
    assert said["LRU_LISTS"] == layout.QUEUES * layout.LIST_SIZE and said["LRU_PAGES"] == layout.QUEUES * 4
    assert said["LRU_EVICTED"] == said["LRU_REFAULTED"] == (layout.VERDICT_MASK + 1) * 4
    assert said["NODE_SLOTS"] == 4 << layout.NODE_SHIFT
    assert said["MAPPING_TEXT"] == layout.MAPPING_TEXT_MAX
    assert (said["NAME_TEXT"], said["NAME_DATA"]) == (layout.NAME_TEXT_MAX, layout.NAME_DATA_MAX)
    assert f"sets of {layout.NAME_WAYS};" in TEXT and f"take 1/{layout.NAME_SHARE} of the pool" in TEXT
    assert said["CLIENT_OPS"] == layout.OPS * 4 and said["CLIENT_LEDGER"] == layout.PINS * 4
    assert said["CLIENT_COUNTERS"] == len(layout.COUNTERS) * 8
    assert f"| {', '.join(layout.COUNTERS)} |" in TEXT
    assert said["CLIENT_STATISTICS"] == layout.STAT_WORDS * 8
    assert f"tree lock 0 of {layout.TREE_LOCKS}" in TEXT
    types = {
        name: int(value) for value, name in re.findall(r"(\d) ([A-Z]+)", re.search(r"^Types: [^.]*", TEXT, re.MULTILINE)[0])
    }
    assert {f"TYPE_{name}": value for name, value in types.items()} == {
        name: getattr(layout, name) for name in vars(layout) if name.startswith("TYPE_") and name != "TYPE_MASK"
    }
    flags = {name.strip("`"): int(bit) for bit, name, *_ in rows(TEXT, "bit", "flag")}
    assert flags == {name: getattr(layout, name) for name in vars(layout) if name.startswith("PG_")}


def test_encodings_are_those_of_the_constants():
    said = dict(rows(TEXT, "word", "encoding"))
    bit = re.compile(r"bit (\d+)")
    assert [1 << int(n) for n in bit.findall(said["lock"])] == [layout.LOCK_WAITERS, layout.LOCK_BROKEN]
    name = next(text for word, text in said.items() if word.startswith("name "))
    assert [1 << int(n) for n in bit.findall(name)] == [layout.PIN_INTENT, layout.PIN_OWNED]
    assert [int(n, 16) for n in re.findall("0x[0-9a-f]+", said["F_BUDDY"])] == [
        layout.BUDDY_HOLE,
        layout.BUDDY_QUARANTINED,
        layout.BUDDY_PARKED,
    ]
    assert 1 << int(bit.search(said["OBJECT_NEXT"])[1]) == layout.OBJECT_FREE
    grabbed = said["result of `filemap.grab`"]
    assert [1 << int(n) for n in bit.findall(grabbed)] == [layout.GRAB_ADDED, layout.GRAB_NOMEM, layout.GRAB_GONE]
    shifts = [int(n) for n in re.findall(r"<< (\d+)", said["ghost"])]
    assert shifts == [layout.GHOST_HEAT_SHIFT, layout.GHOST_TICK_SHIFT, layout.GHOST_PRINT_SHIFT]
    assert 1 << layout.TICK_SHIFT == 32 and "a tick is a 32nd" in said["ghost"]
    assert (
        f"page_shift - {layout.OBJECT_SHIFT})" in said["object number"]
        and f"{layout.OBJECT_BITS} bits" in said["object number"]
    )
    assert f"serial << {layout.OBJECT_BITS} " in said["ino"]
    state = [int(n) for n in re.findall(r"<< (\d+)", said["NAME_STATE"])]
    assert state == [layout.NAME_VERSION_SHIFT, layout.NAME_EXTRA_SHIFT, layout.NAME_TEXT_SHIFT]
    assert f"order << {layout.ORDER_SHIFT}" in said["F_TYPE"]
    queue = next(row[3] for row in rows(TEXT, "offset", "bits", "field", "meaning", "written by") if row[2] == "`F_QUEUE`")
    assert [int(n) for n in re.findall(r"<< (\d+)", queue)] == [
        layout.HEAT_SHIFT,
        layout.VERDICT_SHIFT,
        layout.USED_SHIFT,
        layout.SEEN_SHIFT,
    ]


def test_the_bytes_of_the_locks_of_slots():
    assert [1 << int(shift) for shift in re.findall(r"byte 2\^(\d+) \+", TEXT, re.IGNORECASE)] == [layout.LOCK_BYTES] * 2


def test_the_statistics():
    told = {name.strip("`"): number(word) for word, name, _ in rows(TEXT, "word", "name", "meaning")}
    others = {"STAT_WORDS", "STAT_SUM"}
    assert told == {name: value for name, value in vars(layout).items() if name.startswith("STAT_") and name not in others}
    text = section(TEXT, "Client slot")
    assert f"The kinds: {', '.join(layout.SOURCES)}" in text and f"each of {len(layout.SOURCES)} kinds" in text
    assert f"The kinds of tier: {', '.join(layout.TIERS)}" in text and f"each of {len(layout.TIERS)} kinds of tier" in text
    assert f"at {layout.SOURCE_BYTES} (`SOURCE_BYTES`)" in text and f"at {layout.SOURCE_ERRORS} (`SOURCE_ERRORS`)" in text
    assert f"{layout.BUCKETS} words" in text and f"2^({layout.BUCKET_SHIFT} + b) ns" in text
    ages = ", ".join(str(layout.REFAULT_TICKS << age) for age in range(layout.REFAULT_AGES))
    assert f"before {ages} ticks" in text


def test_the_samples():
    text = section(TEXT, "Samples")
    assert f"{layout.HISTORY_SAMPLES} samples of {layout.HISTORY_SIZE} bytes, from byte {layout.HISTORY:,}" in text.replace(
        "\n", " "
    )
    assert f"every {layout.HISTORY_STEP_NS // 10**9} s" in text
    assert layout.HISTORY + layout.HISTORY_SAMPLES * layout.HISTORY_SIZE <= layout.TREE_LOCK
