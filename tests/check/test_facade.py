"""The facade has three implementations: atomics.h, facade_threads, facade_model. All three have the same names."""

import re

import pytest

from foliocache.check import facade_model, facade_threads
from foliocache.check.scenarios import CORE

PXD = CORE / "atomics.pxd"


def declared():
    return set(re.findall(r'^    \w+ (\w+) "fc_\w+" \(', PXD.read_text(), re.MULTILINE))


def test_the_declaration_is_read():
    assert {"npages", "load_acquire", "fetch_sub_release", "cmpxchg_acquire", "futex_wait", "now_ns"} <= declared()


@pytest.mark.parametrize("body", [facade_threads, facade_model])
def test_every_declared_name_exists(body):
    missing = {name for name in declared() if not callable(getattr(body, name, None))}
    assert not missing


@pytest.mark.parametrize("body", [facade_threads, facade_model])
def test_nothing_else_can_be_called(body):
    """A core that used another name would run under the checker and not compile."""
    own = {name for name, thing in vars(body).items() if callable(thing) and not name.startswith("_") and name.islower()}
    assert own <= declared() | {"sleepers"}
