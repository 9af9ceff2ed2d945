"""Client slots get memory one after the other, in both worlds."""

import errno

import pytest


def test_slots_get_memory_up_to_the_last(segment):
    segment.write(segment.layout.SLOTS_BACKED, 1)
    assert [segment.backing.back_slot() for _ in range(4)] == [True, True, True, False]
    assert segment.read(segment.layout.SLOTS_BACKED) == segment.shape["nclients"] == 4


def test_a_slot_without_memory_is_not_counted(segment):
    if segment.world.compiled:
        pytest.skip("plain memory is always given")
    segment.write(segment.layout.SLOTS_BACKED, 1)
    segment.memory.full = errno.ENOSPC
    assert not segment.backing.back_slot()
    assert segment.read(segment.layout.SLOTS_BACKED) == 1


def test_a_slot_that_another_has_given_memory_stays(segments, between):
    segment = segments()
    if segment.world.compiled:
        pytest.skip("the compiled core's steps cannot be stopped")
    segment.write(segment.layout.SLOTS_BACKED, 1)
    with between(segment, "cmpxchg_release", lambda: segment.write(segment.layout.SLOTS_BACKED, 3)):
        assert segment.backing.back_slot()
    assert segment.read(segment.layout.SLOTS_BACKED) == 3


@pytest.mark.parametrize("said", [5, 1 << 31])
def test_a_number_that_is_too_large_counts_to_the_last(segment, said):
    segment.write(segment.layout.SLOTS_BACKED, said)
    assert not segment.backing.back_slot()
    assert not segment.client.is_alive(4)
