"""How much is measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


@dataclass(frozen=True)
class Plan:
    """Sizes and counts, and what the command line chooses.

    ``only`` is a group of ``core``, ``seeds`` and ``traces`` are of ``eviction``, ``huge`` is a folder for ``growth``,
    ``machine`` lets the hog of ``memory`` take most of all memory, and that alone.
    """

    rounds: int = 11
    values: int = 1024
    hits: int = 16384
    pairs: int = 1_000_000
    grown: int = 100_000
    attach_bytes: int = 1 * GIB
    fill_bytes: int = 64 * MIB
    policy_pages: int = 2048
    epochs: int = 9
    is_tiny: bool = False
    only: str | None = None
    seeds: tuple[int, ...] = (1,)
    traces: tuple[Path, ...] = ()
    huge: Path | None = None
    machine: bool = False

    @classmethod
    def tiny(cls, **chosen: Any) -> Plan:
        """Return a plan for tests: it gives every figure, none of them meaningful."""
        small: dict[str, Any] = {
            "rounds": 1,
            "values": 32,
            "hits": 64,
            "pairs": 1000,
            "grown": 1200,
            "attach_bytes": 4 * MIB,
            "fill_bytes": 4 * MIB,
            "policy_pages": 128,
            "epochs": 2,
        }
        return cls(**small, is_tiny=True, **chosen)

    def of(self, real: Any, tiny: Any) -> Any:
        """Return the full or the tiny size."""
        return tiny if self.is_tiny else real
