"""The tests run with the core that their fixture names."""

from world import MODULES


def test_the_world_is_the_one_it_is_called(world):
    for module in MODULES:
        file = getattr(world, module).__file__
        if module == "layout":
            assert file.endswith("layout.py")
        else:
            assert file.endswith(".so") == world.compiled and file.endswith(".py") != world.compiled


def test_worlds_share_no_module(world):
    for module in ("page_ref", "xarray", "filemap"):
        assert getattr(world, module).__name__.startswith("foliocache.mm.") == world.compiled


def test_calls_without_the_gil_do_the_same(segment):
    segment.write(segment.at(3), 5)
    assert segment.unlocked.page_ref.try_get(segment.at(3)) == segment.layout.GOT
    assert segment.page_ref.count(segment.at(3)) == 6
