"""A scenario as a program of its own, for the checkers of others: every path of its threads, as a tree of operations.

Nothing is translated from the source. Each thread *runs*, on the interpreted core as in any exploration, but what it reads is a
``Word`` without a value (``export_words``). A comparison of such a word is a fork: the thread is run again for both answers.
Its paths are a tree of operations and branches, and ``export_text`` writes that as C. So a thread's program is exactly what the
core does for every value that it could read, and whatever cannot be told from that is refused, in words: a loop whose rounds
have no end, a location that depends on a value read, a death, a sleep.

A location to which only constants are stored has a *domain*. A branch on one of those asks for its value, and one that all
values of the domain answer alike is none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from . import facade_model, loader
from .export_record import NoResults, Recorder, Seen, facade
from .export_words import Branch, Condition, Op, Path, Refused, Wrong

if TYPE_CHECKING:
    from .export_words import Step
    from .graph import Loc, Value
    from .program import Program
    from .scenario import Scenario

PATHS = 2000  # of one thread


@dataclasses.dataclass
class Exported:
    """A program: its locations, the threads, and the judgement."""

    name: str
    doc: str
    places: dict[Loc, Place]
    threads: list[list[Step]]
    judgement: list[Step]


@dataclasses.dataclass
class Place:
    """A location: its name, whether any access to it is atomic, and its first value."""

    name: str
    atomic: bool
    start: Value


def derive(which: Scenario, mutation: str | None = None, constants: Mapping[str, int] | None = None) -> Exported:
    """Return the scenario as a program, as shipped or with that bug or variant. ``constants`` of ``layout`` are put in place of
    its own. Raises Refused."""
    edits = (which.bugs.get(mutation) or which.variants[mutation]).edits if mutation else ()
    core = loader.load(which.suite.package, facade(which), {**which.layout, **(constants or {})}, (*which.stand_ins, *edits))
    core.detach()
    program = which.build(core)
    if program.mortal or program.clients:
        raise Refused("its threads may die")
    if program.timeouts or program.interrupts:
        raise Refused("its threads sleep")
    seen = Seen(program.initial())
    try:
        return _derive(which, program, seen)
    finally:
        facade_model.current = None


def _derive(which: Scenario, program: Program, seen: Seen) -> Exported:
    """Run everything until no run stores anything new."""
    final = program.final
    results: Any = NoResults()
    rounds = 0
    while seen.settle() or not rounds:
        rounds += 1
        threads = [_tree(program, seen, number, run) for number, run in enumerate(program.threads)]
        judged = _tree(program, seen, -1, lambda mem: final(mem, results)) if final else []
    # What only one thread touches, and none reads, is seen by no thread and races with none.
    private = {loc for loc, users in seen.users.items() if len(users) == 1 and loc not in seen.read}
    places: dict[Loc, Place] = {}
    taken: set[str] = set()
    for loc in sorted(seen.users.keys() - private, key=repr):
        name = program.name(loc)
        while name in taken:
            name += "'"
        taken.add(name)
        places[loc] = Place(name, "atomic" in seen.kinds.get(loc, ()), seen.start.get(loc, 0))
    kept = [_without(steps, private) for steps in (*threads, judged)]
    return Exported(which.name, which.doc, places, kept[:-1], kept[-1])


def _tree(program: Program, seen: Seen, number: int, run: Callable[[Any], Any]) -> list[Step]:
    """Return all paths of a thread, as one tree."""
    tree: list[Step] = []
    todo: list[list[bool]] = [[]]
    paths = 0
    while todo:
        given = todo.pop()
        path = Path(list(given))
        mem: Any = Recorder(program, seen, number, path)
        facade_model.current = mem
        try:
            run(mem)
        except AssertionError as error:
            path.add(Wrong(str(error).partition("\n")[0] or "assertion failed"))
        except (LookupError, TypeError, ValueError) as error:
            raise Refused(f"it does with a word that it has read what cannot be written here ({error})") from error
        _insert(tree, path)
        todo += [[*path.answers[:n], False] for n in range(len(given), len(path.answers))]
        paths += 1
        if paths > PATHS:
            raise Refused(f"one of its threads has more than {PATHS} paths")
    return tree


def _insert(tree: list[Step], path: Path) -> None:
    answers = iter(path.answers)
    at, block = 0, tree
    for step in path.did:
        if isinstance(step, Condition):
            if at == len(block):
                block.append(Branch(step, [], []))
            branch = block[at]
            assert isinstance(branch, Branch)
            assert branch.when == step
            block, at = (branch.yes if next(answers) else branch.no), 0
        else:
            if at == len(block):
                block.append(step)
            at += 1


def _without(steps: list[Step], private: set[Loc]) -> list[Step]:
    return list(_kept(steps, private))


def _kept(steps: list[Step], private: set[Loc]) -> Iterator[Step]:
    for step in steps:
        if isinstance(step, Branch):
            yes, no = _without(step.yes, private), _without(step.no, private)
            if yes == no:
                yield from yes
            else:
                yield Branch(step.when, yes, no)
        elif not (isinstance(step, Op) and step.loc in private):
            yield step
