"""What is put in comes out, here and in other processes, read-only and without a copy."""

import contextlib
import datetime
import decimal
import functools
import gc
import multiprocessing
import random
import re
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import numpy
import pandas
import pyarrow
import pytest
from lines import at_line, count_lines

import foliocache
from foliocache.objects import values

FRAME = pandas.DataFrame({"a": range(5000), "b": [1.5] * 5000, "c": ["x", None] * 2500, "t": pandas.Timestamp("2026-01-01")})
TABLE = pyarrow.table({"n": list(range(9000)), "s": ["abc", None, "x"] * 3000})
PLACES = numpy.zeros(3000, numpy.dtype({"names": ["x", "y"], "formats": ["i4", "i2"], "offsets": [8, 0]}))
PLACES["x"] = range(3000)
VALUES = {
    "vector": numpy.arange(200_000.0),
    "fortran": numpy.asfortranarray(numpy.arange(60_000).reshape(200, 300)),
    "strided": numpy.arange(100_000)[::3],
    "transposed": numpy.arange(24_000).reshape(20, 30, 40).transpose(1, 0, 2),
    "big-endian": numpy.arange(5000, dtype=">i4"),
    "structured": numpy.zeros(3000, [("a", "i1"), ("b", "<f8", (2,)), ("c", "U3")]),
    "structured within": numpy.zeros(
        300, [(("a title", "a"), [("x", ">u2"), ("ä", [("y", "M8[s]", (4,))])], (3, 2)), ("b", numpy.dtype(("f4", (2,))), (3,))]
    ),
    "aligned": numpy.zeros(3000, numpy.dtype([("a", "i1"), ("b", "f8")], align=True)),
    "long type": numpy.zeros(5, [(f"field {n}", "f8") for n in range(20)]),
    "dates": numpy.array(["2026-11-26", "NaT"], "M8[D]"),
    "half": numpy.ones((7, 5), "f2"),
    "texts": numpy.array(["a", "bcd"]),
    "flags": numpy.array([True, False]),
    "scalar": numpy.array(5),
    "number": numpy.float64(2.5),
    "nothing": numpy.zeros((0, 3)),
    "objects": numpy.array([1, "a", None], dtype=object),
    "subclass": numpy.ma.masked_array([1, 2, 3], mask=[0, 1, 0]),
    "text of any length": numpy.array(["a", "bc" * 500], numpy.dtypes.StringDType()),
    "places of fields": PLACES,
    "fields in the same place": numpy.ones(
        3000, numpy.dtype({"names": ["x", "y"], "formats": ["i4", "i2"], "offsets": [0, 0]})
    ),
    "type with metadata": numpy.ones(3000, numpy.dtype("i4", metadata={"unit": "m"})),
    "type with metadata and a title": numpy.ones(
        3000, [(("a title", "a"), numpy.dtype("i4", metadata={"unit": "m"})), ("b", "i4")]
    ),
    "matrix": numpy.arange(6000.0).reshape(60, 100).view(numpy.matrix),
    "records": numpy.zeros(3000, [("a", "i4"), ("b", "S3")]).view(numpy.recarray),
    "fortran matrix": numpy.asfortranarray(numpy.arange(6000).reshape(60, 100)).view(numpy.matrix),
    "spread": numpy.broadcast_to(numpy.arange(30), (200, 30)),
    "backwards": numpy.arange(6000)[::-1],
    "strided within": [numpy.arange(6000)[::2], numpy.arange(60).astype("M8[s]")[::-1]],
    "dates within": [numpy.arange(6000).astype("M8[s]"), numpy.arange(60).astype(">m8[ns]")],
    "bytes": b"abc" * 100_000,
    "few bytes": b"abc",
    "no bytes": b"",
    "view": memoryview(b"abcd" * 10_000),
    "empty view": memoryview(b""),
    "view of numbers": memoryview(numpy.arange(6000.0).reshape(60, 100)),
    "frame": FRAME,
    "table": TABLE,
    "slice": TABLE.slice(100, 50),
    "batch": TABLE.to_batches()[0],
    "nested": {"x": [numpy.arange(5000), (b"1", {2: numpy.ones((30, 300), order="F")})], "y": "é" * 300},
    "none": None,
    "other": (decimal.Decimal("1.5"), datetime.date(2026, 11, 26), {1, 2}, "\udcff"),
    "bytearray": bytearray(b"x" * 20_000),
}


def same(one, other):
    if type(one) is not type(other):
        return False
    if isinstance(one, numpy.ndarray):
        content = numpy.ndarray.tolist if one.dtype.hasobject else numpy.ndarray.tobytes
        return one.dtype == other.dtype and one.shape == other.shape and content(one) == content(other)
    if isinstance(one, pandas.DataFrame):
        return bool(one.dtypes.equals(other.dtypes)) and one.equals(other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other and getattr(one, "shape", 0) == getattr(other, "shape", 0)


@pytest.mark.parametrize("name", VALUES)
def test_made_once_and_equal(shared, name):
    calls = []
    value = VALUES[name]
    made = shared.get_or_create(name, lambda: calls.append(1) or value)
    found = shared.get_or_create(name, lambda: calls.append(1))
    assert same(made, value)
    assert same(found, value)
    assert calls == [1]


def test_another_process_finds_them_all(shared):
    for name, value in VALUES.items():
        shared.put(name, value)
    with multiprocessing.get_context("spawn").Pool(1) as workers:
        wrong = workers.apply_async(differing, (shared,)).get(timeout=120)
    assert wrong == []


@pytest.mark.parametrize("name", ["places of fields", "fields in the same place", "matrix", "fortran matrix", "records"])
def test_other_arrays_are_read_only_views_too(shared, name):
    shared.put(name, VALUES[name])
    one, other = shared.get(name), shared.get(name)
    assert not one.flags.writeable and numpy.shares_memory(one, other)
    assert one.flags.f_contiguous == VALUES[name].flags.f_contiguous
    own = shared.get(name, writable="copy")
    own[...] = own[:1]
    own.fill(own.flat[-1])
    assert same(shared.get(name), VALUES[name])


def test_dates_are_views_within_frames_and_lists_too(shared):
    times = pandas.date_range("2026-11-28", periods=3000, freq="s")
    frame = pandas.DataFrame({"here": times, "there": times.tz_localize("UTC"), "since": times - times[0]})
    shared.put("dates", [frame, numpy.asarray(times)])
    one, other = shared.get("dates"), shared.get("dates")
    pandas.testing.assert_frame_equal(one[0], frame)
    for column in frame:
        assert numpy.shares_memory(one[0][column].array._ndarray, other[0][column].array._ndarray)
    assert numpy.shares_memory(one[1], other[1]) and not one[1].flags.writeable


def test_a_file_that_is_mapped_is_kept_as_an_array(shared, tmp_path, key):
    mapped = numpy.memmap(tmp_path / "file", "i4", "w+", shape=(50, 100))
    mapped[:] = numpy.arange(100)
    shared.put(key, mapped)
    (tmp_path / "file").unlink()
    found = shared.get(key)
    assert type(found) is numpy.memmap and found.tobytes() == mapped.tobytes()
    assert numpy.shares_memory(found, shared.get(key))


class Marked(numpy.ndarray):
    """A subclass with state of its own, which its own pickling keeps."""

    mark = None

    def __reduce__(self):
        function, arguments, state = super().__reduce__()
        return function, arguments, (state, self.mark)

    def __setstate__(self, state):
        super().__setstate__(state[0])
        self.mark = state[1]


def test_the_pickling_of_a_subclass_is_its_own(shared, key):
    value = numpy.arange(5000).view(Marked)
    value.mark = "here"
    shared.put(key, value)
    assert same(shared.get(key), value) and shared.get(key).mark == "here"


class Unready:
    def __getstate__(self):
        raise RuntimeError("not now")


def test_what_fails_to_pickle_is_refused_in_words(shared, key):
    with pytest.raises(TypeError, match=f"the value of '{key}', Unready, cannot be kept.*not now"):
        shared.put(key, Unready())


def raises(text):
    raise LookupError(text)


class Broken:
    def __init__(self, *buffers):
        self.buffers = buffers

    def __reduce__(self):
        return raises, ("it is gone", *self.buffers)


@pytest.mark.parametrize("content", [(), (bytes(10_000),), (numpy.arange(2000),)], ids=["inline", "long", "buffers"])
def test_what_fails_to_unpickle_says_so(shared, key, content):
    told = f"the value of '{re.escape(key)}' cannot be built in this process: .*Error: "
    with pytest.raises(foliocache.FoliocacheError, match=told):
        shared.get_or_create(key, lambda: Broken(*content))
    with pytest.raises(foliocache.FoliocacheError, match=told):
        shared.get(key)
    shared.delete(key)
    assert shared.get_or_create(key, lambda: 5) == 5


@pytest.mark.parametrize("rows", [1, 40, 40_000])
def test_rows_of_an_array_are_had_as_bytes(pool, rows):
    """Of one in its name, in one folio, in several; and without a lease left."""
    made = numpy.arange(rows * 7, dtype="u2").reshape(rows, 7)
    assert pool.put("a", made)
    objects = pool.objects
    known, head = objects.know("a", ""), values.head_of(made.shape, made.dtype)
    read = functools.partial(objects.bytes_of, known, "a", None, head)
    leases = []
    for _ in range(2):
        for first, end in ((0, 1), (rows // 3, rows), (rows - 1, rows)):
            found = read(first * 14, (end - first) * 14)
            assert memoryview(found).readonly and bytes(found) == made[first:end].tobytes()
            del found
        with contextlib.suppress(foliocache.FoliocacheError):
            mapping = pool.mapping("other", 1, "1", lambda offset, length: b"x")
            while (lease := mapping.lease(0)).cached:
                leases.append(lease)
    del leases[:], lease
    assert objects.bytes_of(known, "a", None, values.head_of(made.shape, numpy.dtype("i2")), 0, 14) is None
    assert objects.bytes_of(known, "a", None, values.head_of((rows, 7, 1), made.dtype), 0, 14) is None
    assert read(14 * (rows - 1), 15) is None
    with pytest.raises(ValueError, match="expiry"):
        objects.bytes_of(known, "a", -1, head, 0, 14)
    assert objects.bytes_of(known, "a", 0, head, 0, 14) is None
    pool.put("a", made + 1)
    assert bytes(read(0, 14)) == (made + 1)[0].tobytes()
    pool.delete("a")
    assert read(0, 14) is None


def test_rows_of_an_array_that_is_gone_are_missing(pool):
    made = numpy.arange(200_000)
    pool.put("a", made)
    known = pool.objects.know("a", "")
    read = functools.partial(pool.objects.bytes_of, known, "a", None, values.head_of(made.shape, made.dtype))
    assert bytes(read(0, 8)) == bytes(8)
    pool.forget("object:a")  # as eviction does, the name stays
    assert read(0, 8) is None and pool.get("a") is None


@pytest.mark.parametrize(
    ("shape", "kind"), [((0, 3), "u1"), ((3,), "O"), ((3,), "S0"), ((3,) * 30, "u1"), ((2,), [("a", "O")])], ids=str
)
def test_arrays_that_are_kept_in_another_way_have_no_head(shape, kind):
    assert values.head_of(shape, numpy.dtype(kind)) is None


def put_as(pool, key, head, content):
    """Put an object whose description is not what this library writes."""
    objects = pool.objects
    with objects._names.ask("object:" + key) as ask:
        assert objects._keep(ask, key, values.Stored(head, [(0, memoryview(content))], len(content))) is not None


@pytest.mark.parametrize("text", ['"|O"', '[["a","|O"]]', '"T"', '"O8"'])
@pytest.mark.parametrize("order", [b"C", b"F"])
def test_bytes_of_the_pool_are_never_taken_for_addresses(shared, key, text, order):
    """Not even if another program says that they are references to Python objects."""
    put_as(shared, key, b"A" + order + values._pack_shape((500,), text), b"\x10" * 40_000)
    for options in ({}, {"loads": "arrays"}, {"writable": "copy"}):
        with pytest.raises(foliocache.FoliocacheError, match="never kept"):
            shared.get(key, **options)
    with pytest.raises(foliocache.FoliocacheError, match="never kept"):
        shared.objects.get_rows(key, "", None, 0, 5)


@pytest.mark.parametrize("size", [400, 40_000, 400_000])
def test_damaged_descriptions_say_so(pool, key, size):
    """Whatever a description is, there is a value, or an error of ours."""
    randomly = random.Random(size)
    kept = VALUES["vector"], VALUES["dates"], VALUES["structured"], VALUES["view of numbers"], VALUES["bytes"]
    heads = [values.encode(value, "any", key).head for value in kept]
    for _ in range(300):
        head = bytearray(randomly.choice(heads)[:180])
        for _ in range(randomly.randrange(1, 4)):
            at = randomly.randrange(len(head))
            head[at : at + randomly.choice([0, 1, 9])] = randomly.randbytes(randomly.choice([0, 1, 1]))
            head = head or bytearray(b"A")
        put_as(pool, key, bytes(head), bytes(size))
        for read in (lambda: pool.get(key, loads="arrays"), lambda: pool.objects.get_rows(key, "", None, 0, 1)):
            told = []
            try:
                read()
            except (foliocache.FoliocacheError, ValueError) as error:
                told.append(str(error))
            assert all(repr(key) in each for each in told)


def test_types_in_threads_that_collect_garbage():
    """Until Python 3.11 its parser fails if another thread parses, too, while a collection of garbage lets that run."""
    errors = []
    types = [numpy.dtype([("a", "f4"), ("b", "i4", (n, 3)), ("c", [("d", "u1")])]) for n in range(1, 200)]

    def ask():
        try:
            for _ in range(5):
                for dtype in types:
                    assert values._type_of.__wrapped__(values.type_text(dtype)) == dtype
        except Exception as error:
            errors.append(error)

    def collected(phase, info):
        """Some Python, in which the interpreter may go on with another thread."""

    threshold, interval = gc.get_threshold(), sys.getswitchinterval()
    gc.callbacks.append(collected)
    gc.set_threshold(1)
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        gc.callbacks.remove(collected)
        gc.set_threshold(*threshold)
        sys.setswitchinterval(interval)
    assert not errors


class Rung(Exception):
    """What a signal handler raises."""


@pytest.mark.parametrize("size", [400, 40_000, 4_000_000])
@pytest.mark.parametrize("how", ["get", "rows"])
def test_what_a_signal_handler_raises_while_an_array_is_built_is_raised(pool_name, key, size, how):
    def ring():
        raise Rung

    with foliocache.open(pool_name, size="32MiB") as pool:
        for n in range(1000):
            pool.put(str(n), bytes(pool.page_size))
        for n in range(0, 1000, 2):
            pool.delete(str(n))
        pool.put(key, numpy.arange(size, dtype="u1").reshape(10, -1))

        def read():
            return pool.get(key, loads="arrays") if how == "get" else pool.objects.get_rows(key, "", None, 3, 5)

        read()
        lines = count_lines(read)
        assert lines > 0
        for n in range(1, lines + 1):
            with pytest.raises(Rung), at_line(n, ring):
                read()
        read()


def differing(pool):
    return [name for name, value in VALUES.items() if not same(pool.get(name, "missing"), value)]


@pytest.mark.parametrize("name", ["vector", "fortran", "strided", "structured", "view", "dates", "scalar"])
def test_arrays_are_read_only_views_of_the_same_pages(shared, name):
    shared.put(name, VALUES[name])
    one, other = numpy.asarray(shared.get(name)), numpy.asarray(shared.get(name))
    assert not one.flags.writeable
    assert numpy.shares_memory(one, other) or one.nbytes < 192


def test_arrays_within_others_are_views_too(shared):
    shared.put("frame", FRAME)
    one, other = shared.get("frame"), shared.get("frame")
    assert numpy.shares_memory(one["a"].to_numpy(), other["a"].to_numpy())
    shared.put("table", TABLE)
    one, other = shared.get("table"), shared.get("table")
    assert one["n"].chunk(0).buffers()[1].address == other["n"].chunk(0).buffers()[1].address


def test_a_slice_of_a_table_takes_no_more_than_it_shows(shared):
    shared.put("part", TABLE.slice(100, 50))
    (found,) = [each for each in shared.mappings() if each.key == "object:part"]
    assert found.cached_bytes < 5000


@pytest.mark.parametrize("size", [1, 5000, 300_000])
def test_parts_are_aligned(shared, size):
    """The addresses, of parts that follow others of odd sizes."""
    shared.put("odd", [numpy.zeros(3, "u1"), numpy.arange(size, dtype="f8"), numpy.zeros(1, "u1"), numpy.arange(7.0)])
    assert [each.ctypes.data % 64 for each in shared.get("odd")] == [0] * 4


def test_an_array_of_up_to_a_folio_lies_in_one(shared):
    for size in (16 << 10, 500 << 10, 1 << 20):
        shared.put("whole", numpy.zeros(size, "u1"))
        (found,) = [each for each in shared.mappings() if each.key == "object:whole"]
        assert found.cached_folios == 1


def test_views_keep_their_pins_and_no_longer(shared):
    def pins():
        return shared.stat().pins

    for size in (1 << 20, 5 << 20):
        shared.put("pinned", numpy.arange(size // 8))
        before = pins()
        array = shared.get("pinned")
        part = array.reshape(2, -1)[1]
        del array
        assert pins() > before
        assert part[0] == size // 16
        del part
        assert pins() == before


@pytest.mark.parametrize("options", [{}, {"writable": "copy"}])
def test_empty_memoryviews_have_their_types(shared, key, options):
    for letter in "Bdiq?":
        for _ in range(2):  # made, then found
            found = shared.get_or_create(
                f"{key} {letter} {options}", lambda letter=letter: memoryview(b"").cast(letter), **options
            )
            assert (found.format, found.shape, found.readonly) == (letter, (0,), not options)


@pytest.mark.parametrize(
    "value",
    [lambda: 1, (n for n in [1]), sys.stdout, memoryview(numpy.zeros(2, "i4,f8")), memoryview(numpy.zeros((0, 3)))],
    ids=["lambda", "generator", "file", "struct", "empty"],
)
def test_what_cannot_be_kept_is_refused_in_words(shared, key, value):
    with pytest.raises(TypeError, match=r"cannot be kept|no content to keep"):
        shared.get_or_create(key, lambda: value)
    assert shared.get(key) is None


def test_a_coroutine_is_refused(shared, key):
    async def make():
        return 1

    with pytest.raises(TypeError, match="get_or_create_async"):
        shared.get_or_create(key, make)


class Bomb:
    def __reduce__(self):
        return print, ("unpickled",)


def test_arrays_alone_are_never_unpickled(shared, key, capsys):
    shared.put(key, [Bomb()])
    with pytest.raises(ValueError, match="unpickles nothing"):
        shared.get(key, loads="arrays")
    with pytest.raises(ValueError, match="unpickles nothing"):
        shared.get_or_create(key, lambda: b"", loads="arrays")
    assert capsys.readouterr().out == ""
    with pytest.raises(TypeError, match="arrays or bytes alone"):
        shared.get_or_create(key + "2", lambda: {"a": 1}, loads="arrays")
    swapped = numpy.zeros(3, {"names": ["a", "b"], "formats": ["i4", "i2"], "offsets": [4, 0], "itemsize": 16})
    for wrong in (swapped, numpy.zeros(3, [(f"name {n}", "f8") for n in range(30)])):
        with pytest.raises(TypeError, match=r"take long to describe or that \.npy files do not describe in full"):
            shared.put(key + "3", wrong, loads="arrays")
    for name in ("vector", "fortran", "structured", "bytes", "view", "few bytes"):
        shared.put(name, VALUES[name], loads="arrays")
        assert same(shared.get(name, loads="arrays"), VALUES[name])


def test_tensors(shared, key):
    """In a process of their own, with warnings as errors: importing PyTorch leaves threads."""
    pytest.importorskip("torch", reason="PyTorch is not installed")
    program = """
import sys, warnings, torch, foliocache
warnings.simplefilter("error")
pool = foliocache.attach(sys.argv[1])
tensors = [torch.arange(100_000), torch.ones(3, 4, dtype=torch.bfloat16), torch.zeros(0, 2), torch.tensor(5.5),
           torch.rand(30, 40).T, torch.ones(5, requires_grad=True), torch.arange(60).view(3, 4, 5)[::2, :, 1], torch.rand(1),
           torch.rand(4)[1::2][:1], torch.rand(4, 4)[:1, 1::2][:, :1]]
kinds = "bool uint8 uint16 uint32 uint64 int8 int16 int32 int64 float16 bfloat16 float32 float64 complex64 complex128"
kinds += " float8_e4m3fn"
tensors += [torch.tensor([0, 1, 0, 1]).to(getattr(torch, kind)) for kind in kinds.split() if hasattr(torch, kind)]
tensors += [each.repeat(100, 50) for each in tensors[-3:]]
for n, each in enumerate([*tensors, {"x": tensors, "y": (1, tensors[0])}]):
    pool.get_or_create(f"{sys.argv[2]} {n}", lambda: each)
    found = pool.get(f"{sys.argv[2]} {n}")
    pairs = zip([found] if n < len(tensors) else found["x"], [each] if n < len(tensors) else tensors)
    assert all(one.dtype == two.dtype and one.shape == two.shape and torch.equal(one, two) for one, two in pairs)
one, two = pool.get(f"{sys.argv[2]} 0"), pool.get(f"{sys.argv[2]} 0", loads="arrays")
assert one.data_ptr() == two.data_ptr()
"""
    done = subprocess.run([sys.executable, "-c", program, shared.name, key], capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stderr) == (0, "")


def test_descriptions_of_quantized_tensors_are_refused(shared, key):
    """In a process of its own: PyTorch ends the process when such a tensor is made of bytes."""
    pytest.importorskip("torch", reason="PyTorch is not installed (CONTRIBUTING.md, PyTorch)", exc_type=ImportError)
    kinds = "qint8", "quint8", "qint32", "quint4x2", "quint2x4"
    for kind in kinds:
        put_as(shared, key + kind, b"TC" + values._pack_shape((3, 4), kind), bytes(48))
        put_as(shared, key + kind + " U", b"UC" + values._pack_shape((3, 4), kind + ",1,0"), bytes(48))
    program = """if True:
        import sys, foliocache
        pool = foliocache.attach(sys.argv[1])
        for name in sys.argv[2:]:
            try:
                print(pool.get(name, loads="arrays"))
            except foliocache.FoliocacheError as error:
                print("never kept" in str(error))"""
    arguments = [sys.executable, "-c", program, shared.name, *(key + kind + end for kind in kinds for end in ("", " U"))]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stdout.split()) == (0, ["True"] * 2 * len(kinds))


def test_after_close_there_is_nothing(pool_name):
    with foliocache.open(pool_name, size="4MiB") as pool:
        array = pool.get_or_create("k", lambda: numpy.arange(50_000))
    for use in (
        lambda: pool.get("k"),
        lambda: pool.put("k", 1),
        lambda: pool.delete("k"),
        lambda: pool.get_or_create("k", int),
    ):
        with pytest.raises(foliocache.FoliocacheError, match="closed"):
            use()
    assert array[-1] == 49_999


def test_values_about_as_long_as_a_name_has_room_for(pool):
    for size in range(170, 200):
        for value in (bytes(size), {"a": numpy.arange(size // 2, dtype="u1"), "b": "x" * (size % 40)}):
            key = f"{size} {type(value).__name__}"
            assert pool.put(key, value) and repr(pool.get(key)) == repr(value)
    assert pool.stat().cached_bytes > 0


def test_a_short_pickle_takes_no_room_beside_its_buffers(pool):
    page = pool.page_size
    before = pool.stat().cached_bytes
    sample = (numpy.arange(3 * page, dtype="u1"), 7, {"label": "cat"})
    assert pool.put("sample", sample)
    assert pool.stat().cached_bytes == before + 3 * page
    found, number, more = pool.get("sample")
    assert (found == sample[0]).all() and (number, more) == sample[1:] and not found.flags.writeable
    assert pool.put("two", [sample[0][:page], sample[0][1:page]])
    assert [each.tobytes() for each in pool.get("two")] == [sample[0][:page].tobytes(), sample[0][1:page].tobytes()]


def test_arrays_of_a_new_pool_are_read_where_they_lie(pool):
    """Three folios of one size are neighbours in a new pool, so holding such an array takes no mapping of its own."""
    for n in range(20):
        assert pool.put(f"image {n}", numpy.full(12 * pool.page_size, n, "u1"))
    before = len(Path("/proc/self/maps").read_text().splitlines())
    held = [pool.get(f"image {n}") for n in range(20)]
    assert len(Path("/proc/self/maps").read_text().splitlines()) < before + 5
    assert [int(each[-1]) for each in held] == list(range(20))


@pytest.mark.parametrize("pages", [1, 7, 12, 40])
@pytest.mark.parametrize("writable", [None, "copy"])
def test_what_was_put_is_not_kept_by_what_is_returned(pool, pages, writable):
    made = []

    def make():
        value = numpy.ones(pages * pool.page_size, "u1")
        made.append(weakref.ref(value))
        return value

    found = pool.get_or_create(f"{pages} {writable}", make, writable=writable)
    assert found.sum() == pages * pool.page_size and made[0]() is None
