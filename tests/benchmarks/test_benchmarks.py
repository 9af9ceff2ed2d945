"""Every bench runs with tiny sizes and gives the expected records; no figure is judged here."""

import ast
import json
import os
import pkgutil
import signal
import subprocess
import sys
from pathlib import Path

import endings
import pytest

import benchmarks
from benchmarks import __main__ as command
from benchmarks import core
from benchmarks.common import measure, native
from benchmarks.common.plan import Plan
from benchmarks.common.worker_pool import WorkerPool

ROOT = Path(benchmarks.__file__).parents[1]
KEYS = {"metric", "value", "unit", "baseline", "ratio", "budget", "met", "against"}
PROGRAM = [sys.executable, "-m", "benchmarks"]
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}


def run(*arguments):
    return subprocess.run([*PROGRAM, *arguments], env=ENVIRONMENT, capture_output=True, text=True, timeout=240, check=False)


def run_bench(name, tmp_path, *options):
    target = tmp_path / "found.json"
    done = run(name, "--tiny", "--output", str(target), *options)
    assert done.returncode == 0, done.stderr
    found = json.loads(target.read_text())
    assert found["machine"]
    (section,) = found["sections"]
    return section


def names(section):
    return {each["metric"] for each in section["results"]}


@pytest.fixture(autouse=True)
def nothing_left(alone_with_benchmarks):
    before = set(os.listdir("/dev/shm"))
    yield
    left = {name for name in set(os.listdir("/dev/shm")) - before if "bench" in name}
    assert not left


@pytest.mark.parametrize("group", core.GROUPS)
def test_core_group(group):
    for found in core.measure(group, Plan.tiny()):
        if isinstance(found, measure.Record):
            assert set(found.as_dict()) >= KEYS
            assert found.value >= 0
            assert isinstance(found.met, bool)
        else:
            assert found.why


def test_core_as_json():
    done = run("core", "--json", "--tiny")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert list(found) == ["results", "skipped"]
    assert all(set(each) == KEYS for each in found["results"])
    assert {"hit: lease", "hit ratio, shuffled epochs over twice the pool"} <= names(found)


def test_one_group_of_core():
    found = json.loads(run("core", "--json", "--tiny", "--only", "attach").stdout)
    assert names(found) == {"attach, pool of 4 MiB"}


@pytest.mark.skipif(not native.compiler(), reason="no C compiler")
def test_refcount(tmp_path):
    section = run_bench("refcount", tmp_path)
    assert "64 bytes of one file" not in [each["metric"] for each in section["skipped"]], "the core's signatures have changed"
    assert "refcount pair" in names(section)
    assert section["tables"][0]["rows"]


def test_growth(tmp_path):
    assert any(name.startswith("hit among") for name in names(run_bench("growth", tmp_path)))


def test_eviction(tmp_path):
    trace = tmp_path / "trace.txt"
    trace.write_text("\n".join(str(n % 150) for n in range(600)))
    section = run_bench("eviction", tmp_path, "--trace", str(trace))
    assert any(name.startswith("hit ratio over pool/data") for name in names(section))
    assert len(section["tables"]) in (2, 4), "without and with libcachesim"


def test_loops(tmp_path):
    found = names(run_bench("loops", tmp_path))
    assert "await read_async, 64 KiB cached" in found and len(found) == 5


def test_observe(tmp_path):
    assert {"a hit, spans enabled", "a scrape of 500 objects in 32 MiB"} <= names(run_bench("observe", tmp_path))


def test_objects(tmp_path):
    assert "get_or_create of 1 MiB, in use" in names(run_bench("objects", tmp_path))


def test_zarr(tmp_path):
    section = run_bench("zarr", tmp_path)
    found = {each["metric"]: each["value"] for each in section["results"]}
    assert found["chunks decoded by 4 processes"] == 4 and len(found) == 9
    assert all(table["rows"] for table in section["tables"])


def test_cold(tmp_path):
    section = run_bench("cold", tmp_path)
    if section["skipped"] and not section["results"]:
        pytest.skip(section["skipped"][0]["why"])
    assert section["skipped"] == [] and all(table["rows"] for table in section["tables"])
    fetched = {each["metric"]: each["value"] for each in section["results"] if each["metric"].endswith("fetched")}
    assert fetched["processes: four folio::, one object, fetched"] == 1


def test_tiers(tmp_path):
    """The disk has all of what is larger than the pool, and the origin sends three machines the data once."""
    pytest.importorskip("crc32c")
    section = run_bench("tiers", tmp_path)
    found = {each["metric"]: each["value"] for each in section["results"]}
    if not found["first epoch: folios for which the disk was too slow"]:
        assert found["second epoch of 4 x the pool: bytes from the origin"] == 0
    skipped = {each["metric"] for each in section["skipped"]}
    assert skipped or {"Valkey: load of 64 KiB", "Valkey: store of 1024 KiB"} <= set(found)
    assert all(table["rows"] for table in section["tables"])


def test_peers(tmp_path):
    section = run_bench("peers", tmp_path)
    assert "hit: lease" in names(section)
    assert all(table["rows"] for table in section["tables"])


@pytest.mark.parametrize(
    ("value", "budget", "met"), [(1.0, "<= 1.2", True), (1.3, "<= 1.2", False), (5, ">= 4", True), (1, None, True)]
)
def test_budgets(value, budget, met):
    assert measure.holds(value, budget) is met


def test_ratio_of_a_time_that_should_be_so_many_times_faster():
    found = measure.record("hit", 100.0, "ns", against="LMDB", baseline=500.0, budget=">= 4")
    assert (found.ratio, found.met) == (5.0, True)


def test_ratio_of_a_rate():
    assert measure.record("two", 1.9, "hits/s", baseline=1.0, budget=">= 1.8").ratio == 1.9


def test_rounds_rotate():
    seen = []
    measure.interleave({"a": lambda: seen.append("a") or 1.0, "b": lambda: seen.append("b") or 2.0}, 2, warmup=0)
    assert seen == ["a", "b", "b", "a"]


def test_a_core_with_another_signature_is_not_called(monkeypatch):
    monkeypatch.setitem(native._SIGNATURES, ("page_ref", "put"), "int (something else)")
    with pytest.raises(native.Unavailable, match="put"):
        native.core_function("page_ref", "put")


def test_the_registry_names_every_bench():
    """Every module of benchmarks with a function run(plan) is in the registry."""
    found = {module.name for module in pkgutil.iter_modules(benchmarks.__path__)} - {"__main__", "common"}
    assert set(command.BENCHES) == found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "there is no bench 'nothing'; there are core, "),
        (["core", "--only", "nothing"], "invalid choice: 'nothing'"),
        (["core", "--rounds", "0"], "invalid positive value: '0'"),
    ],
)
def test_wrong_usage(capsys, arguments, message):
    with pytest.raises(SystemExit) as raised:
        command.main(arguments)
    assert raised.value.code == 2
    assert message in capsys.readouterr().err


def test_a_trace_that_is_not_there_is_one_line():
    done = run("eviction", "--tiny", "--json", "--trace", "/none/trace")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "foliocache: [Errno 2] No such file or directory: '/none/trace'\n"


def test_a_bench_that_cannot_run_is_skipped(monkeypatch):
    def run(plan):
        raise measure.Unavailable("needs two processors")

    monkeypatch.setattr("benchmarks.growth.run", run)
    assert command.measure("growth", Plan.tiny()).found == [measure.Skipped("growth", "needs two processors")]


def setup_without_a_compiler():
    raise measure.Unavailable("needs a C compiler")


def test_a_worker_that_cannot_measure_says_what_is_missing():
    with pytest.raises(measure.Unavailable, match="needs a C compiler"), WorkerPool(setup_without_a_compiler, [()] * 2):
        pass


def test_what_is_written_goes_between_its_markers():
    text = "a\n<!-- bench:x -->\nold\n<!-- /bench:x -->\nb\n"
    assert command.between_markers(text, "x", "new") == text.replace("old", "new")
    assert command.between_markers(text, "y", "new") == text


def test_every_bench_has_its_place_in_the_document():
    text = (ROOT / "docs" / "performance.md").read_text()
    for name in (*command.BENCHES, "machine"):
        assert f"<!-- bench:{name} -->" in text and f"<!-- /bench:{name} -->" in text


def test_one_file_alone_reaches_into_the_library():
    """Through private names, or modules that are not documented for users."""
    allowed = {
        "foliocache.adapters.fsspec",
        "foliocache.cli.exits",
        "foliocache.cli.memory",
        "foliocache.cli.output",
        "foliocache.cli.app",
    }
    allowed |= {"foliocache.cli.demo.origin", "foliocache.cli.signals", "foliocache.observe"}
    allowed |= {"foliocache.torch", "foliocache.zarr"}
    found = []
    for path in Path(benchmarks.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                found += [(path.name, node.attr)] * (not (isinstance(node.value, ast.Name) and node.value.id == "self"))
            if (
                isinstance(node, ast.ImportFrom)
                and (node.module or "").startswith("foliocache.")
                and node.module not in allowed
            ):
                found.append((path.name, node.module))
    assert {name for name, _ in found} == {"inside.py"}, found


CREW = [*PROGRAM, "core", "--only", "processes", "--rounds", "1000", "--json"]


class TestEndings:
    """However the run or one of its processes is ended: nothing waits for ever, and no process or pool remains."""

    @pytest.mark.parametrize("whom", ["the command", "all"])
    @pytest.mark.parametrize(
        ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
    )
    def test_a_signal(self, whom, number, code, word):
        with endings.started(CREW, ENVIRONMENT) as process:
            endings.children(process, 2, "spawn_main")
            (os.kill if whom == "the command" else os.killpg)(process.pid, number)
            if whom == "all" and number == signal.SIGTERM:
                _, err = process.communicate(timeout=endings.SOON)  # a worker may be gone before the command hears of it
                assert process.returncode in (143, 3), err
            else:
                endings.ends(process, code, f"foliocache: {word}")

    def test_a_worker_is_killed(self):
        with endings.started(CREW, ENVIRONMENT) as process:
            os.kill(endings.children(process, 2, "spawn_main")[1], signal.SIGKILL)
            endings.ends(process, 3, r"foliocache: a benchmark's process .*exit code -9.*")


def test_the_command_is_killed():
    """Its processes end; the pool's file stays, because no process is left to remove it."""
    before = set(os.listdir("/dev/shm"))
    with endings.started(CREW, ENVIRONMENT) as process:
        endings.children(process, 2, "spawn_main")
        process.kill()
        process.communicate(timeout=endings.SOON)
    for name in set(os.listdir("/dev/shm")) - before:
        if f"bench-{process.pid}-" in name:
            os.unlink(f"/dev/shm/{name}")


def test_memory(tmp_path):
    section = run_bench("memory", tmp_path)
    assert "open a new pool of the default size" in names(section)
    if not any("cgroup" in each["why"] for each in section["skipped"]):
        assert "processes killed, pool" in names(section) and len(section["tables"][0]["rows"]) == 2
