"""Measure foliocache on this machine: all benches, or those named."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.common.measure import Skipped, Unavailable
from benchmarks.common.plan import Plan
from benchmarks.common.report import Section, as_document, machine, show
from benchmarks.core import GROUPS
from foliocache.cli.output import emit_json

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
BENCHES = {  # each is benchmarks.NAME, with a function run(plan) that returns a Section
    "core": "the figures that have a budget, within two minutes",
    "refcount": "get and put: the kernel's ways and ours, by threads and by processes",
    "peers": "the same hits through everyone else",
    "loops": "reads in event loops",
    "objects": "cached arrays, beside joblib.Memory and diskcache",
    "zarr": "slabs of a chunked array, beside plain Zarr and NumPy",
    "loader": "PyTorch's DataLoader over images, beside datasets in memory",
    "cold": "the first read of everything, beside obstore and fsspec's caches",
    "tiers": "the second epoch from disk, hits of disk and Valkey beside bare reads, three machines",
    "memory": "what a pool takes and gives back, and a hog that needs it",
    "observe": "what looking costs: metrics, top, the page; and hits with spans",
    "growth": "cost by cached folios, clients, sizes of values and of pools",
    "eviction": "hit ratios beside other policies and the optimum",
}


def main(argv: list[str] | None = None) -> int:
    """Run the benches that ``argv`` names and return the exit code, one of ``foliocache.cli.exits``."""
    asked = arguments(argv)
    from foliocache.cli.app import finished, guarded  # here, because spawned workers import this file, too

    return guarded(lambda: finished(lambda: run(asked)))


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line. Raises SystemExit(2) for invalid arguments."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    listed = "; ".join(f"{name}: {what}" for name, what in BENCHES.items())
    parser.add_argument("benches", nargs="*", metavar="bench", help=f"{listed}. All of them if none is named")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout, and nothing else")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the whole run, tables and machine included, as JSON")
    parser.add_argument(
        "--write", action="store_true", help="plots to docs/, tables into docs/performance.md, the run to benchmarks/results/"
    )
    parser.add_argument(
        "--label",
        metavar="NAME",
        help="of --write: another machine than docs/performance.md's, whose plots, tables and run have this name behind theirs",
    )
    parser.add_argument("--rounds", type=positive, default=11, help="interleaved rounds; a figure is their median")
    parser.add_argument("--tiny", action="store_true", help="every figure, none that means anything: for tests")
    parser.add_argument("--only", choices=GROUPS, help="one group of core")
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
    parser.add_argument(
        "--machine",
        action="store_true",
        help="memory: only a hog that takes 80 %% of all memory, on a machine that has no other use",
    )
    asked = parser.parse_args(argv)
    if unknown := [name for name in asked.benches if name not in BENCHES]:
        parser.error(f"there is no bench {unknown[0]!r}; there are {', '.join(BENCHES)}")
    asked.benches = asked.benches or list(BENCHES)
    return asked


def positive(text: str) -> int:
    """Return the number. Raises ValueError unless it is 1 or more."""
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number


def run(asked: argparse.Namespace) -> int:
    """Measure, and print the results."""
    quiet = asked.json
    if not quiet:
        print(f"machine: {machine()}", flush=True)
    sections = []
    for name in asked.benches:
        begin = time.monotonic()
        section = measure(name, plan(asked))
        sections.append(section)
        if not quiet:
            print(f"\n== {name}: {time.monotonic() - begin:.0f} s\n", flush=True)
            show(section)
    if asked.json:
        emit_json(summary(sections))
    if asked.output:
        asked.output.write_text(json.dumps(document(sections), indent=1) + "\n")
    if asked.write:
        write(sections, f"-{asked.label}" if asked.label else "")
    return 0


def plan(asked: argparse.Namespace) -> Plan:
    """Return the plan: how much is measured."""
    made = Plan.tiny() if asked.tiny else Plan(rounds=asked.rounds)
    return replace(
        made, only=asked.only, seeds=tuple(asked.seeds), traces=tuple(asked.trace), huge=asked.huge, machine=asked.machine
    )


def measure(name: str, wanted: Plan) -> Section:
    """Run one bench. What needs a missing peer, compiler or memory is skipped, with a message."""
    module = importlib.import_module(f"benchmarks.{name}")
    try:
        return module.run(wanted)
    except Unavailable as missing:
        return Section(name, [Skipped(name, str(missing))])


def summary(sections: Iterable[Section]) -> dict[str, Any]:
    """Return what ``--json`` prints: the figures of all sections, what was skipped, and the tables."""
    sections = list(sections)
    figures = as_document(each for section in sections for each in section.found)
    tables = [each.as_dict() for section in sections for each in section.tables]
    return {**figures, "tables": tables} if tables else figures


def document(sections: Iterable[Section]) -> dict[str, Any]:
    """Return the run as it is recorded."""
    return {
        "machine": machine(),
        "load_average_behind": os.getloadavg(),
        "sections": [section.as_dict() for section in sections],
    }


def write(sections: list[Section], suffix: str = "") -> None:
    """Write plots, tables and the recorded run. A section's tables go between its markers in docs/performance.md."""
    page = DOCS / "performance.md"
    text = page.read_text()
    for section in sections:
        for name, svg in section.plots.items():
            plot = DOCS / name
            plot.with_stem(plot.stem + suffix).write_text(svg)
        text = between_markers(text, section.name + suffix, section.markdown())
    measured = f"{machine()}; {time.strftime('%Y-%m-%d')}; load average of the last 15 minutes {os.getloadavg()[2]:.1f}."
    page.write_text(between_markers(text, "machine" + suffix, measured))
    names = "-".join(section.name for section in sections)
    target = HERE / "results" / f"{time.strftime('%Y-%m-%d')}-{names}{suffix}.json"
    target.write_text(json.dumps(document(sections), indent=1) + "\n")


def between_markers(text: str, name: str, content: str) -> str:
    """Return the text with the content between the two markers of that name replaced; unchanged if there are none."""
    begin, end = f"<!-- bench:{name} -->", f"<!-- /bench:{name} -->"
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    return f"{before}{begin}\n{content}\n{end}{after}" if found else text


if __name__ == "__main__":
    sys.exit(main())
