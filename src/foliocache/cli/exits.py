"""Exit codes, and the errors of a command that are not the library's own.

A script must be able to tell "the answer is no" (a damaged pool, a wrong byte) from "there is no answer" (no such pool, no such
host), because only the first says anything about the data. So 1 and 3 are different codes.
"""

from __future__ import annotations

OK = 0
FOUND = 1
USAGE = 2
FAILED = 3
BUG = 70
INTERRUPTED = 130
TERMINATED = 143
MEANINGS = {
    OK: "done",
    FOUND: "findings, wrong bytes or a violation",
    USAGE: "wrong usage",
    FAILED: "it could not be done",
    BUG: "a bug",
    INTERRUPTED: "Ctrl-C",
    TERMINATED: "SIGTERM",
}


class CommandError(Exception):
    """A command cannot go on, for a reason that the user can change. The message is the line on stderr."""


class UsageError(CommandError):
    """An option's value is one that no pool or file could have: wrong usage."""


class Terminated(SystemExit):
    """SIGTERM as an exception, so that it unwinds through the same clean-up as Ctrl-C."""
