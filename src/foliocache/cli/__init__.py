"""The command line.

This file stays empty but for the door: the demo's workers are spawned, so every one of them imports it again (a spawned
process re-imports the program that started it), and what it imports would be counted four times in the memory shown.
"""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command in ``argv`` (the process's own arguments without one) and return its exit code."""
    try:
        from foliocache.cli.app import run

        return run(argv)
    except KeyboardInterrupt:  # while the command line was still being imported
        return 130
