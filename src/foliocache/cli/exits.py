"""Exit codes, and the errors of a command that are not the library's own.

A script must be able to tell "the answer is no" (a damaged pool, a wrong byte) from "there is no answer" (no such pool, no
such host), because only the first says anything about the data. Hence 1 and 3 are two codes.
"""

from __future__ import annotations

from foliocache.cli.output import shown

OK = 0
FOUND = 1  # the command did its work, and what it looked for is there: findings, wrong bytes, a counterexample
USAGE = 2  # the command line makes no sense
FAILED = 3  # the work could not be done; stderr says why in one line
BUG = 70  # an error that nobody expected; the traceback is on stderr
INTERRUPTED = 130  # SIGINT
TERMINATED = 143  # SIGTERM


class CommandError(Exception):
    """A command cannot go on, for a reason that the user can do something about; the message is the line on stderr."""


class Terminated(SystemExit):
    """SIGTERM, as an exception, so that it unwinds through the same clean-up as Ctrl-C."""


def one_line(error: BaseException) -> str:
    """What an error says, on one line and harmless; its type's name where it says nothing."""
    return shown(str(error).strip()) or type(error).__name__
