"""The source around a source: what a mapping's misses are filled by, if its pool has tiers.

The tiers are asked in their order, each for what those before it did not have, and the source for the rest. What a tier did not
have is queued for it as soon as it is there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..filler.source import way_of
from .around_base import Around, Given
from .around_loops import Awaited
from .around_threads import Blocking
from .guard import Account, Guard

if TYPE_CHECKING:
    from ..filler.engine import Engine


def around(
    guards: Sequence[Guard],
    digest: bytes,
    key: str,
    engine: Callable[[], Engine],
    given: Given,
    account: Account | None = None,
) -> Around:
    """Return the source that asks tiers before it asks the source ``given``: read, readinto, source.

    Parameters
    ----------
    guards
        The tiers, the nearest first.
    digest
        The object at its version.
    key
        Its name, for messages.
    engine
        Returns the threads in which tiers are called for event loops.
    given
        As `Pool.mapping` is given them; one of them is not None.
    account
        Where the pool counts what tiers and source do.
    """
    read, readinto, source = given
    if way_of(read, readinto, source) is None:
        return Blocking(guards, digest, key, engine, given, account)
    if source is not None and hasattr(source, "read_into"):
        return Either(guards, digest, key, engine, given, account)
    return Awaited(guards, digest, key, engine, given, account)


class Either(Blocking, Awaited):
    """Around a source for both."""
