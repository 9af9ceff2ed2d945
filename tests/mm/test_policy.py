"""Hit ratios of lru's policy on generated traces, each with its seed. benchmarks/eviction has longer traces and other
policies."""

import random
from collections import OrderedDict
from itertools import accumulate

import pytest
import world as worlds
from world import ME

POOL = 400
NIL = 0xFFFFFFFF
VERSION = 1 << 32


@pytest.fixture(scope="module")
def world():
    """The compiled core only: a trace takes too long interpreted; test_lru has every step."""
    return worlds.compiled()


class Cache:
    """A pool of POOL pages; ``keys`` are pages of one object, or objects of a page each."""

    def __init__(self, world, objects=False):
        self.segment = worlds.Segment(world, POOL)
        self.objects = objects
        self.folios = 1 if objects else 1 << 18
        self.inos = {}

    def place(self, key):
        """ino and index; an object's record goes with its last folio, and its ino with that."""
        name, index = (self.name(key), 0) if self.objects else (1, key)
        return self.segment.open(name, folios=self.folios), index

    def name(self, key):
        """An object's identity: the upper half is its key's."""
        return (key + 1) * VERSION + key + 1

    def use(self, key):
        """Return True for a hit."""
        segment = self.segment
        ino, index = self.place(key)
        pfn = segment.find(ino, index, self.folios)
        hit = pfn != NIL
        if hit:
            segment.flags.mark_referenced(segment.at(pfn), segment.flags.load(segment.at(pfn)))
        else:
            pfn = segment.add(self.missed(key, ino), index)
        segment.folio.put(ME, pfn)
        return hit

    def missed(self, key, ino):
        """The ino of the object that is filled."""
        return ino

    def hits(self, keys):
        return sum(self.use(key) for key in keys) / len(keys)

    def cached(self):
        return self.segment.lru.cached()


class Made(Cache):
    """Objects of a page each, as Python objects are kept: what was evicted is recreated, at another version."""

    def __init__(self, world):
        super().__init__(world, objects=True)
        self.versions, self.made = {}, 0

    def name(self, key):
        return (key + 1) * VERSION + self.versions.get(key, 0)

    def missed(self, key, ino):
        self.segment.mapping.release(ME, ino)
        self.made += 1
        self.versions[key] = self.made
        return self.place(key)[0]


class Parted(Made):
    """As Made, but of two folios, of 4 pages and of one. A part alone is no hit; it is dropped when the object is recreated."""

    PAGES = 5
    parts = ((0, 2), (4, 0))  # index and span

    def __init__(self, world):
        super().__init__(world)
        self.folios = 8

    def name(self, key):
        return super().name(key) | 1 << self.segment.layout.WHOLE_SHIFT

    def use(self, key):
        segment = self.segment
        ino, _ = self.place(key)
        found = [segment.find(ino, index, self.folios) for index, _ in self.parts]
        hit = NIL not in found
        if not hit:
            self.put(found)
            segment.filemap.truncate(ME, ino, self.folios - 1)
            ino = self.missed(key, ino)
            found = [segment.filemap.grab(ME, ino, index, 0, span, worlds.BYTES) & NIL for index, span in self.parts]
        for pfn in found:
            if hit:
                segment.flags.mark_referenced(segment.at(pfn), segment.flags.load(segment.at(pfn)))
            else:
                segment.filemap.complete(ME, pfn)
        self.put(found)
        return hit

    def put(self, pfns):
        for pfn in pfns:
            if pfn != NIL:
                self.segment.folio.put(ME, pfn)


def lru_hits(keys, pages):
    cached, hits = OrderedDict(), 0
    for key in keys:
        if key in cached:
            hits += 1
            cached.move_to_end(key)
        else:
            if len(cached) >= pages:
                cached.popitem(last=False)
            cached[key] = None
    return hits / len(keys)


def zipf(rng, keys, alpha, count):
    weights = list(accumulate(1 / rank**alpha for rank in range(1, keys + 1)))
    return rng.choices(rng.sample(range(keys), keys), cum_weights=weights, k=count)


def epochs(rng, keys, count):
    return [key for _ in range(count) for key in rng.sample(range(keys), keys)]


@pytest.mark.parametrize("objects", [False, True], ids=["one object", "objects of a page"])
@pytest.mark.parametrize("percent", [25, 50, 80])
def test_shuffled_epochs_keep_a_stable_part(world, percent, objects):
    """LRU has almost no hits. An object of one page loses its record with the page, and its ghost is found nevertheless."""
    cache = Cache(world, objects)
    data = POOL * 100 // percent
    trace = epochs(random.Random(percent), data, 8)
    cache.hits(trace[:data])
    assert cache.hits(trace[data:]) >= 0.9 * cache.cached() / data


@pytest.mark.parametrize("percent", [25, 50, 80])
def test_a_loop_keeps_a_stable_part(world, percent):
    cache = Cache(world)
    data = POOL * 100 // percent
    cache.hits(range(data))
    assert cache.hits(list(range(data)) * 7) >= 0.85 * cache.cached() / data
    assert lru_hits(list(range(data)) * 7, POOL) == 0


def test_epochs_again_after_another_set(world):
    """The stable part of the first set makes room for one of the second."""
    cache, rng = Cache(world), random.Random(5)
    cache.hits(epochs(rng, 800, 6))
    cache.hits([key + 10000 for key in epochs(rng, 800, 6)])
    assert cache.hits([key + 10000 for key in epochs(rng, 800, 4)]) >= 0.8 * cache.cached() / 800


@pytest.mark.parametrize("kind", [Cache, Made])
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_new_set_in_a_full_pool_is_kept(world, kind, share):
    """Each of an earlier set was read three times. Objects that are recreated at another version are known by their keys."""
    cache, new = kind(world), [key + 10000 for key in range(int(POOL * share))]
    cache.hits(list(range(350)) * 3)
    cache.hits(new * 5)
    assert cache.hits(new * 2) == 1


def test_an_object_that_is_made_again_is_as_one_that_is_read_again(world):
    rng = random.Random(11)
    trace = zipf(rng, 4 * POOL, 0.9, 8000) + epochs(rng, 600, 5)
    assert Made(world).hits(trace) == Cache(world, objects=True).hits(trace)


@pytest.mark.parametrize("percent", [50, 80])
def test_shuffled_epochs_over_what_is_made_again_keep_a_stable_part(world, percent):
    cache, data = Made(world), POOL * 100 // percent
    trace = epochs(random.Random(percent), data, 8)
    cache.hits(trace[:data])
    assert cache.hits(trace[data:]) >= 0.9 * cache.cached() / data


@pytest.mark.parametrize("percent", [50, 80])
def test_shuffled_epochs_over_objects_of_several_folios_keep_whole_ones(world, percent):
    cache, data = Parted(world), POOL // Parted.PAGES * 100 // percent
    trace = epochs(random.Random(percent), data, 8)
    cache.hits(trace[: 2 * data])
    assert cache.hits(trace[2 * data :]) >= 0.9 * cache.cached() / Parted.PAGES / data


@pytest.mark.parametrize("alpha", [0.7, 0.9, 1.1])
def test_zipf_is_far_above_lru(world, alpha):
    trace = zipf(random.Random(7), 10 * POOL, alpha, 30000)
    assert Cache(world).hits(trace) >= lru_hits(trace, POOL) + {0.7: 0.07, 0.9: 0.06, 1.1: 0.03}[alpha]


def test_a_scan_leaves_the_working_set_alone(world):
    """Ten pools' worth of pages are read once, and the working set stays."""
    cache, rng = Cache(world), random.Random(8)
    hot = zipf(rng, 200, 0.5, 4000)
    cache.hits(hot)
    cache.hits(range(1000, 1000 + 10 * POOL))
    assert cache.hits(hot[:400]) >= 0.9


def test_what_is_popular_changes(world):
    """Formerly popular pages do not keep popular ones out: no worse than LRU, which has no memory of them."""
    cache, rng = Cache(world), random.Random(9)
    parts = [[key + n * 10000 for key in zipf(rng, 10 * POOL, 0.9, 15000)] for n in range(4)]
    trace = [key for part in parts for key in part]
    assert cache.hits(trace) >= lru_hits(trace, POOL)


def test_recency_is_served(world):
    """Each page is used a few times within half a pool, and then never again: LRU's best case, and LRU gets five pages more."""
    rng = random.Random(10)
    trace = [max(at // 8 - int(rng.expovariate(1 / (POOL * 0.3))), 0) for at in range(40000)]
    assert Cache(world).hits(trace) >= 0.97 * lru_hits(trace, POOL)
