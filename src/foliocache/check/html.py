"""A counterexample as one HTML page without any other file: the schedule, a column for each thread."""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .trace import tell

if TYPE_CHECKING:
    from .graph import Graph
    from .memory import Failure
    from .program import Program
    from .trace import Step

ROW, TOP, LEFT = 30, 64, 46
STYLE = """
:root{--bg:#fff;--fg:#1b1f24;--dim:#6b7280;--line:#d5d9df;--run:#dbe7fb;--bad:#b3261e;--badbg:#fdecea;--note:#8a5a00}
@media(prefers-color-scheme:dark){:root{--bg:#14171b;--fg:#e6e8eb;--dim:#98a1ad;--line:#333a43;--run:#21324d;--bad:#ff8a80;
--badbg:#3a1c1a;--note:#e0b050}}
body{background:var(--bg);color:var(--fg);font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:1500px;padding:0 1rem}
h1{font-size:1.3rem;margin:0 0 .3rem}p{margin:.3rem 0;max-width:75ch}code,svg text{font-family:ui-monospace,monospace}
.verdict{background:var(--badbg);color:var(--bad);padding:.6rem .9rem;border-radius:6px;font-weight:600;
margin:1rem 0;max-width:none}
svg{width:100%;height:auto;display:block}
svg text{font-size:12.5px;fill:var(--fg)}.dim{fill:var(--dim)!important;font-size:11px!important}
.head{font-weight:700;font-size:14px!important}.life{stroke:var(--line);stroke-width:1}.run{fill:var(--run)}
.switch{stroke:var(--dim);stroke-width:1.2;fill:none;stroke-dasharray:3 3}.stale{stroke:var(--note);stroke-width:1.5;fill:none}
.note{fill:var(--note)!important;font-size:11.5px!important}.bad{fill:var(--bad)!important;font-weight:700}
.replay{color:var(--dim);
font-size:.8rem;word-break:break-all;max-width:none}
"""


def page(title: str, intro: str, graph: Graph, program: Program, failure: Failure | None, replay_string: str) -> str:
    """Return the whole document."""
    told, preemptions = tell(graph, program)
    labels = program.label()
    thread = f"{labels[failure.thread]}: " if failure is not None and failure.thread is not None else ""
    verdict = f"{failure.kind}: {thread}{failure.message}" if failure else "no failure"
    switches = "" if preemptions is None else f"<p>{preemptions} preemption{'s' * (preemptions != 1)} in this schedule.</p>"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{_(title)}</title><style>{STYLE}</style><h1>{_(title)}</h1><p>{_(intro)}</p>"
        f'<p class="verdict">{_(verdict)}</p>{_drawing(told, labels, failure)}{switches}'
        f'<p class="replay">Replay: <code>{_(replay_string)}</code></p></html>\n'
    )


def _(text: object) -> str:
    return html.escape(str(text))


def _drawing(told: list[Step], labels: list[str], failure: Failure | None) -> str:
    longest = [
        max([len(s.text) for s in told if s.thread == t] + [len(s.note) - 6 for s in told if s.thread == t] + [16])
        for t in range(len(labels))
    ]
    starts, x = [], LEFT
    for length in longest:
        starts.append(x)
        x += 26 + int(7.7 * length)
    width = x + 7 * max((len(s.where) for s in told), default=0) + 20
    rows, y = {}, TOP
    for s in told:
        rows[s.number] = y
        y += ROW + (14 if s.note else 0)
    parts = [f'<svg viewBox="0 0 {width} {y + 24}" style="min-width:{min(width, 900)}px" role="img" aria-label="schedule">']
    for label, left in zip(labels, starts, strict=True):
        parts.append(f'<text class="head" x="{left + 10}" y="28">{_(label)}</text>')
        parts.append(f'<line class="life" x1="{left}" y1="40" x2="{left}" y2="{y}"/>')
    previous = None
    for s in told:
        parts += _row(s, rows, starts, previous, x)
        previous = s
    if failure is not None and failure.thread is not None:
        parts.append(f'<text class="bad" x="{starts[failure.thread] + 10}" y="{y + 8}">✗ {_(failure.kind)}</text>')
    return "".join(parts) + "</svg>"


def _row(s: Step, rows: dict[int, int], starts: list[int], previous: Step | None, end: int) -> Iterator[str]:
    left, y = starts[s.thread], rows[s.number]
    if previous is not None and previous.thread != s.thread:
        there = starts[previous.thread]
        middle = y - ROW / 2 - 3
        yield f'<path class="switch" d="M{there} {rows[previous.number] + 6} V{middle} H{left} V{y - 10}"/>'
    yield f'<rect class="run" x="{left - 4}" y="{y - 11}" width="8" height="{ROW - 8}" rx="3"/>'
    yield f'<text class="dim" x="8" y="{y + 4}">{s.number}</text>'
    yield f'<text x="{left + 12}" y="{y + 4}">{_(s.text)}</text>'
    yield f'<text class="dim" x="{end}" y="{y + 4}">{_(s.where)}</text>'
    if s.note:
        yield f'<text class="note" x="{left + 12}" y="{y + 19}">↳ {_(s.note)}</text>'
        if s.source in rows:
            above = rows[s.source]
            curve = f"C{left - 30} {above + 30} {left - 34} {y - 30} {left - 5} {y}"
            yield f'<path class="stale" d="M{starts[s.origin]} {above + 4} {curve}"/>'
