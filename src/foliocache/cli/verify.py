"""``foliocache verify``: the model checker's table, and its counterexamples."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from foliocache.cli import exits
from foliocache.cli.options import Json, Positive
from foliocache.cli.output import complain, console, emit_json, table

FIELDS = ("scenario", "model", "mutation", "verdict", "expected", "exact", "executions", "graphs", "operations", "seconds")


def verify(
    *names: str,
    model: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    mutate: str | None = None,
    json: Json = False,
    jobs: Positive | None = None,
    html: Path | None = None,
    budget: float | None = None,
    bound: int | None = None,
    replay: str | None = None,
) -> int:
    """Explore the scenarios on the shipped core, as it is and with each of the bugs that it must not have.

    Without names the whole suite runs. Exit code 1 on any surprise: a scenario that fails as shipped, or a bug that goes unseen.

    Parameters
    ----------
    names
        Scenarios, or beginnings of their names, as in ``put/``.
    model
        Memory models: sc, tso, rc11 (all of them, by default; only rc11 with --mutate).
    mutate
        One bug or variant only; its counterexample is shown.
    json
        The results as JSON.
    jobs
        Processes to use; all cores, by default.
    html
        Write the first counterexample to this file as a page.
    budget
        Seconds for each exploration. One that takes longer is reported as bounded.
    bound
        Ask only for failures that need at most so many preemptions. Takes as long as without; reported as bounded; below 3 with a warning.
    replay
        Do not explore: show the execution of this replay string (one scenario, one model).
    """
    from foliocache.check import parallel, scenario, scenarios

    known = scenarios.load_all()
    chosen = _choose(known, names, mutate)
    models = tuple(model) or (scenario.ALL if mutate is None and replay is None else scenario.WEAK)
    if not chosen or not set(models) <= set(scenario.ALL):
        there_are = ", ".join(known if not chosen else scenario.ALL)
        complain(f"no such scenario, bug or model; there are: {there_are}")
        return exits.USAGE
    if bound is not None and bound < 3:
        complain(f"a bound of {bound} is a test, not a proof: the ABA needs 2 preemptions, and other bugs may need more")
    jobs = jobs or os.cpu_count() or 1
    if replay is not None:
        print(_story(chosen[0], models[0], mutate, replay))
        return exits.OK
    tasks = [(s.name, m, mutation, budget, bound) for s in chosen for mutation in _mutations(s, mutate) for m in models]
    try:
        rows = _run(tasks, jobs)
    except parallel.WorkerDied as died:
        raise exits.CommandError(f"{died}; if it was the kernel, for want of memory: --jobs 1") from died
    if json:
        emit_json({"results": [{field: getattr(row, field) for field in FIELDS} for row in rows]})
    else:
        _table(rows)
        _counterexamples(rows, mutate)
    found = next((row for row in rows if row.found and (row.surprise or mutate)), None)
    if html is not None and found:
        html.write_text(_page(found))
    return exits.FOUND if any(row.surprise for row in rows) else exits.OK


def _choose(scenarios: dict[str, Any], names: tuple[str, ...], mutate: str | None) -> list[Any]:
    wanted = [s for name, s in scenarios.items() if not names or any(name.startswith(n) for n in names)]
    return [s for s in wanted if mutate is None or mutate in s.mutations()]


def _mutations(scenario: Any, mutate: str | None) -> list[str | None]:
    return [None, *scenario.mutations()] if mutate is None else [mutate]


def _run(tasks: list[tuple[Any, ...]], jobs: int) -> list[Any]:
    """Every task, in the order given. One task alone is spread over the processes itself."""
    from foliocache.check import parallel

    if len(tasks) == 1 or jobs == 1:
        return [_one(task, jobs) for task in tasks]
    rows = dict(parallel.each(lambda number: _one(tasks[number]), range(len(tasks)), jobs))
    return [rows[number] for number in range(len(tasks))]


def _one(task: tuple[Any, ...], jobs: int = 1) -> Any:
    from foliocache.check import scenario, scenarios

    name, model, mutation, budget, bound = task
    return scenario.run(scenarios.load_all()[name], model, mutation, jobs, budget, bound)


def _table(rows: list[Any]) -> None:
    from rich.text import Text

    made = table(None, "scenario", "mutation", "model", "verdict", "expected", ">executions", ">operations", ">time")
    for row in rows:
        verdict = row.verdict if row.exact or row.found else f"{row.verdict} (bounded)"
        colour = "bold red" if row.surprise else "green" if row.verdict == "holds" else "yellow"
        made.add_row(
            row.scenario, row.mutation or "", row.model, Text(verdict, style=colour), row.expected,
            f"{row.executions:,}", f"{row.operations:,}", f"{row.seconds:.2f} s",
        )  # fmt: skip
    out = console()
    out.print(made)
    surprises = sum(row.surprise for row in rows)
    out.print()
    out.print(f"{len(rows)} explorations, {surprises} surprise{'s' * (surprises != 1)}")


def _counterexamples(rows: list[Any], mutate: str | None) -> None:
    from foliocache.check import scenarios

    known = scenarios.load_all()
    for row in rows:
        if row.found and (row.surprise or mutate):
            which = known[row.scenario]
            print(f"\n{row.scenario} under {row.model}{f' with {row.mutation}' if row.mutation else ''}\n{which.doc}\n")
            print(_story(which, row.model, row.mutation, row.found.replay_string))
            print(f"replay: {row.found.replay_string}")


def _story(which: Any, model: str, mutation: str | None, replay_string: str) -> str:
    from foliocache.check import replay, trace

    program = which.program(mutation)
    try:
        graph, failure = replay.replay(program, model, replay_string)
    except (IndexError, ValueError) as error:
        raise exits.CommandError(f"--replay {replay_string}: not an execution of {which.name} under {model}") from error
    return trace.text(graph, program, failure)


def _page(row: Any) -> str:
    from foliocache.check import html, replay, scenarios

    which = scenarios.load_all()[row.scenario]
    program = which.program(row.mutation)
    graph, failure = replay.replay(program, row.model, row.found.replay_string)
    title = f"{row.scenario} under {row.model}{f', with {row.mutation}' if row.mutation else ''}"
    return html.page(title, which.doc, graph, program, failure, row.found.replay_string)
