"""Parts of chunks, put together: what NumPy's assignments would write."""

import itertools
import random

import numpy
import pytest

from foliocache.adapters.zarr.gather import gather

TYPES = ["u1", "<i2", ">i4", "f8", "c16", "M8[ns]", "S7", "U3", [("a", "i4"), ("b", "u1")], "?"]


def values(randomly, shape, kind):
    content = randomly.randbytes(int(numpy.prod(shape)) * numpy.dtype(kind).itemsize)
    if kind == "?":
        return numpy.frombuffer(content, "u1").reshape(shape) > 128
    if kind == "U3":
        return (numpy.frombuffer(content, "u4").reshape(*shape, 3) % 0xD800).view("U3").reshape(shape)
    return numpy.frombuffer(content, kind).reshape(shape)


def cut(randomly, size):
    ends = sorted(randomly.sample(range(size + 1), min(randomly.choice([0, 1, 3, 40]), size + 1)))
    return [slice(a, b) for a, b in itertools.pairwise([0, *ends, size])]


def laid_out(randomly, part):
    """The same elements, in one of the orders in which chunks have them."""
    way = randomly.randrange(4)
    if way == 0:
        return numpy.ascontiguousarray(part)
    if way == 1:
        return numpy.asfortranarray(part)
    return part if way == 2 else part[::-1].copy()[::-1]


def compare(randomly, shape, kind, order="C"):
    whole = values(randomly, shape, kind)
    out = numpy.zeros(shape, kind, order)
    expected = out.copy()
    cuts = [cut(randomly, size) for size in shape]
    parts = []
    for place in itertools.product(*cuts):
        part = laid_out(randomly, whole[place]) if randomly.random() < 0.9 else whole.flat[0] if whole.size else 0
        expected[place] = part
        if numpy.ndim(part) and randomly.random() < 0.5:
            parts.append((place, part.tobytes(), part.shape))
        else:
            parts.append((place, part, None))
    gather(out, parts, len(cuts[-1]))
    assert out.tobytes() == expected.tobytes()


@pytest.mark.parametrize("kind", TYPES, ids=str)
@pytest.mark.parametrize("dims", range(1, 6))
def test_it_is_what_assignments_write(kind, dims):
    randomly = random.Random(f"{kind} {dims}")
    for n in range(12):
        shape = [randomly.choice([1, 2, 5, 60 // dims]) for _ in range(dims)]
        compare(randomly, shape, kind, "CF"[n % 4 == 3])


@pytest.mark.parametrize("shape", [(3, 700_000), (700_000,), (40, 90, 300), (20, 3000), (0, 5), (5, 0), (2, 0, 3)], ids=str)
def test_long_rows_many_rows_and_none(shape):
    randomly = random.Random(str(shape))
    for _ in range(4):
        compare(randomly, shape, "u2")


def test_parts_that_do_not_fit_are_refused_as_by_numpy():
    out = numpy.zeros((4, 4))
    for part in (numpy.ones((2, 3)), numpy.ones((2, 2, 2)), numpy.ones(3)):
        with pytest.raises(ValueError, match="broadcast"):
            gather(out, [((slice(0, 2), slice(0, 2)), part, None)], 1)
    gather(out, [((slice(0, 2), slice(0, 2)), numpy.ones((2, 2), "i4"), None)], 1)  # another type is converted
    gather(out, [((slice(2, 4), slice(2, 4)), numpy.ones((1, 1)), None)], 1)
    assert out.sum() == 8 and out[3, 3] == 1
    readonly = numpy.zeros(3)
    readonly.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        gather(readonly, [((slice(0, 3),), numpy.ones(3), None)], 1)


def test_bytes_that_are_no_array_of_that_shape_are_refused():
    out = numpy.zeros((4, 4))
    for part, shape in ((bytes(24), (2, 2)), (bytes(32), (4,)), (bytes(32), (1, 2, 2)), (b"", (2, 2))):
        with pytest.raises(ValueError, match=r"for (an array|one) of"):
            gather(out, [((slice(0, 2), slice(0, 2)), part, shape)], 1)
    with pytest.raises(ValueError, match="broadcast"):
        gather(out, [((slice(0, 2), slice(0, 2)), bytes(32), (4, 1))], 1)
    assert not out.any()
