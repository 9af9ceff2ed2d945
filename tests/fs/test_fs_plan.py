"""Many ranges at once: what is requested, in which order, and how far ahead of the reader."""

import threading
from types import SimpleNamespace

import pytest

from foliocache.adapters.fsspec.plan import LONG, READERS, Plan

UNIT = 10
MIB = 1 << 20
NOWHERE = SimpleNamespace(of=lambda mapping: mapping)  # results of a mapping


class Asked:
    """A mapping, and at the same time its filler: it notes which runs of units are requested."""

    def __init__(self, size, pool_bytes, cached=()):
        self.size, self.unit_size, self.filler = size, UNIT, self
        self.pool = SimpleNamespace(pool_bytes=pool_bytes)
        self.cached, self.runs, self.group = cached, [], None

    def is_cached(self, offset, length):
        return length == 0 or (offset, length) in self.cached

    def read_runs(self, mapping, runs, of, result):
        assert mapping is self and of * UNIT <= self.size and result is self
        self.runs += runs
        return [self.group] * len(runs)


def test_missing_ranges_are_requested_in_their_order_and_neighbours_together():
    one, two = Asked(1000, 1 << 20, cached=[(500, 10)]), Asked(95, 1 << 20)
    jobs = [
        ("one", 0, 10),
        ("one", 10, 25),
        ("two", -5, None),
        ("one", 500, 510),
        ("one", 300, 301),
        ("one", 7, 7),
        ("no", 0, 1),
    ]
    plan = Plan([*jobs, ("one", 300, 301)], {"one": one, "two": two}, NOWHERE)
    assert plan.readers == 1 and plan.cached == {("one", 500, 510), ("one", 7, 7)}
    assert (one.runs, two.runs) == ([(0, 3), (30, 31)], [(9, 10)])


def test_one_range_is_left_to_its_reader():
    only = Asked(1000, 1 << 20, cached=[(0, 10)])
    plan = Plan([("it", 0, 10), ("it", 20, 900)], {"it": only}, NOWHERE)
    plan.reach(("it", 20, 900))
    assert plan.readers == 0 and only.runs == []


def test_no_more_is_requested_than_a_part_of_the_pool_and_the_rest_when_the_reader_comes_there():
    it = Asked(8000, 4 * 100)
    jobs = [("it", at, at + 50) for at in range(0, 8000, 100)]
    plan = Plan(jobs, {"it": it}, NOWHERE)
    assert it.runs == [(0, 5), (10, 15)]
    for number, job in enumerate(jobs):
        plan.reach(job)
        assert len(it.runs) == min(number + 2, len(jobs))
    assert it.runs == [(at // UNIT, at // UNIT + 5) for _, at, _ in jobs]


def test_a_long_run_is_requested_in_pieces():
    it = Asked(8000, 4 * 100)
    jobs = [("it", at, at + 20) for at in range(0, 1000, 20)]
    plan = Plan(jobs, {"it": it}, NOWHERE)
    assert it.runs == [(0, 5), (5, 10)]
    for job in jobs:
        plan.reach(job)
    assert it.runs == [(at, at + 5) for at in range(0, 100, 5)]


def test_of_a_large_pool_pieces_are_requested_as_the_reader_goes_on():
    it = Asked(1 << 30, 256 << 20)
    jobs = [("it", at, at + MIB) for at in range(0, 256 << 20, MIB)]
    plan = Plan(jobs, {"it": it}, NOWHERE)
    assert it.runs[-1][1] * UNIT >= 64 * MIB - UNIT and len(it.runs) == 9
    for job in jobs:
        plan.reach(job)
        ahead = it.runs[-1][1] * UNIT - job[1]
        assert 64 * MIB - UNIT <= ahead + MIB < 73 * MIB or it.runs[-1][1] * UNIT >= 256 * MIB


@pytest.mark.parametrize("length", [65536, 100])
def test_scattered_ranges_are_fetched_several_at_a_time(http, origin, length):
    data = bytes(range(256)) * (1 << 14)
    url = origin.put("/many", data)
    together = threading.Barrier(4)
    starts = [(n * 37 % 60) << 16 for n in range(1, 13)]
    assert http.cat_file(url, 0, 10) == data[:10]

    asked = []

    def wait(path, headers):
        asked.append(path)
        together.wait(30)

    origin.before_get = wait
    assert http.cat_ranges([url] * 12, starts, [at + length for at in starts]) == [data[at : at + length] for at in starts]
    assert len(asked) == 12


def test_long_ranges_are_copied_by_several_threads():
    it = Asked(4 * LONG, 1 << 30)
    assert Plan([("it", 0, LONG), ("it", LONG, 2 * LONG)], {"it": it}, NOWHERE).readers == READERS > 1
    assert Plan([("it", 0, LONG), ("it", LONG, 2 * LONG - 1)], {"it": it}, NOWHERE).readers == 1


def test_long_ranges_are_those_of_the_object(http, origin):
    data = bytes(range(251)) * (1 << 14)
    url = origin.put("/long", data)
    starts = [n * 300_000 for n in (5, 1, 3, 0, 9, 2, 11, 7)]
    for _ in range(2):
        assert http.cat_ranges([url] * 8, starts, [at + LONG + 1 for at in starts], on_error="raise") == [
            data[at : at + LONG + 1] for at in starts
        ]
