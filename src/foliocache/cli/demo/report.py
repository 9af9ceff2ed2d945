"""The demo's result as a table and sentences.

A table that is to convince must not compare unlike things: the uncached run reads a sample, so its row says what was read next
to what was fetched, nothing is scaled up, and its share of the dataset is marked.
"""

from __future__ import annotations

from typing import Any

from foliocache.cli import exits
from foliocache.cli.output import console, counted, number, percent, table
from foliocache.sizes import format_size

COLUMNS = ("", ">read", ">from\norigin", ">origin/\ndataset", ">requests", ">time", ">hits", ">peak\nmemory", ">wrong\nbytes")


def exit_code(report: dict[str, Any]) -> int:
    """FOUND if a byte was wrong or the pool's audit found something, else OK."""
    wrong = any(run["wrong_bytes"] or run.get("findings") for run in report["runs"])
    return exits.FOUND if wrong else exits.OK


def show(report: dict[str, Any]) -> None:
    """Print the table and what it means.

    Parameters
    ----------
    report
        The document of ``--json``.
    """
    out = console()
    made = table(None, *COLUMNS)
    for run in report["runs"]:
        made.add_row(*_row(run, report["dataset_bytes"]))
    out.print()
    out.print(made)
    out.print()
    for line in _sentences(report):
        out.print(line)


def _row(run: dict[str, Any], dataset: int) -> list[str]:
    """One run."""
    mark = "*" if run["sample"] < 1 else ""
    return [
        run["name"] + mark,
        format_size(run["read_bytes"]),
        format_size(run["origin_bytes"]),
        f"{run['origin_bytes'] / dataset:.2f}{mark}",
        number(run["requests"]),
        f"{run['seconds']:.1f}s",
        percent(run["hits"], run["hits"] + run["misses"]),
        format_size(run["peak_pss_bytes"]),
        number(run["wrong_bytes"]),
    ]


def _sentences(report: dict[str, Any]) -> list[str]:
    """The table in words."""
    lines = []
    for run in report["runs"]:
        if run["sample"] < 1:
            lines.append(f"* {run['name']}: a sample of {100 * run['sample']:g}% of the files; nothing is extrapolated.")
        if "pool_bytes" in run:
            lines += _folio_sentences(report, run)
    wrong = sum(run["wrong_bytes"] for run in report["runs"])
    members = sum(run["members"] for run in report["runs"])
    verdict = f"{number(wrong)} BYTES WERE WRONG" if wrong else "every byte was right"
    return [*lines, f"Checked {number(members)} reads of files by their hashes: {verdict}."]


def _folio_sentences(report: dict[str, Any], run: dict[str, Any]) -> list[str]:
    """How often the origin sent each byte, and what the memory consists of."""
    workers = report["workers"]
    each = (run["peak_pss_bytes"] - run["pool_bytes"]) / workers
    pool, idle = format_size(run["pool_bytes"]), format_size(run["idle_each_bytes"])
    readers = f"{counted(workers, 'worker')} x {counted(report['epochs'], 'epoch')}"
    lines = [
        f"folio: {readers} read {format_size(run['read_bytes'])}; the origin sent {format_size(run['origin_bytes'])}.",
        f"Memory: {pool} of pool + {workers} x {format_size(each)}; an idle worker has {idle}.",
    ]
    return lines + [f"AUDIT: {finding['check']} at {finding['where']}: {finding['message']}" for finding in run["findings"]]
