"""The scenarios of the protocol, on the shipped core (``foliocache/mm``).

Every module here is imported by :func:`load_all`; a new one need not be listed anywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..scenario import Suite, load_suite
from .fixtures import CORE, poison, show, touch

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..scenario import Build, Scenario

SUITE = Suite(CORE, {"poison": poison, "touch": touch}, show)
scenario: Callable[..., Callable[[Build], Build]] = SUITE.scenario


def load_all() -> dict[str, Scenario]:
    """Return every scenario, by name."""
    return load_suite(__name__).scenarios
