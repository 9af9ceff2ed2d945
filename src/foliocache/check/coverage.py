"""Checks that every atomic operation is needed as it is: each is weakened and dropped in turn, against a whole suite.

``python -m foliocache.check.coverage`` prints, for every atomic operation of the modules that the protocol's argument rests
on, which scenario fails without it, or the reason why it may be weaker than it is. An operation with neither is a gap in the
suite.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from . import mutants, parallel, scenario, trial
from .mutants import Mutant

if TYPE_CHECKING:
    from .scenario import Suite


Recheck: TypeAlias = tuple[str, str, str, str, str]

# What changes memory or orders, as a statement: left out, it is not there at all.
STORES = tuple(f"atomics.{name}_" for name in ("store", "copy_in", "copy_out", "fence", "asymmetric_fence", "fetch", "cmpxchg"))


@dataclasses.dataclass(frozen=True)
class Claims:
    """What a suite claims about the atomic operations in ``modules``; ``Suite.claims``.

    ``reasons`` says why operations stay although no scenario fails without them, by (module, function, "weaken" or "drop").
    ``asked(name, module, function)`` returns True if the scenario of that name is to be tried on a change in that function.
    ``rechecks`` are about second loads of a word: (caller, scenario, bug, expected verdict, remark).
    """

    modules: tuple[str, ...]
    reasons: dict[tuple[str, str, str], str]
    asked: Callable[[str, str, str], bool]
    rechecks: tuple[Recheck, ...] = ()


def changes(package: Path, module: str) -> Iterator[Mutant]:
    """Yield every change of every atomic operation in a module: relaxed, or left out."""
    for mutant in mutants.mutants(package, module):
        if mutant.how in ("weaken", "forget") or (mutant.how == "drop" and mutant.old.startswith(STORES)):
            yield mutant


def how(change: Mutant) -> str:
    """Return "weaken" or "drop"."""
    return "weaken" if change.how == "weaken" else "drop"


def caught(suite: Suite, change: Mutant) -> tuple[str, str] | None:
    """Return the first scenario that fails with this change under rc11, and how it fails; None if all hold."""
    claims = _claims(suite)
    for which in suite.scenarios.values():
        if claims.asked(which.name, change.module, change.function):
            found = trial.found(which, change)
            if found:
                return which.name, found
    return None


def _claims(suite: Suite) -> Claims:
    if suite.claims is None:
        raise ValueError("this suite makes no claims")
    return suite.claims


def survey(suite: Suite) -> list[tuple[Mutant, tuple[str, str] | None]]:
    """Return (change, what catches it or None) for every change, by processes on every core."""
    found = [change for module in _claims(suite).modules for change in changes(suite.package, module)]
    by = dict(parallel.each(lambda change: caught(suite, change), found, os.cpu_count() or 1))
    return [(change, by[change]) for change in found]


def rechecks(suite: Suite) -> list[tuple[Recheck, str]]:
    """Return (row of ``Claims.rechecks``, the verdict found) for each."""
    return [(row, scenario.run(suite.scenarios[row[1]], "rc11", row[2]).verdict) for row in _claims(suite).rechecks]


def main(suite: Suite) -> int:
    """Print the survey of ``suite``; return 1 if an operation is neither needed nor explained, else 0."""
    holes = 0
    for change, found in survey(suite):
        reason = _claims(suite).reasons.get((change.module, change.function, how(change)))
        verdict = f"{found[0]}: {found[1]}" if found else f"not needed: {reason}" if reason else "NOT CAUGHT"
        holes += not found and not reason
        print(f"{change.place:26} {how(change):6} {change.old:62.62} {verdict}")
    for (where, name, bug, expected, remark), verdict in rechecks(suite):
        holes += verdict != expected
        print(f"{where:19} look again, left out: {name} with {bug} {verdict} ({remark})")
    print(f"{holes} not caught and not explained")
    return 1 if holes else 0


if __name__ == "__main__":
    sys.exit(main(scenario.load_suite("foliocache.check.scenarios")))
