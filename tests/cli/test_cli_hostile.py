"""Keys, paths and messages from outside: whatever is in them, a terminal gets printable characters only."""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
import sys
import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cli_command import LIMIT, environment, in_terminal, pattern, run

import foliocache
from foliocache.cli import output

HOSTILE = [
    "markup [/foo] [bold red]x[/bold red] [/]",
    "[link=https://example.org]link[/link]",
    "emoji :heart:",
    "colour\x1b[3;7;9mred",
    "title\x1b]0;owned\x07",
    "line\nbreak\r\x85\u2028x",
    "back\x08\x08\x7f tab\t",
    "C1 \x9b3;7;9m \x90q\x9c",
    "bidi \u202eabc\u2066\u200f",
    "undecodable \udce9\udcff",
    "half a pair \ud800",
    "null \x00 byte",
    "no-break\xa0space, zero\u200bwidth, tag \U000e0041, private \ue000, unassigned \u0378",
    "wide 漢字 😀 é \\x1b",
    "\x01" * 340,
    "long " + "ü" * 140,
    " ",
]
SGR = re.compile(rb"\x1b\[[0-9;]*m")  # a colour
CURSOR = re.compile(rb"\x1b\[(?:\?25[lh]|2?K|\d*A)|\r")  # what a progress bar does
# As a part of a command line or of a file's name.
NAMES = [name.replace("/", "|") for name in HOSTILE if not set(name) & set("\0\ud800") and len(name) < 140]
# The C locale with an encoding of its own: what it cannot say must be escaped, too.
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def harmless(data: bytes, cursor: bool = False) -> str:
    """The text that a terminal was sent; asserts that it is text, line breaks and rich's own colours."""
    text = SGR.sub(b"", data)
    assert not [found for found in SGR.findall(data) if b"3;7;9" in found], data
    text = CURSOR.sub(b"", text) if cursor else text.replace(b"\r\n", b"\n")
    decoded = text.decode()
    bad = {char for char in decoded if unicodedata.category(char)[0] in "CZ" and char not in "\n "}
    assert not bad, (bad, data)
    return decoded


def one_line(err: str) -> None:
    """Assert that it is one printable line of ours."""
    assert err.startswith("foliocache: ") and err.endswith("\n")
    assert err[:-1].isprintable(), err


@pytest.fixture
def hostile(pool_name):
    """A pool of objects with such keys and versions."""
    pool = foliocache.open(pool_name, size="8MiB")
    for key in HOSTILE:
        pool.mapping(key, 10, key[:40], read=lambda offset, length: bytes(length)).read(0, 10)
    return pool


def test_shown_is_printable_and_tells_everything_apart():
    seen = [output.shown(text) for text in HOSTILE]
    assert all(text.isprintable() for text in seen)
    assert len(set(seen)) == len(HOSTILE)
    assert [output.shown(text) for text in seen] == seen, "nothing is escaped twice"
    assert output.shown("a\x1b[1m\n\udce9\u202e😀[/b]") == "a\\x1b[1m\\n\\udce9\\u202e😀[/b]"


@pytest.mark.parametrize("locale", [{}, ASCII], ids=["utf-8", "ascii"])
@pytest.mark.parametrize("command", ["ls", "stat", "fsck"])
def test_tables_in_a_pipe(hostile, pool_name, command, locale):
    done = run(command, pool_name, **locale)
    assert (done.code, done.err) == (0, "")
    text = harmless(done.out.encode())
    if command == "ls" and not locale:
        for key in HOSTILE:
            assert re.search(rf"^{re.escape(output.shown(key))} ", text, re.MULTILINE), key
    if locale:
        assert text.isascii()


@pytest.mark.parametrize("command", ["ls", "stat", "fsck"])
def test_tables_in_a_terminal(hostile, pool_name, command):
    code, got = in_terminal(command, pool_name, COLUMNS="100", TERM="xterm-256color")
    assert code == 0, got
    text = harmless(got)
    assert max(map(len, text.splitlines())) <= 100


def test_json_can_be_read_back(hostile, pool_name):
    for locale in ({}, ASCII):
        done = run("ls", pool_name, "--json", **locale)
        assert (done.code, done.err, done.out.isascii()) == (0, "", True)
        assert sorted((each["key"], each["version"]) for each in json.loads(done.out)) == sorted((k, k[:40]) for k in HOSTILE)


def test_a_long_key_is_cut_between_characters(pool_name, cli_json):
    pool = foliocache.open(pool_name, size="8MiB")
    for text in ("ü" * 300, "x" + "ü" * 300, "漢" * 300, "y\udce9" + "\udcff" * 300, "z" * 1000):
        pool.mapping(text, 10, text, read=lambda offset, length: bytes(length)).read(0, 10)
        (found,) = [each for each in cli_json("ls", pool_name) if each["key"][:2] == text[:2]]
        assert text.startswith(found["key"]) and text.startswith(found["version"]), "no half of a character at the end"
        assert len((found["key"] + found["version"]).encode("utf-8", "surrogatepass")) > 378


def command_lines(name: str) -> list[list[str]]:
    """Wrong command lines with such a name in them."""
    return [
        [name],
        *([command, name] for command in ("stat", "ls", "fsck", "rm")),
        *(["stat", option] for option in (f"--{name}", f"-{name}")),
        *(["warm", url, "--size", "2MiB"] for url in (name, f"/none/{name}", f"http://127.0.0.1:1/{name}")),
        *(["warm", "x", option, name] for option in ("--name", "--size", "--concurrency")),
        ["demo", "--dataset", f"/none/{name}"],
        ["demo", "--size", name],
        ["verify", f"a{name}"],
        ["verify", "--mutate", name],
        ["verify", "--model", name],
        ["verify", "put/aba", "--replay", f"a{name}"],
    ]


PROGRAM = """
import json, sys
from foliocache.cli import main
for arguments in json.load(sys.stdin):
    print(f"code {main(arguments)}", file=sys.stderr, flush=True)
"""


def test_every_error_is_one_harmless_line(shared_memory):
    """All of them in one process, or starting the interpreter would take most of the time."""
    lines = [line for name in NAMES for line in command_lines(name)]
    program = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(program, input=json.dumps(lines).encode(), capture_output=True, env=environment(), timeout=LIMIT)
    told = re.findall(r"(?s)(.*?)code (\d+)\n", harmless(done.stderr))
    assert len(told) == len(lines), done.stderr
    for line, (err, code) in zip(lines, told, strict=True):
        assert code in ("2", "3"), (line, err)
        one_line(err)
    assert done.stdout == b""


def test_a_page_that_cannot_be_written(shared_memory):
    arguments = "verify", "put/aba", "--model", "sc", "--mutate", "type-before-freeze", "--html", "/none/\x1b[3;7;9m\udcff[/]"
    done = run(*arguments)
    assert done.code == 2 and done.out == "", "it is said before anything is explored"
    one_line(done.err)


@pytest.mark.parametrize("place", ["none/a.html", "", "file/a.html"])
def test_a_page_that_cannot_be_written_if_there_were_one(tmp_path, place):
    """Nothing is violated, so nothing would be written: it is said all the same."""
    (tmp_path / "file").write_text("")
    done = run("verify", "repair/drop-remove", "--model", "sc", "--html", str(tmp_path / place))
    assert done.code == 2 and done.out == ""
    one_line(done.err)


def test_a_page_that_is_not_written(tmp_path):
    scenario, page = ("repair/drop-remove", "--model", "sc"), tmp_path / "a.html"
    done = run("verify", *scenario, "--html", str(page))
    assert (done.code, done.err) == (0, f"foliocache: there is no counterexample, so {page} is not written\n")
    assert not page.exists()
    for other in (("--replay", "x"), ("--export", "herd")):
        assert run("verify", *scenario, "--html", str(page), *other).code == 2


@pytest.mark.parametrize("arguments", [["stat"], ["nothing"], ["warm", "--size", "1MiB"]], ids=lambda arguments: arguments[0])
def test_errors_in_a_terminal(arguments):
    hostile = "\x1b]0;owned\x07\x1b[3;7;9m\u202e\n\udcff"
    code, got = in_terminal(*arguments, hostile)
    assert code in (2, 3)
    one_line(harmless(got))


def test_the_folder_of_the_pools(shared_memory, pool_name):
    folder = shared_memory / "a\x1b[3;7;9m\n[bold]\udcff"
    folder.mkdir()
    place = {"FOLIOCACHE_DIR": str(folder)}
    one_line(run("stat", pool_name, **place).err)
    (folder / f"foliocache.{pool_name}").write_bytes(b"not a pool" * 100)
    for command in ("stat", "ls"):
        done = run(command, pool_name, **place)
        assert done.code == 3
        one_line(done.err)
    done = run("fsck", pool_name, **place)
    assert (done.code, "a\\x1b[3;7;9m\\n[bold]\\udcff" in harmless(done.out.encode())) == (1, True)
    assert json.loads(run("fsck", pool_name, "--json", **place).out)["clean"] is False


def test_a_bugs_traceback():
    code = (
        "import foliocache\ndef attach(name): raise RuntimeError('a\\x1b[3;7;9m\\u202e\\n\\udcff')\n"
        "foliocache.attach = attach\n"
        "from foliocache.cli import main\nraise SystemExit(main(['stat']))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, timeout=LIMIT, check=False)
    assert (done.returncode, done.stdout) == (70, b"")
    text = harmless(done.stderr)
    assert "RuntimeError: a\\x1b[3;7;9m\\u202e\n\\udcff" in text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files with such names."""
    made = tmp_path / "dataset"
    made.mkdir()
    for number, name in enumerate(NAMES):
        (made / f"{number}{name}").write_bytes(pattern(number, 5000))
    return made


def test_warm_names_the_files_of_a_folder(folder, pool_name):
    for path in folder.iterdir():
        if "\udcff" in path.name:
            path.unlink()  # whether such a name can be cached is for the adapter to say
    count = len(list(folder.iterdir()))
    done = run("warm", folder, "--name", pool_name, "--size", "8MiB")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"{count} files")
    for path in folder.iterdir():
        assert run("warm", path, "--name", pool_name).out.startswith("1 file, 4.9 KiB"), "a file that is there is no pattern"
        break
    code, got = in_terminal("warm", folder, "--name", pool_name, TERM="xterm")
    assert code == 0
    assert f"{count} files" in harmless(got, cursor=True)


def test_warm_takes_a_local_name_before_it_takes_a_pattern(tmp_path, pool_name, cli_json):
    for name in ("x[1].bin", "x1.bin", "a*b", "acb"):
        (tmp_path / name).write_bytes(name.encode() * 100)
    for name, size in (("x[1].bin", 800), ("a*b", 300), ("x[2-9]", None), ("a?b", 600)):
        if size:
            assert cli_json("warm", tmp_path / name, "--name", pool_name, "--size", "8MiB")["bytes"] == size
        else:
            assert run("warm", tmp_path / name, "--name", pool_name).code == 3


@contextmanager
def listing(names: list[str]) -> Iterator[str]:
    """A server whose index names files that it does not have."""
    links = "".join(f'<a href="{html.escape(name)}">x</a>\n' for name in names).encode("utf-8", "replace")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/"
            self.send_response(200 if found else 404)
            self.send_header("Content-Length", str(len(links) if found else 0))
            self.end_headers()
            self.wfile.write(links if found and self.command == "GET" else b"")

        do_HEAD = do_GET

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("name", ["e\x1b[3;7;9mx", "t\x1b]0;owned\x07", "m[/foo]", "b\u202ei", "c\x9b3;7;9m"], ids=range(5))
def test_warm_names_a_file_of_a_listing(name, pool_name):
    with listing([name]) as url:
        done = run("warm", f"{url}*", "--name", pool_name, "--size", "8MiB")
        assert (done.code, done.out) == (3, "")
        one_line(done.err)
        code, got = in_terminal("warm", f"{url}*", "--name", pool_name)
        assert code == 3
        one_line(harmless(got))


def test_a_demo_of_such_files(folder, shared_memory):
    small = ["--workers", "1", "--shards", "2", "--latency", "0", "--epochs", "1", "--sample", "1"]
    done = run("demo", "--dataset", folder, *small, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["files"] == len(NAMES)
    code, got = in_terminal("demo", "--dataset", folder, *small, TERM="xterm")
    assert code == 0
    assert "every byte was right" in harmless(got, cursor=True)
    assert os.listdir(shared_memory) == []


def test_verifys_names_are_our_own():
    code, got = in_terminal("verify", "put/aba", "--model", "sc", "--jobs", "2", COLUMNS="200")
    assert code == 0
    assert "surprises" in harmless(got, cursor=True)
