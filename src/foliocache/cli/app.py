"""The list of commands, and what is done about their errors.

A command's module is imported when the command runs, so that ``foliocache --help`` does not wait for all of them. A command
returns its exit code, or None for 0. Every error becomes one line on stderr and an exit code of ``exits``.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import NoReturn

from cyclopts import App, CycloptsError, Parameter

from foliocache import FoliocacheError
from foliocache.cli import exits
from foliocache.cli.output import complain, finish, one_line, printable, trace

HELP = "The Linux page cache for anything Python can read, shared by all the Python processes of a machine."
EPILOGUE = f"Exit codes: {', '.join(f'{code} {meaning}' for code, meaning in exits.MEANINGS.items())}."
COMMANDS = {  # name -> function, summary
    "demo": ("foliocache.cli.demo.demo:demo", "Show what the cache saves, on real files over real HTTP."),
    "warm": ("foliocache.cli.warm:warm", "Read files into a pool, so that the first reader finds them there."),
    "stat": ("foliocache.cli.stat:stat", "Show a pool's sizes, pages by state, hits and misses, and its clients."),
    "ls": ("foliocache.cli.ls:ls", "List the objects in a pool: how much of each is cached, and its pins."),
    "explain": ("foliocache.cli.explain:explain", "Show what would happen on a read of a URL, and why."),
    "top": ("foliocache.cli.top:top", "Show what pools do, live: hits, reads, what is being filled, objects and processes."),
    "serve": ("foliocache.cli.serve:serve", "Serve a page that shows pools, live, until Ctrl-C."),
    "metrics": (
        "foliocache.cli.metrics:metrics",
        "Print the metrics of pools as OpenMetrics text, or serve them to Prometheus.",
    ),
    "fsck": ("foliocache.cli.fsck:fsck", "Check a whole pool, and report what is wrong in it."),
    "trim": ("foliocache.cli.trim:trim", "Give memory of a pool back to the kernel."),
    "resize": ("foliocache.cli.trim:resize", "Change how much memory a pool may take for its pages."),
    "rm": ("foliocache.cli.rm:rm", "Remove a pool."),
    "tier": ("foliocache.cli.tier:tier", "Look at a tier on a disk, check it, or remove it."),
    "verify": ("foliocache.cli.verify:verify", "Check the shipped core with the model checker."),
}


def run(argv: Sequence[str] | None = None) -> int:
    """Run a command line, this process's own if ``argv`` is None. Return its exit code."""
    return guarded(lambda: _call(sys.argv[1:] if argv is None else list(argv)))


def guarded(work: Callable[[], int]) -> int:
    """Call ``work`` as a command: an error becomes one line on stderr, and SIGTERM raises an exception.

    Parameters
    ----------
    work
        The command; it returns an exit code.

    Returns
    -------
    int
        What ``work`` returns, or the exit code of its error.
    """
    signal.signal(signal.SIGTERM, _terminate)
    printable((sys.stdout, sys.stderr))
    try:
        return work()
    except (CycloptsError, exits.UsageError) as error:
        return _refuse(exits.USAGE, error)
    except KeyboardInterrupt:
        return _refuse(exits.INTERRUPTED, Exception("interrupted"))
    except exits.Terminated:
        return _refuse(exits.TERMINATED, Exception("terminated"))
    except BrokenPipeError:
        with contextlib.suppress(OSError):
            finish(sys.stdout)
        return exits.OK  # the reader of the output has seen enough
    except SystemExit:
        return exits.OK  # rich raises it for a broken pipe while cyclopts prints help with it
    except (exits.CommandError, OSError) as error:
        return _refuse(exits.FAILED, error)
    except Exception:  # the interpreter's own exit code for this is 1, which a script would take for an answer
        trace()
        return exits.BUG


def finished(work: Callable[[], int | None]) -> int:
    """Call ``work`` and flush its output.

    Parameters
    ----------
    work
        The command; it returns an exit code, or None for 0.

    Returns
    -------
    int
        The exit code.

    Raises
    ------
    CommandError
        In place of an error of the library.
    """
    try:
        code = work() or exits.OK
        finish(sys.stdout)
    except FoliocacheError as error:
        raise exits.CommandError(one_line(error)) from error
    return code


def _call(argv: list[str]) -> int:
    """Parse a command line and run its command. Return the exit code."""
    command, bound, _ = _app().parse_args(argv, exit_on_error=False, print_error=False, help_on_error=False)
    return finished(lambda: command(*bound.args, **bound.kwargs))


def _app() -> App:
    """Return the parser. It imports no command."""
    app = App(
        name="foliocache",
        help=HELP,
        help_epilogue=EPILOGUE,
        help_format="plaintext",
        version=_version,
        suppress_keyboard_interrupt=False,
        default_parameter=Parameter(negative=()),
    )
    for place, (name, (function, summary)) in enumerate(COMMANDS.items()):
        app.command(function, name=name, help=summary, sort_key=place)
    return app


def _version() -> str:
    """Return the version of the installed distribution."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("foliocache")
    except PackageNotFoundError:
        return "not installed"


def _terminate(signum: int, frame: FrameType | None) -> NoReturn:
    """Unwind the stack at SIGTERM, as Ctrl-C does."""
    raise exits.Terminated(exits.TERMINATED)


def _refuse(code: int, error: BaseException) -> int:
    """Print the error on stderr, and return the code."""
    complain(one_line(error))
    return code
