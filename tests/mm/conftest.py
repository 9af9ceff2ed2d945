"""Fixtures: the compiled and the interpreted core, and makers of segments for them."""

import contextlib
import functools
import os
import shlex
import shutil
import subprocess
import sysconfig

import pytest
import world as worlds
from hypothesis import HealthCheck, Phase, settings

settings.register_profile("mm", deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
# For python -m foliocache.check.mutate: the same examples for each mutant, and the first that fails is enough.
settings.register_profile(
    "mutants", settings.get_profile("mm"), derandomize=True, database=None, phases=[Phase.explicit, Phase.generate]
)
settings.load_profile("mm")


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """``library(source, *options)`` compiles C as a shared library, and returns its path. Skips where there is no compiler.

    The compiler is that of ``CC``, with its options, as in a build; else the one that Python was built with.
    """
    compiler = shlex.split(os.environ.get("CC", "")) or (sysconfig.get_config_var("CC") or "cc").split()[:1]

    def library(source, *options):
        if not shutil.which(compiler[0]):
            pytest.skip(f"no C compiler ({compiler[0]})")
        folder = tmp_path_factory.mktemp("library")
        (folder / "source.c").write_text(source)
        command = [*compiler, "-shared", "-fPIC", "-O2", "-Wall", "-Werror", *options]
        subprocess.run([*command, "-o", folder / "library.so", folder / "source.c"], check=True, timeout=120)
        return folder / "library.so"

    return library


@pytest.fixture(params=["compiled", "interpreted"])
def world(request):
    """The core, compiled and interpreted."""
    return getattr(worlds, request.param)()


@pytest.fixture(params=["compiled", "interpreted", "small_nodes"])
def tree_world(request):
    """As world, and once more with 4 slots to a node."""
    return getattr(worlds, request.param)()


@pytest.fixture
def segments(world):
    """Makes segments: ``segments(pages=64, page_size=4096, clients=4)``."""
    return functools.partial(worlds.Segment, world)


@pytest.fixture
def segment(segments):
    """A segment of 64 pages of 4 KiB."""
    return segments()


@pytest.fixture
def between(monkeypatch):
    """``with between(segment, "cmpxchg_acquire", action)``: do action right before that step happens the first time.

    In the interpreted world only; the compiled core's steps cannot be stopped.
    """

    @contextlib.contextmanager
    def between(segment, name, action):
        assert not segment.world.compiled
        original, done = getattr(segment.world.atomics, name), []

        def step(*args):
            if not done:
                done.append(True)
                action()
            return original(*args)

        with monkeypatch.context() as patch:
            patch.setattr(segment.world.atomics, name, step)
            yield
        assert done, f"{name} was never reached"

    return between
