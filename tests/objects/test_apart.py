"""Objects that the pool has no room for: each caller gets one of its own, which is like one that is kept."""

import asyncio
import threading

import numpy
import pytest

SIZE = 1 << 20  # elements of 8 bytes, twice as many as the pool of these tests has room for


class Sample:
    def __init__(self, image):
        self.image = image


MAKERS = {
    "array": lambda image: image,
    "dict": lambda image: {"image": image, "label": 1},
    "nested": lambda image: [("x", {"images": [image, image[:5]]})],
    "object": Sample,
    "memoryview": memoryview,
    "not contiguous": lambda image: image.reshape(-1, 2).T[:1],
}


def image_of(value):
    """The array in what a maker returns."""
    if isinstance(value, (list, tuple)):
        return image_of(value[-1] if isinstance(value, tuple) else value[0])
    if isinstance(value, dict):
        return image_of(value["image"] if "image" in value else value["images"])
    return numpy.asarray(value.image if isinstance(value, Sample) else value)


def refused(pool, key, make, **options):
    """Ask for an object that another thread was making when this one began to wait, and that the pool had no room for."""
    makes, asks = threading.Event(), threading.Event()
    names = pool.objects._names
    original = names.ask

    def slow():
        makes.set()
        assert asks.wait(100)
        return make()

    def ask(*arguments, **more):
        asks.set()
        return original(*arguments, **more)

    other = threading.Thread(target=pool.get_or_create, args=(key, slow), kwargs=options)
    other.start()
    assert makes.wait(100)
    names.ask = ask
    try:
        return pool.get_or_create(key, make, **options)
    finally:
        del names.ask
        other.join()


def awaited(pool, key, make, **options):
    async def make_async():
        return make()

    return asyncio.run(pool.get_or_create_async(key, make_async, **options))


def plainly(pool, key, make, **options):
    return pool.get_or_create(key, make, **options)


@pytest.mark.parametrize("ask", [plainly, awaited, refused])
@pytest.mark.parametrize("name", MAKERS)
def test_what_is_written_only_the_caller_sees(pool, ask, name):
    image = numpy.arange(SIZE, dtype="i8")
    for _ in range(2):
        found = image_of(ask(pool, name, lambda: MAKERS[name](image), writable="copy"))
        assert found.flags.writeable and found.ravel()[1] in (1, 2) and found.size in (SIZE, SIZE // 2)
        found += 7
        assert image[0] == 0 and image[2] == 2
    assert pool.get(name) is None and pool.stat().pins == 0


@pytest.mark.parametrize("ask", [plainly, awaited, refused])
@pytest.mark.parametrize("name", MAKERS)
def test_what_is_not_to_be_written_is_read_only(pool, ask, name):
    image = numpy.arange(SIZE, dtype="i8")
    found = image_of(ask(pool, name, lambda: MAKERS[name](image)))
    assert not found.flags.writeable and not numpy.shares_memory(found, image)


def test_it_is_not_kept_where_all_is_pinned(pool):
    pins = []
    while pool.stat().pins == len(pins):
        pins.append(pool.get_or_create(f"pin {len(pins)}", lambda: numpy.zeros(60_000, "u1")))
    sample = {"image": numpy.zeros(60_000, "u1")}
    pool.get_or_create("sample", lambda: sample, writable="copy")["image"][:] = 1
    assert pool.get("sample") is None and not sample["image"].any()


def test_bytes_are_what_was_made(pool):
    content = bytes(range(256)) * (SIZE // 32)
    for options in ({}, {"writable": "copy"}):
        assert pool.get_or_create("bytes", lambda: content, **options) == content


@pytest.mark.parametrize("ask", [plainly, awaited])
def test_the_maker_gets_small_arrays_as_all_others_do(pool, ask):
    """They are in their names, behind heads of any length."""
    for n, kind in enumerate(["f8", "i4", "c16", "u1", ">f8", "f2"]):
        for options in ({}, {"writable": "copy"}):
            for _ in range(2):  # made, then found
                found = ask(pool, f"{n} {options}", lambda kind=kind: numpy.arange(6, dtype=kind), **options)
                assert found.flags.aligned and found.flags.writeable == bool(options) and found[5] == 5
