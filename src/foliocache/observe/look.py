"""What the core's audit says of a pool's memory, as records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..mm import audit
from .records import Finding, ObjectInfo

if TYPE_CHECKING:
    from ..mm.atomics import Memory


def findings(memory: Memory) -> list[Finding]:
    """Return all that does not agree; nothing in a sound segment in which no operation is under way."""
    return [Finding(**found) for found in audit.audit(memory)]


def objects(memory: Memory) -> list[ObjectInfo]:
    """Return the cached objects."""
    return [ObjectInfo(**found) for found in audit.mappings(memory)]
