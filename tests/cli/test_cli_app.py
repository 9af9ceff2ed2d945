"""Parsing, help, and errors that do not come from a command."""

from __future__ import annotations

import inspect
import pkgutil
import re
import subprocess
import sys

import pytest
from cli_command import LIMIT, environment

from foliocache.cli import exits
from foliocache.cli.app import COMMANDS


def test_help_names_every_command_and_the_exit_codes(cli):
    done = cli("--help")
    assert done.code == 0
    told = " ".join(done.out.split())
    assert [name for name in COMMANDS if f" {name} " not in told] == []
    assert [code for code, meaning in exits.MEANINGS.items() if f" {code} {meaning}" not in told] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_the_summary_of_a_command_is_that_of_its_function(name):
    place, summary = COMMANDS[name]
    assert inspect.getdoc(pkgutil.resolve_name(place)).splitlines()[0] == summary


def test_no_command_is_help(cli):
    assert cli().out == cli("--help").out


def test_help_and_workers_import_nothing_heavy():
    code = "import sys; sys.argv[1:] = ['--help']; from foliocache.cli import main; main()\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True, timeout=LIMIT
    )
    assert not {"fsspec", "aiohttp", "numpy", "pandas"} & set(done.stdout.rpartition("\n\n")[2].split())
    code = "import foliocache.cli.demo.worker, sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True, timeout=LIMIT
    )
    assert not {"rich", "cyclopts", "numpy", "pandas", "http.server"} & set(done.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stat", "--bad"], "Unknown option"),
        (["nothing"], "Unknown command"),
        (["bench"], "Unknown command"),
        (["rm"], "NAME"),
        (["warm"], "URL"),
        (["demo", "--workers", "0"], "--workers"),
        (["demo", "--sample", "1.5"], "--sample"),
        (["demo", "--latency", "soon"], "--latency"),
        (["demo", "--latency", "inf"], "--latency"),
        (["demo", "--latency", "nan"], "--latency"),
        (["demo", "--sample", "nan"], "--sample"),
        (["top", "--interval", "nan"], "--interval"),
        (["warm", ""], "an empty URL"),
        (["explain", "folio::"], "an empty URL"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(cli, arguments, message):
    done = cli(*arguments)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert done.err.startswith("foliocache: ")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("package", ["cyclopts", "cyclopts.exceptions"])
def test_without_the_extra_it_says_what_to_install(package):
    code = f"import sys\nsys.modules[{package!r}] = None\nfrom foliocache.cli import main\nraise SystemExit(main(['ls']))"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=LIMIT)
    wanted = 'foliocache: the command line needs cyclopts, which is missing or too old: pip install "foliocache[cli]"\n'
    assert (done.returncode, done.stdout, done.stderr) == (3, "", wanted)


def test_a_bug_is_a_traceback_and_a_code_of_its_own():
    code = "import foliocache\nfoliocache.attach = None\nfrom foliocache.cli import main\nraise SystemExit(main(['stat']))"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=LIMIT)
    assert (done.returncode, done.stdout) == (70, "")
    assert "Traceback" in done.stderr


def test_the_demo_without_aiohttp_says_what_to_install():
    code = "import sys\nsys.modules['aiohttp'] = None\nfrom foliocache.cli import main\nraise SystemExit(main(['demo']))"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=LIMIT)
    assert (done.returncode, done.stdout) == (3, "")
    assert 'pip install "foliocache[http]"' in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["put/aab"], r"no scenario begins with 'put/aab'; did you mean put/aba.*\?"),
        (["put/aba", "zzz"], r"no scenario begins with 'zzz'; there are put, freeze, .*"),
        (["put/aba", "--model", "x86"], r"there is no memory model 'x86'; there are sc, tso, rc11"),
        (
            ["put/aba", "--mutate", "type-before-frieze"],
            r"no scenario chosen here has a bug .*; did you mean type-before-freeze.*",
        ),
        (["--mutate", "zzz"], r"no scenario chosen here has a bug 'zzz'; there are .* and \d+ others"),
    ],
)
def test_verify_says_which_name_is_wrong(cli, arguments, said):
    done = cli("verify", *arguments)
    assert done.code == 2 and re.fullmatch(f"foliocache: {said}\n", done.err)
