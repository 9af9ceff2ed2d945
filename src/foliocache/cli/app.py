"""Which commands there are, and what becomes of their errors.

Commands are named here and imported when they are run, so ``foliocache --help`` loads neither the cache nor a network
library. Every command returns its exit code or None; every error becomes one line on stderr and a code of ``exits``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from cyclopts import App, CycloptsError, Parameter

from foliocache.cli import exits
from foliocache.cli.output import complain, finish, printable, trace

HELP = "The Linux page cache for anything Python can read, shared by all the Python processes of a machine."
EPILOGUE = (
    "Exit codes: 0 done, 1 findings or wrong bytes, 2 wrong usage, 3 it could not be done, 70 a bug, 130 Ctrl-C, 143 SIGTERM."
)
COMMANDS = {
    "demo": ("foliocache.cli.demo:demo", "Show what the cache saves, on real files over real HTTP."),
    "warm": ("foliocache.cli.warm:warm", "Read files into a pool, so that the first reader finds them there."),
    "stat": ("foliocache.cli.pools:stat", "A pool's sizes, pages by state, hits and misses, and who is attached."),
    "ls": ("foliocache.cli.pools:ls", "The objects in a pool: how much of each is cached, and its pins."),
    "fsck": ("foliocache.cli.pools:fsck", "Walk a whole pool and say what is wrong in it."),
    "rm": ("foliocache.cli.pools:rm", "Remove a pool."),
    "verify": ("foliocache.cli.verify:verify", "Check the shipped core with the model checker."),
}


def version() -> str:
    """The version of the distribution that is installed."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("foliocache")
    except PackageNotFoundError:
        return "not installed"


def build() -> App:
    """The command line, with nothing imported but the parser."""
    app = App(
        name="foliocache",
        help=HELP,
        help_epilogue=EPILOGUE,
        help_format="plaintext",
        version=version,
        suppress_keyboard_interrupt=False,
        default_parameter=Parameter(negative=()),
    )
    for place, (name, (target, summary)) in enumerate(COMMANDS.items()):
        if importlib.util.find_spec(target.partition(":")[0]):
            app.command(target, name=name, help=summary, sort_key=place)
    return app


def terminate(signum: int, frame: object) -> NoReturn:
    """SIGTERM unwinds the stack like Ctrl-C does."""
    raise exits.Terminated(exits.TERMINATED)


def refuse(code: int, error: BaseException) -> int:
    """Say why on stderr and return the code."""
    complain(exits.one_line(error))
    return code


def run(argv: Sequence[str] | None = None) -> int:
    """Run one command line; its exit code."""
    return guarded(lambda: call(sys.argv[1:] if argv is None else list(argv)))


def guarded(work: Callable[[], int]) -> int:
    """What the work returns; the exit code of its error, which is said on stderr, if it raises one."""
    signal.signal(signal.SIGTERM, terminate)
    printable((sys.stdout, sys.stderr))
    try:
        return work()
    except CycloptsError as error:
        return refuse(exits.USAGE, error)
    except KeyboardInterrupt:
        return refuse(exits.INTERRUPTED, Exception("interrupted"))
    except exits.Terminated:
        return refuse(exits.TERMINATED, Exception("terminated"))
    except BrokenPipeError:
        with contextlib.suppress(OSError):
            finish(sys.stdout)
        return exits.OK  # the reader has seen enough
    except SystemExit:
        return exits.OK  # what rich makes of the same while cyclopts prints help with it
    except (exits.CommandError, OSError) as error:
        return refuse(exits.FAILED, error)
    except Exception:  # Python's own code for this is 1, which a script would take for an answer
        trace()
        return exits.BUG


def call(argv: list[str]) -> int:
    """Parse and run."""
    command, bound, _ = build().parse_args(argv, exit_on_error=False, print_error=False, help_on_error=False)
    return finished(lambda: command(*bound.args, **bound.kwargs))


def finished(work: Callable[[], int | None]) -> int:
    """Run to the end, output included; the exit code. The library's own errors become a CommandError."""
    try:
        code = work() or exits.OK
        finish(sys.stdout)
        return code
    except Exception as error:
        from foliocache import FoliocacheError  # here, because --help needs no compiled core

        if not isinstance(error, FoliocacheError):
            raise
        raise exits.CommandError(exits.one_line(error)) from error
