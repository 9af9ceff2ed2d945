"""``foliocache top``: pools in the terminal, live.

rich makes the tables, which the command line needs anyway. Keys, signals and the screen are ``screen``; a framework for
applications in the terminal would be a large dependency for one page without input fields.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter, validators

import foliocache
from foliocache.cli.options import AnyName, check_number
from foliocache.cli.output import number, percent, shown, table
from foliocache.cli.rates import Rates, latency, rates
from foliocache.cli.screen import Screen
from foliocache.pool.slot import pid_namespace
from foliocache.pool.watch import Seen, Watch
from foliocache.sizes import format_size

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from foliocache import ClientInfo, Pool
    from foliocache.observe.statistics import Picture, Residency, Statistics

Seconds = Annotated[float, Parameter(validator=[check_number, validators.Number(gte=0.1, lte=3600)])]
OBJECTS = 200  # of which the table shows as many as fit
WIDE = 130  # columns from which tables lie side by side
SHARE = 0.01  # of the time that may be spent on the picture of pages
SORTS: dict[str, Callable[[Residency], tuple[Any, ...]]] = {
    "cached": lambda found: (-found.cached_bytes, found.key),
    "used": lambda found: (-found.used_bytes, found.key),
    "pins": lambda found: (-found.pins, found.key),
    "name": lambda found: (found.key, found.version),
}
HELP = "q quit   p pause   s sort   up, down: pool"


def top(name: AnyName = None, /, *, interval: Seconds = 1.0, any_owner: bool = False) -> None:
    """Show what pools do, live: hits, reads, what is being filled, objects and processes.

    Keys: q quits, p pauses, s sorts the objects by another column, the arrow keys choose a pool.

    Parameters
    ----------
    name
        The pool; all pools of this user if left out.
    interval
        Seconds between two looks.
    any_owner
        Also show a pool of another user, who can change its bytes at any time.
    """
    view = View(Watch(() if name is None else (name,), any_owner=any_owner), any_owner)
    with Screen() as screen, contextlib.closing(view):
        console = _console()
        while True:
            due = time.monotonic() + interval
            view.look(interval)
            while True:
                screen.draw(render(view, console, *screen.size))
                pressed = screen.wait(due - time.monotonic())
                if pressed is None or any(view.press(key) == "quit" for key in pressed):
                    return
                if time.monotonic() >= due:
                    break


class View:
    """What is shown: the pools as they were seen last, the one that is selected, and how its objects are sorted."""

    def __init__(self, watch: Watch, any_owner: bool = False) -> None:
        self._watch = watch
        self._any_owner = any_owner
        self._pool: Pool | None = None
        self._before: dict[str, Statistics] = {}
        self._skip = 0
        self._pictures = 0  # how many have been taken
        self._cost = 0.0  # seconds of a processor for the last one
        self._interval = 1.0
        self._tables: tuple[tuple[object, ...], list[str]] = (), []
        self.seen: list[Seen] = []
        self.rates: dict[str, Rates] = {}
        self.selected: str | None = None
        self.picture: Picture | None = None
        self.trouble: str = ""
        self.sort: str = "cached"
        self.paused: bool = False

    def close(self) -> None:
        """Stop being a client of the selected pool."""
        if self._pool is not None:
            self._pool.close()
        self._pool = None

    def press(self, key: str) -> str:
        """Do what a key means. Return "quit" if that is to end."""
        names = [seen.name for seen in self.seen]
        if key in ("up", "down", "k", "j") and names:
            step = 1 if key in ("down", "j") else -1
            at = names.index(self.selected) if self.selected in names else 0
            self._select(names[(at + step) % len(names)])
        elif key == "s":
            order = list(SORTS)
            self.sort = order[(order.index(self.sort) + 1) % len(order)]
        elif key in ("p", "space"):
            self.paused = not self.paused
        return "quit" if key in ("q", "Q", "\x04") else ""

    def look(self, interval: float) -> None:
        """See the pools as they are now, unless paused."""
        if self.paused:
            return
        self.seen = self._watch.look()
        there = {seen.name: seen.statistics for seen in self.seen if seen.statistics is not None}
        self.rates = {name: rates(self._before.get(name), found) for name, found in there.items()}
        self._before = there
        names = [seen.name for seen in self.seen]
        if self.selected not in names:
            self._select(names[0] if names else None)
        if self._skip > 0:
            self._skip -= 1
        elif self.selected in there:
            self._look_at_pages(self.selected, interval)

    def _select(self, name: str | None) -> None:
        self.close()
        self.selected, self.picture, self.trouble, self._skip = name, None, "", 0

    def _look_at_pages(self, name: str, interval: float) -> None:
        """Look at the pages of the selected pool, and as rarely as that costs."""
        begin = time.process_time()
        try:
            pool = foliocache.attach(name, any_owner=self._any_owner)
            if self._pool is not None and self._pool is not pool:
                self._pool.close()
            self._pool = pool
            self.picture, self.trouble = pool.picture(objects=OBJECTS), ""
        except foliocache.FoliocacheError as error:
            self.picture, self.trouble = None, str(error)
        self._pictures += 1
        self._cost, self._interval = time.process_time() - begin, interval
        self._rest()

    def tables(self, columns: int, lines: int, make: Callable[[], list[str]]) -> list[str]:
        """Return the lines of the tables of the picture: ``make()``, called once for each picture, size and order."""
        key = (self._pictures, self.selected, self.sort, columns, lines)
        if self._tables[0] != key:
            begin = time.process_time()
            self._tables = key, make()
            self._cost += time.process_time() - begin
            self._rest()
        return self._tables[1]

    def _rest(self) -> None:
        """Take the next picture when the cost of this one is a small enough share of the time."""
        self._skip = math.ceil(self._cost / (SHARE * self._interval)) - 1


def render(view: View, console: Console, columns: int, lines: int) -> list[str]:
    """Return the lines of a page for a terminal of this size, each with its escape sequences for colours."""
    columns, lines = max(columns, 20), max(lines, 5)
    state = "paused" if view.paused else time.strftime("%H:%M:%S")
    title = f"foliocache: {len(view.seen)} pool{'s' * (len(view.seen) != 1)}"
    made = _render(console, columns, title + " " * max(1, columns - len(title) - len(state)) + state, "bold")
    made += _render(console, columns, _pools(view, columns))[: 1 + max(1, min(len(view.seen), lines // 4))]
    seen = next((seen for seen in view.seen if seen.name == view.selected), None)
    if seen is None:
        made.append("no pools: foliocache.open() makes one")
    elif seen.statistics is None:
        made += _render(console, columns, shown(seen.error or ""))
    else:
        made += _detail(view, seen.statistics, console, columns, lines - len(made) - 1)
    made = made[: lines - 1]
    made += [""] * (lines - 1 - len(made))
    return [*made, *_render(console, columns, HELP, "dim")[:1]]


def _detail(view: View, found: Statistics, console: Console, columns: int, lines: int) -> list[str]:
    """Return the lines on the selected pool."""
    made = ["", *_render(console, columns, _summary(found, view.rates[found.name], console.encoding))]
    if view.picture is None:
        return made + _render(console, columns, shown(view.trouble))
    rest = lines - len(made)
    return made + view.tables(columns, rest, lambda: _details(view, console, columns, rest))


def _details(view: View, console: Console, columns: int, rest: int) -> list[str]:
    """Return ``rest`` lines of tables: what is being filled, objects, processes."""
    assert view.picture is not None
    made: list[str] = []
    lines = rest
    filling = [each for each in view.picture.objects if each.filling_bytes]
    pids = {client.slot: client for client in view.picture.clients}
    fills = _fills(filling[:rest], pids, console.encoding, columns >= WIDE)
    objects = _objects(view, rest)
    clients = _clients(view.picture.clients, rest)
    if columns >= WIDE:
        left, right = columns * 3 // 5, columns - columns * 3 // 5 - 2
        half = max(3, rest // 2)
        one = _box(console, left, objects, rest)
        other = (_box(console, right, fills, half) if filling else []) + _box(console, right, clients, rest)
        return made + _beside(one, other, left)[:rest]
    if filling:
        made += _box(console, columns, fills, 2 + min(len(filling), max(1, rest // 5)))
    rest = lines - len(made)
    people = 2 + min(len(view.picture.clients), max(1, rest // 3))
    made += _box(console, columns, objects, rest - people)
    return made + _box(console, columns, clients, people)


def _pools(view: View, columns: int) -> Table:
    """Return the table of the pools."""
    wide = ["memory", "requests/s"] if columns >= WIDE else []
    made = table(
        None,
        "pool",
        ">hits",
        ">5 min",
        ">lookups/s",
        ">read/s",
        ">cached",
        ">of",
        ">objects",
        ">clients",
        *(f">{w}" for w in wide),
    )
    _crop(made, 0)
    for seen in _around(view.seen, view.selected):
        style = "reverse" if seen.name == view.selected and len(view.seen) > 1 else None
        if seen.statistics is None:
            made.add_row(seen.name, "", "", "", "", "", "", "", "", style=style or "red")
            continue
        found, rate = seen.statistics, view.rates[seen.name]
        cells = [
            seen.name,
            _ratio(rate.hit_ratio),
            _ratio(found.hit_ratios.five_minutes),
            number(round(rate.lookups)),
            format_size(round(rate.source_bytes)),
            format_size(found.cached_bytes),
            format_size(found.pool_bytes),
            number(found.objects),
            number(found.clients),
        ]
        more = [format_size(found.backed_bytes), number(round(rate.requests))] if wide else []
        made.add_row(*cells, *more, style=style)
    return made


def _around(seen: list[Seen], selected: str | None) -> list[Seen]:
    """Return the pools, from the selected one on if there are many."""
    at = next((n for n, each in enumerate(seen) if each.name == selected), 0)
    return seen[max(0, at - 2) :] + seen[: max(0, at - 2)]


def _summary(found: Statistics, rate: Rates, encoding: str) -> Table:
    """Return some lines on a pool's memory, durations, evictions and trouble."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE, show_header=False, show_edge=False, pad_edge=False, expand=True, padding=(0, 1, 0, 0))
    made.add_column(style="dim", no_wrap=True)
    made.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    used = found.cached_bytes + found.index_bytes
    memory = f"{bar(found.cached_bytes, found.pool_bytes, encoding)} {percent(found.cached_bytes, found.pool_bytes)} cached; "
    memory += f"{format_size(found.backed_bytes)} taken, {format_size(found.free_bytes)} of it free"
    if used > found.pool_bytes:
        memory += "; above its size"
    made.add_row("memory", memory)
    slow = latency(found)
    times = ", ".join(
        f"{each.source} {_time(each.latency.quantile(0.5))} / {_time(each.latency.quantile(0.99))}"
        for each in found.sources
        if each.requests
    )
    made.add_row("requests", f"{number(slow.total)}; half / 99 % of them below: {times}" if slow.total else "none")
    for tier in found.tiers:
        if any(tier[1:]):
            asked = tier.hits + tier.misses
            there = f"{percent(tier.hits, asked)} of {number(asked)} folios were there, {number(tier.stores)} stored"
            there += f", {number(tier.dropped)} dropped" if tier.dropped else ""
            made.add_row(tier.tier, there + (f", {number(tier.skipped)} not asked for" if tier.skipped else ""))
    lost = found.evictions
    causes = (
        f"{number(lost.unused)} unused, {number(lost.lost)} lost, {number(lost.beaten)} beaten, {number(lost.cleared)} cleared"
    )
    made.add_row("evictions", f"{rate.evictions:,.0f}/s; {causes}")
    told = found.working_set
    gains = [percent(gain, told.filled) for gain in (told.with_25, told.with_100)]
    made.add_row("larger", f"by 25 %: {gains[0]} of the fills would be hits; by 100 %: {gains[1]}")
    trouble = [
        (f"{rate.private:,.1f} private reads/s", rate.private),
        (f"{rate.errors:,.1f} failed fills/s", rate.errors),
        (f"{rate.skipped:,.1f} folios/s that a tier is not asked for: it is off", rate.skipped),
        (f"{found.dead_clients} dead clients", found.dead_clients),
        (f"{found.counters.stalls} refused locks", found.counters.stalls),
    ]
    told_of = [text for text, there in trouble if there]
    made.add_row("trouble", Text("; ".join(told_of), "bold red") if told_of else "none")
    return made


def _fills(filling: Iterable[Residency], clients: dict[int, ClientInfo], encoding: str, is_wide: bool) -> Table:
    """Return the table of what is being filled, and by which process."""
    made = table(None, "being filled", ">there", "", ">now", "by")
    _crop(made, 0)
    made.columns[-1].max_width = 30
    for each in filling:
        client = clients.get(each.filler if each.filler is not None else -1)
        who = "nobody" if client is None else f"{client.pid} {_command(client)}" if is_wide else str(client.pid)
        there = percent(each.cached_bytes, each.size)
        made.add_row(each.key, there, bar(each.cached_bytes, each.size, encoding, 10), format_size(each.filling_bytes), who)
    return made


def _objects(view: View, most: int) -> Table:
    """Return the table of the first ``most`` objects; a row costs 0.1 ms, seen or not."""
    assert view.picture is not None
    heads = {"name": "object", "cached": "cached", "used": "used", "pins": "pins"}
    marked = {key: f"{head}*" if key == view.sort else head for key, head in heads.items()}
    made = table(None, marked["name"], f">{marked['cached']}", ">of", ">share", f">{marked['used']}", f">{marked['pins']}")
    _crop(made, 0)
    for each in sorted(view.picture.objects, key=SORTS[view.sort])[:most]:
        share, used = percent(each.cached_bytes, each.size), percent(each.used_bytes, each.cached_bytes)
        made.add_row(each.key, format_size(each.cached_bytes), format_size(each.size), share, used, number(each.pins))
    return made


def _clients(clients: Iterable[ClientInfo], most: int) -> Table:
    """Return the table of the first ``most`` processes."""
    made = table(None, ">pid", "process", "state", ">pins", ">since")
    _crop(made, 1)
    for each in sorted(clients, key=lambda client: (-client.pins, client.slot))[:most]:
        mine = each.pid == os.getpid()
        name = "this command" if mine else _command(each)
        made.add_row(str(each.pid), name, each.state, number(each.pins), _ago(time.time() - each.attached))
    return made


def _command(client: ClientInfo) -> str:
    """Return the name of a client's program; empty if its pid is of another namespace, or it is gone."""
    if client.pid_namespace not in (0, pid_namespace()):
        return "in a container"
    try:
        with open(f"/proc/{client.pid}/cmdline", "rb") as file:
            words = file.read(4096).decode("utf-8", "replace").rstrip("\0").split("\0")
    except OSError:
        return ""
    return shown(" ".join([os.path.basename(words[0]), *words[1:]]))


def _ago(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


def _time(seconds: float | None) -> str:
    """Return a duration: ``2 ms``."""
    if seconds is None:
        return "-"
    if math.isinf(seconds):
        return "more than 34 s"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1e3 * seconds:.0f} ms" if seconds >= 1e-3 else f"{1e6 * seconds:.0f} us"


def _ratio(share: float | None) -> str:
    return "-" if share is None else percent(share, 1)


def bar(part: float, whole: float, encoding: str, width: int = 20) -> str:
    """Return a bar of ``width`` characters, of which as large a share is filled as the part has of the whole."""
    full, empty = ("━", "─") if encoding.lower().startswith("utf") else ("#", ".")
    filled = min(width, round(width * part / whole)) if whole > 0 else 0
    return full * filled + empty * (width - filled)


# Rendering.


def _console() -> Console:
    from rich.console import Console

    return Console(markup=False, emoji=False, highlight=False, legacy_windows=False)


def _render(console: Console, columns: int, thing: Any, style: str | None = None) -> list[str]:
    """Return the lines of something that rich can print."""
    with console.capture() as captured:
        console.print(thing, style=style, width=columns, no_wrap=True, overflow="ellipsis", crop=True)
    return captured.get().rstrip("\n").split("\n")


def _box(console: Console, columns: int, made: Table, lines: int) -> list[str]:
    """Return the first lines of a table, below an empty one."""
    return ["", *_render(console, columns, made)][: max(0, lines)]


def _beside(left: list[str], right: list[str], columns: int) -> list[str]:
    """Return two columns of lines. Those of the left one are empty, or of a table, which fills its width."""
    pairs = itertools.zip_longest(left, right, fillvalue="")
    return [(one or " " * columns) + "  " + other for one, other in pairs]


def _crop(made: Table, column: int) -> None:
    """Let a table fill its width, without lines, and cut what is too long in one of its columns."""
    made.expand, made.box, made.header_style, made.padding = True, None, "dim", (0, 1, 0, 0)
    for each in made.columns:
        each.no_wrap, each.overflow = True, "ellipsis"
    made.columns[column].ratio = 1
