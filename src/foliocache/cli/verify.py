"""``foliocache verify``: run the model checker; print its results, and its counterexamples."""

from __future__ import annotations

import contextlib
import difflib
import os
import shutil
import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from cyclopts import Parameter
from rich.text import Text

from foliocache.check import export_text, parallel, scenario, scenarios, trace
from foliocache.check import html as html_page
from foliocache.check.export_words import Refused
from foliocache.check.replay import replay as replayed
from foliocache.cli import exits
from foliocache.cli.options import Json, Output, Positive
from foliocache.cli.output import complain, console, counted, emit_json, table
from foliocache.sizes import quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from foliocache.check.scenario import Row, Scenario

SHOWN = 16  # names or groups in a message
ERASE = "\x1b[K"  # the rest of a terminal's line
FIELDS = (
    "scenario",
    "model",
    "mutation",
    "verdict",
    "expected",
    "exact",
    "executions",
    "graphs",
    "operations",
    "seconds",
    "cpu",
)


class Exploration(NamedTuple):
    """One scenario to explore under one model; the arguments of ``scenario.run``."""

    scenario: str
    model: str
    mutation: str | None
    budget: float | None
    bound: int | None
    samples: int | None
    search: str
    seed: int

    def run(self, jobs: int = 1) -> Row:
        """Explore it with ``jobs`` processes. Return the row of the result."""
        which = scenarios.load_all()[self.scenario]
        sampling = self.samples, self.search, self.seed
        row: Row = scenario.run(which, self.model, self.mutation, jobs, self.budget, self.bound, *sampling)
        return row


def verify(
    *names: str,
    model: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    mutate: str | None = None,
    json: Json = False,
    jobs: Positive | None = None,
    html: Output = None,
    budget: float | None = None,
    bound: int | None = None,
    sample: Positive | None = None,
    search: Literal["pct", "random"] = "pct",
    seed: int = 0,
    replay: str | None = None,
    export: Literal["genmc", "herd"] | None = None,
) -> int:
    """Check the shipped core with the model checker.

    It explores each scenario on the core as it is, and on the core with each of the bugs that the scenario must find. The exit
    code is 1 on any surprise: a scenario that fails on the core as it is, or a bug that is not found.

    Parameters
    ----------
    names
        Scenarios, or beginnings of their names, as in ``put/``; all, by default.
    model
        Memory models: sc, tso, rc11. By default all of them, but for a slow scenario on the shipped core rc11 alone, because sc
        and tso allow a part of its executions; with --mutate, rc11.
    mutate
        Explore only this bug or variant, and show its counterexample.
    json
        Print the results as JSON.
    jobs
        How many processes to use; by default, one per core.
    html
        Write the first counterexample to this file, as an HTML page.
    budget
        Seconds for each exploration. One that would take longer ends and is reported as bounded.
    bound
        Report only failures that need at most this many preemptions. It takes as long as without, and is reported as bounded;
        below 3 there is a warning.
    sample
        Do not explore; look at this many random executions of each scenario, for those that are too large. The verdict is
        "fails" or "sampled", which proves nothing.
    search
        How random executions are made: pct (priorities that change a few times) or random.
    seed
        Another number gives other random executions.
    replay
        Explore nothing; show the execution of this replay string (give one scenario and one model).
    export
        Explore nothing; print one scenario as C for GenMC, or as a litmus test for herd7 (with --mutate, with that bug).
    """
    known = scenarios.load_all()
    chosen = _chosen(known, names, mutate)
    models = tuple(model) or (scenario.ALL if mutate is None and replay is None else scenario.WEAK)
    problem = _problem(known, names, models, mutate)
    if problem is not None:
        complain(problem)
        return exits.USAGE
    if bound is not None and bound < 3:
        complain(f"a bound of {bound} is a test, not a proof: the ABA needs 2 preemptions, and other bugs may need more")
    if sample is not None and bound is not None:
        complain("--sample and --bound exclude each other: a sample is no search")
        return exits.USAGE
    if html is not None and (export or replay):
        complain("--html is the page of a counterexample that is looked for; --export and --replay look for none")
        return exits.USAGE
    if export is not None:
        return _export([one for one in chosen if one.name in names] or chosen, export, mutate)
    if replay is not None:
        print(_story(chosen[0], models[0], mutate, replay))
        return exits.OK
    tasks = [
        Exploration(s.name, m, mutation, budget, bound, sample, search, seed)
        for s in chosen
        for mutation in _mutations(s, mutate)
        for m in (models if model else _models(s, mutation, models))
    ]
    try:
        rows = _run(tasks, jobs or os.cpu_count() or 1)
    except parallel.WorkerDied as died:
        raise exits.CommandError(f"{died}; if it was the kernel, for want of memory: --jobs 1") from died
    if json:
        emit_json({"results": [{field: getattr(row, field) for field in FIELDS} for row in rows]})
    else:
        _show(rows)
        _show_counterexamples(known, rows, mutate)
    found = next((row for row in rows if row.found and (row.surprise or mutate)), None)
    if html is not None and found:
        html.write_text(_page(known[found.scenario], found))
    elif html is not None:
        complain(f"there is no counterexample, so {html} is not written")
    return exits.FOUND if any(row.surprise for row in rows) else exits.OK


def _export(chosen: list[Scenario], tool: str, mutate: str | None) -> int:
    """Print the scenario for that tool; the exit code."""
    if len(chosen) != 1:
        complain(f"--export takes one scenario, and here are {len(chosen)}")
        return exits.USAGE
    try:
        print(export_text.export(chosen[0], tool, mutate), end="")
    except Refused as refused:
        complain(f"{chosen[0].name} cannot be exported: {refused}")
        return exits.USAGE
    return exits.OK


def _problem(known: dict[str, Scenario], names: tuple[str, ...], models: tuple[str, ...], mutate: str | None) -> str | None:
    """Return what is wrong with a choice, and what could have been meant; None if it is right."""
    for name in names:
        if not any(one.startswith(name) for one in known):
            return f"no scenario begins with {quoted(name)}; {_alternatives(name, list(known))}"
    for model in models:
        if model not in scenario.ALL:
            return f"there is no memory model {quoted(model)}; there are {', '.join(scenario.ALL)}"
    if mutate is not None and not _chosen(known, names, mutate):
        bugs = {bug for one in _chosen(known, names, None) for bug in one.mutations()}
        return f"no scenario chosen here has a bug {quoted(mutate)}; {_alternatives(mutate, sorted(bugs))}"
    return None


def _alternatives(wanted: str, names: list[str]) -> str:
    """Return the names that are most like ``wanted``; if none is, the groups of names."""
    close = difflib.get_close_matches(wanted, names)
    if close:
        return f"did you mean {' or '.join(close)}?"
    groups = list(dict.fromkeys(name.partition("/")[0] for name in names))
    others = f" and {counted(len(groups) - SHOWN, 'other')}" if len(groups) > SHOWN else ""
    return f"there are {', '.join(groups[:SHOWN])}{others}"


def _chosen(known: dict[str, Scenario], names: tuple[str, ...], mutate: str | None) -> list[Scenario]:
    wanted = [s for name, s in known.items() if not names or any(name.startswith(n) for n in names)]
    return [s for s in wanted if mutate is None or mutate in s.mutations()]


def _models(which: Scenario, mutation: str | None, models: tuple[str, ...]) -> tuple[str, ...]:
    """Return those of ``models`` that are explored if nobody has chosen any."""
    return scenario.WEAK if which.slow and mutation is None else models


def _mutations(which: Scenario, mutate: str | None) -> list[str | None]:
    return [None, *which.mutations()] if mutate is None else [mutate]


def _run(tasks: list[Exploration], jobs: int) -> list[Row]:
    """Run every task; return the rows in the order of the tasks. A single task is spread over all processes."""
    if len(tasks) == 1 or jobs == 1:
        return [task.run(jobs) for task in tasks]
    rows: dict[int, Row] = {}
    with _progress(len(tasks)) as say:
        for number, row in parallel.each(lambda number: tasks[number].run(), range(len(tasks)), jobs):
            rows[number] = row
            say(row)
    return [rows[number] for number in range(len(tasks))]


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[Row], None]]:
    """Show on stderr, if that is a terminal, how many of ``total`` explorations are done. The line is erased at the end.

    Gives a function to call with each row.
    """
    rows: list[Row] = []

    def say(row: Row) -> None:
        rows.append(row)
        surprises = sum(row.surprise for row in rows)
        line = (
            f"{len(rows):,} of {total:,} explorations, {counted(surprises, 'surprise')}; last {row.scenario} under {row.model}"
        )
        width = shutil.get_terminal_size().columns - 1
        sys.stderr.write(f"\r{ERASE}{line[:width]}")
        sys.stderr.flush()

    if not sys.stderr.isatty():
        yield lambda row: None
        return
    try:
        yield say
    finally:
        sys.stderr.write(f"\r{ERASE}")
        sys.stderr.flush()


def _show(rows: list[Row]) -> None:
    """Print the table."""
    made = table(None, "scenario", "mutation", "model", "verdict", "expected", ">executions", ">operations", ">time")
    for row in rows:
        verdict = f"{row.verdict} (bounded)" if row.verdict == "holds" and not row.exact else row.verdict
        colour = "bold red" if row.surprise else "green" if row.verdict == "holds" else "yellow"
        made.add_row(
            row.scenario, row.mutation or "", row.model, Text(verdict, style=colour), row.expected,
            f"{row.executions:,}", f"{row.operations:,}", f"{row.seconds:.2f} s",
        )  # fmt: skip
    out = console()
    out.print(made)
    out.print()
    operations, cpu = sum(row.operations for row in rows), sum(row.cpu for row in rows)
    rate = f", {operations / cpu:,.0f} a second" if cpu else ""
    out.print(f"{operations:,} operations in {cpu:,.2f} s of processor time{rate}")
    out.print(f"{counted(len(rows), 'exploration')}, {counted(sum(row.surprise for row in rows), 'surprise')}")


def _show_counterexamples(known: dict[str, Scenario], rows: list[Row], mutate: str | None) -> None:
    """Print the executions that are a surprise, or fail with the bug of --mutate."""
    for row in rows:
        if row.found and (row.surprise or mutate):
            which = known[row.scenario]
            print(f"\n{row.scenario} under {row.model}{f' with {row.mutation}' if row.mutation else ''}\n{which.doc}\n")
            print(_story(which, row.model, row.mutation, _replay_string(row)))
            print(f"replay: {_replay_string(row)}")


def _replay_string(row: Row) -> str:
    """Return what ``--replay`` takes to show the execution that failed."""
    found: Any = row.found
    return str(found.replay_string)


def _story(which: Scenario, model: str, mutation: str | None, replay_string: str) -> str:
    """Return an execution as text. Raises CommandError if the replay string does not belong to that scenario and model."""
    program = which.program(mutation)
    try:
        graph, failure = replayed(program, model, replay_string)
    except (IndexError, ValueError) as error:
        raise exits.CommandError(f"--replay {replay_string}: not an execution of {which.name} under {model}") from error
    told: str = trace.text(graph, program, failure)
    return told


def _page(which: Scenario, row: Row) -> str:
    """Return a counterexample as a page of HTML."""
    program = which.program(row.mutation)
    graph, failure = replayed(program, row.model, _replay_string(row))
    title = f"{row.scenario} under {row.model}{f', with {row.mutation}' if row.mutation else ''}"
    made: str = html_page.page(title, which.doc, graph, program, failure, _replay_string(row))
    return made
