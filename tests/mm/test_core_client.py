"""client: the slot of a client in the core, and its counters."""

import pytest


@pytest.mark.parametrize("me", [0, 3])
def test_slots_lie_in_a_row(segment, me):
    assert segment.client.slot(me) == segment.shape["clients"] + me * segment.layout.CLIENT_SIZE


def test_counters(segment):
    layout, before = segment.layout, bytes(segment.buffer)
    numbers = [getattr(layout, f"COUNT_{name.upper()}") for name in layout.COUNTERS]
    assert numbers == list(range(len(numbers)))
    for number in numbers:
        segment.client.count(2, number, 1 << 40)
        segment.client.count(2, number, number)
    start = segment.client.slot(2) + layout.CLIENT_COUNTERS
    assert [segment.read64(start + number * 8) for number in numbers] == [(1 << 40) + number for number in numbers]
    assert bytes(segment.buffer[:start]) == before[:start]
    assert bytes(segment.buffer[start + len(numbers) * 8 :]) == before[start + len(numbers) * 8 :]


def test_counters_end_before_the_ledger(world):
    assert world.layout.CLIENT_COUNTERS + 8 * len(world.layout.COUNTERS) <= world.layout.CLIENT_LEDGER
