"""Scenarios: named programs over the shipped core, with the bugs that each must notice.

A scenario is a function that builds a :class:`Program` from a copy of the core. Its *bugs* are mutations of the shipped source;
each says under which models it must be found, and the suite is as surprised by a bug that goes unnoticed as by a failure
without one. *Variants* are mutations that are right as well: another scheme, or an order that the protocol does not need.
"""

import dataclasses
import importlib
import inspect
import time
import types

from . import atomics, loader
from .program import explore

SCENARIOS: dict = {}
MODULES = ("counting", "lookup", "gup", "waiting", "tree", "nodes", "death", "death_path", "death_parts", "refused")
ALL = ("sc", "tso", "rc11")
WEAK = ("rc11",)


@dataclasses.dataclass(frozen=True)
class Bug:
    """Edits of the shipped source, the models under which they must make the scenario fail, and what goes wrong."""

    edits: tuple
    fails: tuple = ALL
    why: str = ""


@dataclasses.dataclass
class Scenario:
    name: str
    build: object
    doc: str
    layout: dict
    stand_ins: tuple
    bugs: dict
    variants: dict
    slow: bool

    def expected(self, model, mutation):
        if mutation is None or mutation in self.variants:
            return "holds"
        return "fails" if model in self.bugs[mutation].fails else "holds"

    def mutations(self):
        return [*self.bugs, *self.variants]

    def program(self, mutation=None):
        edits = ()
        if mutation is not None:
            edits = (self.bugs.get(mutation) or self.variants[mutation]).edits
        core = loader.load(facade(), self.layout, (*self.stand_ins, *edits))
        core.detach()
        return self.build(core)


@dataclasses.dataclass
class Row:
    """One line of the table."""

    scenario: str
    model: str
    mutation: str
    verdict: str
    expected: str
    exact: bool
    executions: int
    graphs: int
    operations: int
    seconds: float
    found: object = dataclasses.field(default=None, repr=False)

    @property
    def surprise(self):
        return self.verdict != self.expected


def scenario(name, layout=None, stand_ins=(), bugs=None, variants=None, slow=False):
    """Registers the decorated builder. What is ``slow`` is left to ``foliocache verify``: the tests explore it only to find its bugs."""

    def register(build):
        doc = inspect.cleandoc(build.__doc__ or "")
        SCENARIOS[name] = Scenario(name, build, doc, layout or {}, tuple(stand_ins), bugs or {}, variants or {}, slow)
        return build

    return register


def facade():
    """The simulated atomics, and what stand-ins need besides: a mark on a page's content that it is nobody's."""
    body = types.ModuleType("atomics")
    vars(body).update({name: thing for name, thing in vars(atomics).items() if not name.startswith("_") and name != "current"})
    body.poison = poison
    return body


def poison(mem, pfn):
    mem.write(("page", pfn), "nobody's")


def load_all():
    """Every registered scenario, by name."""
    for module in MODULES:
        importlib.import_module(f"foliocache.check.scenarios.{module}")
    return SCENARIOS


def run(which, model="rc11", mutation=None, jobs=1, budget=None, bound=None):
    """Explore one scenario under one model, as shipped or with one mutation."""
    program = which.program(mutation)
    start = time.perf_counter()
    result = explore(program, model, jobs=jobs, budget=budget, bound=bound)
    verdict = "fails" if result.failure else "holds"
    return Row(
        which.name, model, mutation, verdict, which.expected(model, mutation), result.finished and not result.stutters,
        result.executions, result.graphs, result.operations, time.perf_counter() - start, result.failure,
    )  # fmt: skip
