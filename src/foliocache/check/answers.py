"""What earlier runs of ``mutate`` have found: for each mutant, by which test or scenario, with a digest of the function's text.

While a run goes on, each answer is a line of JSON in its folder. ``pack`` makes a small text of all, which can be committed: a
line for each function, with the digest and a letter for each of its mutants, in their order.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from . import mutants
from .mutants import Mutant

# By a unit test; by a scenario; by neither; by no unit test, and the scenarios were not asked; not tried.
TEST, SCENARIO, NEITHER, NO_TEST, UNTRIED = "tsnu."
KEPT = "an earlier run"  # what has found a mutant, if only the letter is left of it

Texts = Mapping[tuple[str, str], str]


@dataclasses.dataclass
class Answers:
    """Which unit test has found each mutant that was tried, and which scenario; "" if none did."""

    tests: dict[Mutant, str] = dataclasses.field(default_factory=dict)
    scenarios: dict[Mutant, str] = dataclasses.field(default_factory=dict)


def texts(package: Path, modules: Iterable[str]) -> dict[tuple[str, str], str]:
    """Return a digest of each function's syntax, by (module, function)."""
    return {
        (module, name): hashlib.sha256(ast.dump(node).encode()).hexdigest()[:16]
        for module in modules
        for name, node in mutants.functions(ast.parse((package / f"{module}.py").read_text()))
    }


def line(mutant: Mutant, text: str, by: str) -> str:
    """Return one answer as a line of JSON."""
    return json.dumps({"key": key(mutant), "text": text, "by": by}) + "\n"


def key(mutant: Mutant) -> list[str | int]:
    return [mutant.module, mutant.function, mutant.how, mutant.old, mutant.new, mutant.nth]


def read(file: Path, known: Texts) -> dict[Mutant, str]:
    """Return the answers in a file of lines about functions that have not changed since."""
    found: dict[Mutant, str] = {}
    for each in file.read_text().splitlines() if file.exists() else ():
        answer = json.loads(each)
        module, function, how, old, new, nth = answer["key"]
        if known.get((module, function)) == answer["text"]:
            found[Mutant(module, function, how, old, new, nth, 0, ())] = answer["by"]
    return found


def pack(package: Path, modules: Iterable[str], found: Answers) -> str:
    """Return all answers as a small text."""
    modules = list(modules)
    known, letters = texts(package, modules), dict[tuple[str, str], str]()
    for mutant in _all(package, modules):
        place = mutant.module, mutant.function
        letters[place] = letters.get(place, "") + _letter(mutant, found)
    tried = {place: each for place, each in letters.items() if set(each) != {UNTRIED}}
    return "".join(f"{module}.{function} {known[module, function]} {each}\n" for (module, function), each in tried.items())


def _letter(mutant: Mutant, found: Answers) -> str:
    if found.tests.get(mutant):
        return TEST
    if mutant in found.scenarios:
        return SCENARIO if found.scenarios[mutant] else NEITHER
    return NO_TEST if mutant in found.tests else UNTRIED


def unpack(package: Path, modules: Iterable[str], packed: str) -> Answers:
    """Return the answers of a small text about functions that have not changed since."""
    modules = list(modules)
    known, found = texts(package, modules), Answers()
    lines = [each.split() for each in packed.splitlines()]
    letters = {(place, text): list(each) for place, text, each in lines}
    for mutant in _all(package, modules):
        left = letters.get((mutant.place, known[mutant.module, mutant.function]))
        letter = left.pop(0) if left else UNTRIED
        if letter != UNTRIED:
            found.tests[mutant] = f"test of {KEPT}" if letter == TEST else ""
        if letter in (SCENARIO, NEITHER):
            found.scenarios[mutant] = f"scenario of {KEPT}" if letter == SCENARIO else ""
    return found


def _all(package: Path, modules: Iterable[str]) -> list[Mutant]:
    return [m for module in modules for m in mutants.mutants(package, module) if m.how != "weaken"]
