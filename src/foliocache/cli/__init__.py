"""The command line.

This file imports no more than it must: the demo's workers are spawned, so each of them imports the program that started it
again, and what this file imports would be counted in the memory of every worker.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from foliocache.cli import exits


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line.

    Parameters
    ----------
    argv
        The arguments after the program's name; those of this process if None.

    Returns
    -------
    int
        The exit code, one of :mod:`foliocache.cli.exits`.
    """
    try:
        from foliocache.cli.app import run

        return run(argv)
    except ImportError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "foliocache"):
            raise
        install = 'pip install "foliocache[cli]"'
        print(f"foliocache: the command line needs {missing}, which is missing or too old: {install}", file=sys.stderr)
        return exits.FAILED
    except KeyboardInterrupt:
        return exits.INTERRUPTED  # while the parser was being imported, or a second one while the first was answered
