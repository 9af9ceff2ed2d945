"""``python -m bench [core refcount peers growth eviction] [--tiny] [--rounds N] [--seeds N ...] [--trace FILE] [--huge FOLDER] [--write]``"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from bench.harness import Plan, Section, machine
from foliocache.cli.bench import core, show
from foliocache.cli.bench.native import Unavailable
from foliocache.cli.output import console, table

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
BENCHES = ("core", "refcount", "peers", "growth", "eviction")


def main(argv: list[str] | None = None) -> int:
    asked = arguments(argv)
    sections = []
    print(f"machine: {machine()}", flush=True)
    for name in asked.benches or BENCHES:
        begin = time.monotonic()
        section = measure(name, plan(asked))
        print(f"\n== {name}: {time.monotonic() - begin:.0f} s\n", flush=True)
        report(section)
        sections.append(section)
    if asked.json:
        Path(asked.json).write_text(json.dumps(document(sections), indent=1) + "\n")
    if asked.write:
        write(sections)
    return 0


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "benches",
        nargs="*",
        choices=[*BENCHES, []],
        metavar="bench",
        help=", ".join(BENCHES) + "; all of them if none is named",
    )
    parser.add_argument("--rounds", type=int, default=11, help="interleaved rounds; a figure is their median")
    parser.add_argument("--tiny", action="store_true", help="every figure, none that means anything: for tests")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], metavar="N", help="of eviction's made traces")
    parser.add_argument(
        "--trace",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a recorded trace for eviction: page numbers one a line, a CSV, or oracleGeneral .bin; may be repeated",
    )
    parser.add_argument(
        "--huge", type=Path, metavar="FOLDER", help="a tmpfs mounted with huge=always: growth measures there, too"
    )
    parser.add_argument("--json", metavar="FILE", help="all figures and tables as one JSON document")
    parser.add_argument(
        "--write", action="store_true", help="plots to docs/, tables into docs/performance.md, the run to bench/results/"
    )
    return parser.parse_args(argv)


def plan(asked: argparse.Namespace) -> Plan:
    figures = core.Plan.tiny() if asked.tiny else replace(core.Plan(), rounds=asked.rounds)
    return Plan(figures, tiny=asked.tiny, traces=tuple(asked.trace), seeds=tuple(asked.seeds), huge=asked.huge)


def measure(name: str, wanted: Plan) -> Section:
    """One bench; a peer, a compiler or memory that is not there is skipped with a word."""
    if name == "core":
        return Section("core", [each for _, found in core.run(wanted.core) for each in found])
    module = importlib.import_module(f"bench.{name}")
    try:
        return module.run(wanted)
    except Unavailable as missing:
        sys.exit(f"bench {name}: {missing}")


def report(section: Section) -> None:
    from bench.harness import figure

    for each in section.tables:
        shown = table(each.title, each.columns[0], *[f">{column}" for column in each.columns[1:]])
        for row in each.rows:
            shown.add_row(*[figure(cell) for cell in row])
        console().print(shown)
    if section.found:
        show(section.found)


def document(sections: list[Section]) -> dict:
    from foliocache.cli.bench import as_document

    return {
        "machine": machine(),
        "load_average_behind": os.getloadavg(),
        "sections": [{"name": s.name, **as_document(s.found), "tables": [t.as_dict() for t in s.tables]} for s in sections],
    }


def write(sections: list[Section]) -> None:
    """Plots, tables and the recorded run. A section's tables go between its markers in docs/performance.md."""
    page = DOCS / "performance.md"
    text = page.read_text()
    for section in sections:
        for name, svg in section.plots.items():
            (DOCS / name).write_text(svg)
        begin, end = f"<!-- bench:{section.name} -->", f"<!-- /bench:{section.name} -->"
        before, _, rest = text.partition(begin)
        _, found, after = rest.partition(end)
        if found:
            text = f"{before}{begin}\n{section.markdown()}\n{end}{after}"
    before, begin, rest = text.partition("<!-- bench:machine -->")
    _, end, after = rest.partition("<!-- /bench:machine -->")
    if end:
        text = f"{before}{begin}\n{machine()}; {time.strftime('%Y-%m-%d')}; load average of the last 15 minutes {os.getloadavg()[2]:.1f}.\n{end}{after}"
    page.write_text(text)
    names = "-".join(section.name for section in sections)
    (HERE / "results" / f"{time.strftime('%Y-%m-%d')}-{names}.json").write_text(json.dumps(document(sections), indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
