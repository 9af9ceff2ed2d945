"""What the core's audit says of a pool's objects, as records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..mm import audit
from .records import ObjectInfo

if TYPE_CHECKING:
    from ..mm.atomics import Memory


def objects(memory: Memory) -> list[ObjectInfo]:
    """Return the cached objects."""
    return [ObjectInfo(**found) for found in audit.mappings(memory)]
