"""Scenarios: named programs over a package's source, with the bugs that each must detect.

A scenario is a function that builds a :class:`Program` from a copy of the package. Its *bugs* are mutations of the source;
each says under which models it must be found. A bug that is not found is as much a surprise as a failure without a bug.
*Variants* are mutations that are correct: another scheme, or without an order that the protocol does not need.

The scenarios on one package are a :class:`Suite`, in a package of its own. The engine accesses it only through
:func:`load_suite`.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
import pkgutil
import time
import types
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from . import facade_model, loader
from .program import explore
from .sample import sample

if TYPE_CHECKING:
    from .coverage import Claims
    from .explore import Found
    from .graph import Value
    from .loader import Core
    from .mutation import Mutation
    from .program import Program

Build: TypeAlias = "Callable[[Core], Program]"

ALL = ("sc", "tso", "rc11")
WEAK = ("rc11",)


@dataclasses.dataclass(frozen=True)
class Bug:
    """Edits of the source, the models under which they must make the scenario fail, and what goes wrong."""

    edits: tuple[Mutation, ...]
    fails: tuple[str, ...] = ALL
    why: str = ""


class Suite:
    """The scenarios on the source in the folder ``package``, by name.

    ``facade`` has what the source gets as ``atomics``: the names of ``facade_model``, unless the source calls its operations
    otherwise; then functions that call those. ``helpers`` are functions that stand-ins for parts of the source may call
    besides, as in ``atomics.poison``. ``show`` is that of its programs, unless they have one of their own.
    """

    def __init__(
        self,
        package: Path,
        helpers: dict[str, Callable[..., Any]] | None = None,
        show: Callable[[Value, str], str] | None = None,
        facade: types.ModuleType = facade_model,
    ) -> None:
        self.package = package
        self.operations = facade
        self.helpers: dict[str, Callable[..., Any]] = helpers or {}
        self.show = show
        self.scenarios: dict[str, Scenario] = {}
        self.claims: Claims | None = None  # of ``coverage``, if the suite makes any

    def scenario(
        self,
        name: str,
        layout: dict[str, int] | None = None,
        stand_ins: Iterable[Mutation] = (),
        bugs: dict[str, Bug] | None = None,
        variants: dict[str, Bug] | None = None,
        slow: bool = False,
    ) -> Callable[[Build], Build]:
        """Register the decorated builder under ``name``.

        ``layout`` are constants of that module, made smaller; ``stand_ins`` are mutations of every copy. A ``slow`` scenario is
        explored by ``foliocache verify`` only, under rc11 unless another model is named; the tests look for its bugs, and at
        samples.
        """

        def register(build: Build) -> Build:
            doc = inspect.cleandoc(build.__doc__ or "")
            self.scenarios[name] = Scenario(
                name, build, doc, layout or {}, tuple(stand_ins), bugs or {}, variants or {}, slow, self
            )
            return build

        return register

    def load(self, layout: Mapping[str, int], mutations: Iterable[Mutation]) -> Core:
        """Return a copy of the source over simulated memory."""
        core = loader.load(self.package, self.facade(), layout, mutations)
        core.detach()
        return core

    def facade(self) -> types.ModuleType:
        """Return a facade of its own for one copy: simulated atomics and the helpers."""
        names = {name: thing for name, thing in vars(self.operations).items() if not name.startswith("_") and name != "current"}
        facade = types.ModuleType(loader.FACADE)
        vars(facade).update(names | self.helpers)
        return facade


def load_suite(name: str) -> Suite:
    """Import every module of the package ``name`` (those of ``foliocache.check.scenarios``, say) and return its ``SUITE``."""
    package = importlib.import_module(name)
    for module in pkgutil.iter_modules(package.__path__, f"{name}."):
        importlib.import_module(module.name)
    suite: Suite = package.SUITE
    return suite


@dataclasses.dataclass
class Scenario:
    name: str
    build: Build
    doc: str
    layout: dict[str, int]
    stand_ins: tuple[Mutation, ...]
    bugs: dict[str, Bug]
    variants: dict[str, Bug]
    slow: bool
    suite: Suite = dataclasses.field(repr=False)

    def expected(self, model: str, mutation: str | None) -> str:
        """Return "holds" or "fails"."""
        if mutation is None or mutation in self.variants:
            return "holds"
        return "fails" if model in self.bugs[mutation].fails else "holds"

    def mutations(self) -> list[str]:
        return [*self.bugs, *self.variants]

    def program(self, mutation: str | None = None) -> Program:
        """Return the program on a fresh copy of the source, as shipped or with the bug or variant of that name."""
        edits: tuple[Mutation, ...] = ()
        if mutation is not None:
            edits = (self.bugs.get(mutation) or self.variants[mutation]).edits
        program = self.build(self.suite.load(self.layout, (*self.stand_ins, *edits)))
        program.show = program.show or self.suite.show
        return program


@dataclasses.dataclass
class Row:
    """One line of the table."""

    scenario: str
    model: str
    mutation: str | None
    verdict: str
    expected: str
    exact: bool
    executions: int
    graphs: int
    operations: int
    seconds: float
    cpu: float  # seconds of all processes together
    found: Found | None = dataclasses.field(default=None, repr=False)

    @property
    def surprise(self) -> bool:
        return self.verdict != self.expected and (self.verdict, self.expected) != ("sampled", "holds")


def run(
    which: Scenario,
    model: str = "rc11",
    mutation: str | None = None,
    jobs: int = 1,
    budget: float | None = None,
    bound: int | None = None,
    samples: int | None = None,
    search: str = "pct",
    seed: int = 0,
) -> Row:
    """Explore one scenario under one model, as shipped or with one mutation; return the :class:`Row`.

    With ``samples`` it is not explored: so many random executions are looked at, and the verdict is "fails" or "sampled".
    """
    program = which.program(mutation)
    start, used = time.perf_counter(), sum(os.times()[:4])
    if samples is None:
        result = explore(program, model, jobs=jobs, budget=budget, bound=bound)
    else:
        result = sample(program, model, samples, search, seed=seed, budget=budget)
    verdict = "fails" if result.failure else "holds" if samples is None else "sampled"
    return Row(
        which.name, model, mutation, verdict, which.expected(model, mutation), result.finished and not result.stutters,
        result.executions, result.graphs, result.operations,
        time.perf_counter() - start, sum(os.times()[:4]) - used, result.failure,
    )  # fmt: skip
