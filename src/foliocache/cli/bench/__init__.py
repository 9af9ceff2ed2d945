"""``foliocache bench``: the core's figures on this machine, within two minutes.

What the project has budgets for, each against its baseline in one interleaved run. The full set, with peers and plots, is
``make bench`` in a checkout; docs/performance.md says what it found.
"""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from foliocache.cli.options import Json, Positive
from foliocache.cli.output import console, emit_json, table


def bench(
    *,
    json: Json = False,
    rounds: Annotated[Positive, Parameter(name="--rounds")] = 11,
    only: Annotated[str | None, Parameter(name="--only")] = None,
) -> int:
    """Measure the core on this machine, against its budgets.

    Parameters
    ----------
    json
        One JSON document on stdout.
    rounds
        Interleaved rounds; a figure is their median.
    only
        One group alone: refcount, hit, processes, growth, attach, fill, fsspec, consume or eviction.
    """
    from dataclasses import replace

    from foliocache.cli.bench.core import GROUPS, Plan, run
    from foliocache.cli.exits import CommandError

    known = [group.__name__ for group in GROUPS]
    if only is not None and only not in known:
        raise CommandError(f"--only {only}: there are {', '.join(known)}")
    found = [record for _, records in run(replace(Plan(), rounds=rounds), only) for record in records]
    if json:
        emit_json(as_document(found))
    else:
        show(found)
    return 0


def as_document(found: list) -> dict:
    """The JSON document: records under ``results``, what could not be measured under ``skipped``."""
    from foliocache.cli.bench.harness import Record

    return {
        "results": [each.as_dict() for each in found if isinstance(each, Record)],
        "skipped": [{"metric": each.metric, "why": each.why} for each in found if not isinstance(each, Record)],
    }


def show(found: list) -> None:
    """The records as a table."""
    from rich.text import Text

    from foliocache.cli.bench.harness import Record

    shown = table(None, "metric", ">value", "unit", ">baseline", "against", ">ratio", "budget", "met")
    for each in found:
        if isinstance(each, Record):
            met = "" if each.budget is None else "yes" if each.met else Text("NO", style="bold red")
            shown.add_row(
                each.metric,
                _figure(each.value),
                each.unit,
                _figure(each.baseline),
                each.against or "",
                _figure(each.ratio),
                each.budget or "",
                met,
            )
        else:
            shown.add_row(each.metric, "-", "", "", each.why, "", "", "")
    console().print(shown)


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
