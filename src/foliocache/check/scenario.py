"""Scenarios: named programs over a package's source, with the bugs that each must detect.

A scenario is a function that builds a :class:`Program` from a copy of the package. Its *bugs* are mutations of the source;
each says under which models it must be found. A bug that is not found is as much a surprise as a failure without a bug.
*Variants* are mutations that are correct: another scheme, or without an order that the protocol does not need.

The scenarios on one package are a :class:`Suite`, in a package of its own. The engine accesses it only through
:func:`load_suite`.
"""

import dataclasses
import importlib
import inspect
import pkgutil
import time
import types

from . import facade_model, loader
from .program import explore

ALL = ("sc", "tso", "rc11")
WEAK = ("rc11",)


@dataclasses.dataclass(frozen=True)
class Bug:
    """Edits of the source, the models under which they must make the scenario fail, and what goes wrong."""

    edits: tuple
    fails: tuple = ALL
    why: str = ""


class Suite:
    """The scenarios on the source in the folder ``package``, by name.

    ``helpers`` are functions that stand-ins for parts of the source may call besides those of the facade, as in
    ``atomics.poison``. ``show`` is that of its programs, unless they have one of their own.
    """

    def __init__(self, package, helpers=None, show=None):
        self.package = package
        self.helpers = helpers or {}
        self.show = show
        self.scenarios = {}
        self.claims = None  # of ``coverage``, if the suite makes any

    def scenario(self, name, layout=None, stand_ins=(), bugs=None, variants=None, slow=False):
        """Register the decorated builder under ``name``.

        ``layout`` are constants of that module, made smaller; ``stand_ins`` are mutations of every copy. A ``slow`` scenario is
        explored by ``foliocache verify`` only; the tests look for its bugs and leave the rest.
        """

        def register(build):
            doc = inspect.cleandoc(build.__doc__ or "")
            self.scenarios[name] = Scenario(
                name, build, doc, layout or {}, tuple(stand_ins), bugs or {}, variants or {}, slow, self
            )
            return build

        return register

    def load(self, layout, mutations):
        """Return a copy of the source over simulated memory."""
        core = loader.load(self.package, self.facade(), layout, mutations)
        core.detach()
        return core

    def facade(self):
        """Return a facade of its own for one copy: simulated atomics and the helpers."""
        names = {name: thing for name, thing in vars(facade_model).items() if not name.startswith("_") and name != "current"}
        facade = types.ModuleType(loader.FACADE)
        vars(facade).update(names | self.helpers)
        return facade


def load_suite(name):
    """Import every module of the package ``name`` (those of ``foliocache.check.scenarios``, say) and return its ``SUITE``."""
    package = importlib.import_module(name)
    for module in pkgutil.iter_modules(package.__path__, f"{name}."):
        importlib.import_module(module.name)
    return package.SUITE


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
    suite: Suite = dataclasses.field(repr=False)

    def expected(self, model, mutation):
        """Return "holds" or "fails"."""
        if mutation is None or mutation in self.variants:
            return "holds"
        return "fails" if model in self.bugs[mutation].fails else "holds"

    def mutations(self):
        return [*self.bugs, *self.variants]

    def program(self, mutation=None):
        """Return the program on a fresh copy of the source, as shipped or with the bug or variant of that name."""
        edits = ()
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


def run(which, model="rc11", mutation=None, jobs=1, budget=None, bound=None):
    """Explore one scenario under one model, as shipped or with one mutation; return the :class:`Row`."""
    program = which.program(mutation)
    start = time.perf_counter()
    result = explore(program, model, jobs=jobs, budget=budget, bound=bound)
    verdict = "fails" if result.failure else "holds"
    return Row(
        which.name, model, mutation, verdict, which.expected(model, mutation), result.finished and not result.stutters,
        result.executions, result.graphs, result.operations, time.perf_counter() - start, result.failure,
    )  # fmt: skip
