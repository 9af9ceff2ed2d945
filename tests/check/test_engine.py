"""The engine imports nothing of foliocache: it is given the folder of a package, and checks that."""

import ast
import sys
import types
from pathlib import Path

import pytest

import foliocache.check
from foliocache.check import facade_model, facade_threads, loader, replay, scenario, trace
from foliocache.check.mutation import Edit
from foliocache.check.program import Program

ENGINE = Path(foliocache.check.__file__).parent
MODULES = loader.modules(ENGINE)

COUNTER = """
import cython
if not cython.compiled:
    from . import atomics, layout

def add(mem):
    return atomics.fetch_add_relaxed(mem, layout.COUNT, layout.STEP)
"""
MAIL = """
import cython
if not cython.compiled:
    from . import atomics

def post(mem):
    atomics.plain(mem, 64, 7)
    atomics.atomic_store(mem, 0, 7, atomics.release)

def read(mem):
    if atomics.atomic_load(mem, 0, atomics.acquire) == 7:
        atomics.plain(mem, 64, 8)
"""
RACY = Edit(
    "counter",
    "add",
    "atomics.fetch_add_relaxed(mem, layout.COUNT, layout.STEP)",
    "atomics.store_relaxed(mem, layout.COUNT, atomics.load_relaxed(mem, layout.COUNT) + layout.STEP)",
)


def imports(tree):
    """(level, module) of every import in a module, also within functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.level, node.module
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.level, alias.name) for alias in node.names)


@pytest.mark.parametrize("module", MODULES)
def test_imports_stay_in_the_engine(module):
    found = set(imports(ast.parse((ENGINE / f"{module}.py").read_text())))
    assert {name for level, name in found if level == 1} <= set(MODULES), "an engine module imports scenarios"
    assert {name.partition(".")[0] for level, name in found if level == 0} <= sys.stdlib_module_names
    assert {level for level, _ in found} <= {0, 1}


def calls_naming(tree, text):
    """The functions that are called with a string that contains ``text``, docstrings left out; None for a string anywhere
    else."""
    docstrings = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
    calls = {id(a): ast.unparse(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call) for a in n.args}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and text in str(node.value) and id(node) not in docstrings:
            yield calls.get(id(node))


def test_a_suite_is_reached_through_the_registry_alone():
    named = {m: list(calls_naming(ast.parse((ENGINE / f"{m}.py").read_text()), "foliocache")) for m in MODULES}
    assert {module: calls for module, calls in named.items() if calls} == {
        "coverage": ["scenario.load_suite"],
        "mutate": ["scenario.load_suite"],
        "reach": ["scenario.load_suite"],
    }


@pytest.fixture
def counter(tmp_path):
    """A package that has nothing to do with foliocache."""
    (tmp_path / "layout.py").write_text("COUNT = 8\nSTEP = 2\n")
    (tmp_path / "counter.py").write_text(COUNTER)
    return tmp_path


def test_another_package_is_checked(counter):
    suite = scenario.Suite(counter)

    @suite.scenario("count/two", {"STEP": 1}, bugs={"racy": scenario.Bug((RACY,), scenario.ALL, "an increment is lost")})
    def two(core):
        """A program of two threads that count."""

        def final(mem, results):
            assert core.atomics.load_relaxed(mem, core.layout.COUNT) == 2

        return Program([core.counter.add, core.counter.add], None, final)

    which = suite.scenarios["count/two"]
    for model in scenario.ALL:
        assert [scenario.run(which, model, bug).verdict for bug in (None, "racy")] == ["holds", "fails"]


def test_a_suite_has_helpers_of_its_own(counter):
    assert scenario.Suite(counter, {"poison": print}).facade().poison is print
    assert not hasattr(scenario.Suite(counter).facade(), "poison")


def test_a_suite_has_a_facade_and_a_formatter_of_its_own(tmp_path):
    """The source of another project, which calls its operations as C11 does; its counterexamples show values as it does."""
    operations = types.ModuleType("c11")
    operations.relaxed, operations.release, operations.acquire = "relaxed", "release", "acquire"
    operations.atomic_load = lambda mem, at, order: getattr(facade_model, f"load_{order}")(mem, at)
    operations.atomic_store = lambda mem, at, value, order: getattr(facade_model, f"store_{order}")(mem, at, value)
    operations.plain = facade_model.write32
    (tmp_path / "mail.py").write_text(MAIL)
    suite = scenario.Suite(tmp_path, show=lambda value, function: f"<{value}>", facade=operations)
    assert not hasattr(suite.facade(), "load_relaxed")

    @suite.scenario("mail/post", bugs={"relaxed": scenario.Bug((Edit("mail", "post", "release", "relaxed"),), scenario.WEAK)})
    def post(core):
        return Program([core.mail.post, core.mail.read])

    which = suite.scenarios["mail/post"]
    rows = [scenario.run(which, model, bug) for model in scenario.ALL for bug in (None, "relaxed")]
    assert [row.verdict for row in rows] == ["holds"] * 5 + ["fails"]
    program = which.program("relaxed")
    graph, failure = replay.replay(program, "rc11", rows[-1].found.replay_string)
    told = trace.text(graph, program, failure)
    assert "mail.post" in told and "<7>" in told


def test_only_the_modules_of_the_package_are_found(counter):
    core = loader.load(counter, facade_threads)
    assert loader.modules(counter) == ["counter", "layout"]
    with pytest.raises(AttributeError, match="no module 'missing'"):
        core.missing  # noqa: B018
    with pytest.raises(ValueError, match="NO_SUCH"):
        loader.load(counter, facade_threads, {"NO_SUCH": 1}).layout  # noqa: B018


def test_every_module_of_a_suite_is_imported(tmp_path, monkeypatch):
    package = tmp_path / "some_suite"
    package.mkdir()
    (package / "__init__.py").write_text("from foliocache.check.scenario import Suite\nSUITE = Suite(None)\n")
    (package / "one.py").write_text("from . import SUITE\n@SUITE.scenario('one/one')\ndef one(core):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert list(scenario.load_suite("some_suite").scenarios) == ["one/one"]
