"""foliocache top, in real terminals: what it shows at 80x24 and at 200 columns, its keys, and a terminal that is as before."""

from __future__ import annotations

import math
import os
import shutil
import signal
import sys
import tempfile

import pytest
from cli.cli_command import environment, run
from terminal import Terminal

import foliocache
from foliocache.cli import top
from foliocache.cli.output import shown
from foliocache.cli.rates import Rates, rates
from foliocache.cli.screen import keys
from foliocache.observe.statistics import Histogram
from foliocache.pool.watch import Watch

COMMAND = [sys.executable, "-m", "foliocache", "top", "--interval", "0.1"]
SHARD = "https://example.org/shard"


@pytest.fixture(autouse=True)
def shared_memory(monkeypatch):
    """A folder for the pools of this test alone."""
    with tempfile.TemporaryDirectory(prefix="foliocache-test-", dir="/dev/shm") as folder:
        monkeypatch.setenv("FOLIOCACHE_DIR", folder)
        yield folder


@pytest.fixture
def pool():
    """A pool with three objects, one of which has a name for terminals to stumble over."""
    with foliocache.open("one", size="4MiB") as pool:
        for n in range(2):
            pool.mapping(f"{SHARD}-{n}", (n + 1) * 100_000, "1", lambda o, n: bytes(n)).read_bytes(0, (n + 1) * 100_000)
        pool.mapping("bad \x1b[2J\n[bold]name", 1000, "1", lambda o, n: bytes(n)).read_bytes(0, 1000)
        yield pool


def started(*arguments, columns=80, lines=24):
    return Terminal([*COMMAND, *arguments], environment(), columns, lines)


def plain(lines):
    from rich.text import Text

    return [Text.from_ansi(line) for line in lines]


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (200, 50), (130, 10), (40, 12), (20, 5), (1, 1)])
def test_a_page_fits(pool, monkeypatch, columns, lines):
    monkeypatch.setenv("TERM", "xterm-256color")
    view = top.View(Watch())
    view.look(1)
    made = plain(top.render(view, top._console(), columns, lines))
    assert len(made) == max(lines, 5)
    assert max(line.cell_len for line in made) <= max(columns, 20)
    text = "\n".join(line.plain for line in made)
    assert "\x1b" not in text
    if columns >= 80 and lines >= 24:
        for wanted in (
            f"{SHARD}-0",
            f"{SHARD}-1",
            shown("bad \x1b[2J\n[bold]name"),
            "195 KiB",
            "this command",
            "q quit",
            "100.0%",
        ):
            assert wanted in text, text
    view.close()


def test_many_pools_leave_room_and_the_selected_one_is_seen(monkeypatch):
    for n in range(20):
        foliocache.open(f"pool{n:02}", size="1MiB").close()
    view = top.View(Watch())
    view.look(1)
    for _ in range(15):
        view.press("down")
    view.look(1)
    text = "\n".join(line.plain for line in plain(top.render(view, top._console(), 80, 24)))
    assert "pool15" in text and "memory" in text and view.selected == "pool15"
    view.close()


def test_what_is_being_filled_is_shown_with_its_filler(pool):
    pages = []

    def read(offset, length):
        view = top.View(Watch())
        view.look(1)
        pages.append("\n".join(line.plain for line in plain(top.render(view, top._console(), 80, 24))))
        return bytes(length)

    mapping = pool.mapping("filling", 1_000_000, "1", read, folio_size="64KiB", readahead=0)
    mapping.read_bytes(0, 1000)
    assert "being filled" in pages[0] and f"64 KiB {os.getpid()}" in pages[0]


def test_a_pool_without_a_free_slot_still_has_its_counters():
    with foliocache.open("full", size="1MiB", clients=1):
        command = run("stat", "full")
        assert command.code == 3
        with started("full") as terminal:
            terminal.until(lambda: "evictions" in terminal.text and "all are attached" in terminal.text)
            terminal.type("q")
            assert terminal.end() == 0


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (200, 50)])
def test_it_shows_the_pools_and_quits(pool, columns, lines):
    with started(columns=columns, lines=lines) as terminal:
        terminal.until(lambda: f"{SHARD}-1" in terminal.text and "q quit" in terminal.screen.display[-1])
        assert not terminal.is_restored and terminal.screen.cursor.hidden
        terminal.type("q")
        assert terminal.end() == 0
        assert terminal.is_restored and not terminal.screen.cursor.hidden
        assert terminal.raw.count(b"\x1b[?1049h") == terminal.raw.count(b"\x1b[?1049l") == 1


@pytest.mark.parametrize(("how", "code"), [("\x03", 130), (signal.SIGTERM, 143), (signal.SIGINT, 130), ("\x04", 0), ("Q", 0)])
def test_whatever_ends_it_the_terminal_is_as_before(pool, how, code):
    with started() as terminal:
        terminal.until(lambda: f"{SHARD}-1" in terminal.text)
        if isinstance(how, str):
            terminal.type(how)
        else:
            os.kill(terminal.process.pid, how)
        assert terminal.end() == code
        assert terminal.is_restored and terminal.raw.rstrip().rpartition(b"\x1b[?1049l")[1]


def test_keys(pool):
    with foliocache.open("two", size="4MiB") as two, started() as terminal:
        two.mapping("other", 1000, "1", lambda o, n: bytes(n)).read_bytes(0, 1000)
        terminal.until(lambda: f"{SHARD}-1" in terminal.text and "cached*" in terminal.text)
        terminal.type("s")
        terminal.until(lambda: "used*" in terminal.text)
        terminal.type("p")
        terminal.until(lambda: "paused" in terminal.screen.display[0])
        terminal.type("p\x1b[B")
        terminal.until(lambda: "other" in terminal.text and SHARD not in terminal.text)
        terminal.type("k")
        terminal.until(lambda: SHARD in terminal.text)
        foliocache.remove("one")
        terminal.until(lambda: "1 pool" in terminal.screen.display[0] and "other" in terminal.text)
        terminal.type("q")
        assert terminal.end() == 0


def test_another_size(pool):
    with started() as terminal:
        terminal.until(lambda: "q quit" in terminal.screen.display[-1])
        terminal.resize(150, 40)
        terminal.until(lambda: "requests/s" in terminal.screen.display[1] and "q quit" in terminal.screen.display[39])
        terminal.resize(60, 15)
        terminal.until(lambda: "q quit" in terminal.screen.display[14])
        terminal.type("q")
        assert terminal.end() == 0


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash stops and continues jobs here")
def test_ctrl_z_gives_the_terminal_back_until_it_goes_on(pool):
    plain_shell = environment(PS1="shell$ ", HISTFILE="", PATH=os.environ["PATH"])
    with Terminal(["bash", "--norc", "--noprofile", "-i"], plain_shell) as terminal:
        terminal.until(lambda: "shell$" in terminal.text)
        terminal.type(" ".join([*COMMAND, "one"]) + "\n")
        terminal.until(lambda: f"{SHARD}-1" in terminal.text)
        terminal.type("\x1a")
        terminal.until(lambda: "Stopped" in terminal.text)
        assert not terminal.screen.cursor.hidden
        terminal.type("stty -a | grep -o ' icanon'\n")
        terminal.until(lambda: any(line.strip() == "icanon" for line in terminal.screen.display))
        terminal.type("fg\n")
        terminal.until(lambda: terminal.raw.count(b"\x1b[?1049h") == 2 and f"{SHARD}-1" in terminal.text)
        terminal.type("q")
        terminal.until(lambda: terminal.raw.count(b"\x1b[?1049l") == 2)
        terminal.type("echo code $?\n")
        terminal.until(lambda: "code 0" in terminal.text)
        terminal.type("exit\n")
        assert terminal.end() == 0


def test_without_a_terminal():
    done = run("top")
    assert (done.code, done.out) == (3, "") and "needs a terminal" in done.err


def test_a_name_that_no_pool_can_have():
    assert run("top", "../x").code == 2
    assert run("top", "--interval", "0").code == 2


def test_rates(pool):
    before = pool.statistics()
    assert rates(None, before) == Rates() == rates(before, before)
    mapping = pool.mapping("more", 100_000, "1", lambda o, n: bytes(n), readahead=0)
    mapping.read_bytes(0, 100_000)
    mapping.read_bytes(0, 10)
    now = pool.statistics()
    found = rates(before, now)
    seconds = now.age - before.age
    assert found.source_bytes == pytest.approx(100_000 / seconds)
    counted = now.counters.hits - before.counters.hits, now.counters.misses - before.counters.misses
    assert found.hit_ratio == counted[0] / sum(counted)
    assert found.lookups == pytest.approx(sum(counted) / seconds)
    assert rates(now, before) == Rates()


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        (b"q", ["q"]),
        (b"\x1b[A\x1b[Bs", ["up", "down", "s"]),
        (b"\x1bOA \t", ["up", "space", "down"]),
        (b"\x1b[15~q", ["q"]),
        (b"\x1b[1;5Cq", ["q"]),
        (b"\x1b", []),
        (b"\xc3\xa9", ["\xc3", "\xa9"]),
    ],
)
def test_what_is_typed(typed, wanted):
    assert keys(typed) == wanted


def test_texts():
    assert [top._time(seconds) for seconds in (None, 1e-6, 2e-3, 1.5, math.inf)] == [
        "-",
        "1 us",
        "2 ms",
        "1.5 s",
        "more than 34 s",
    ]
    assert top.bar(1, 2, "utf-8", 4) == "━━──" and top.bar(5, 2, "ascii", 4) == "####" and top.bar(1, 0, "ascii", 2) == ".."
    assert [top._ago(seconds) for seconds in (-5, 5, 300, 9000, 200_000)] == ["0 s", "5 s", "5 min", "2 h", "2 d"]
    assert Histogram((1,), 0.0).total == 1
