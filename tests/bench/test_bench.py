"""Every bench runs with tiny sizes and says what it should; no figure is judged here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from foliocache.cli.bench import core, harness, native

ROOT = Path(__file__).parents[2]
KEYS = {"metric", "value", "unit", "baseline", "ratio", "budget", "met"}


def run_bench(name, tmp_path, *options):
    target = tmp_path / "found.json"
    command = [sys.executable, "-m", "bench", name, "--tiny", "--json", str(target), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(target.read_text())
    assert found["machine"]
    (section,) = found["sections"]
    return section


def names(section):
    return {each["metric"] for each in section["results"]}


@pytest.fixture(autouse=True)
def nothing_left():
    before = set(os.listdir("/dev/shm"))
    yield
    left = {name for name in set(os.listdir("/dev/shm")) - before if "bench" in name}
    assert not left


@pytest.mark.parametrize("group", core.GROUPS, ids=lambda group: group.__name__)
def test_core_group(group):
    for found in group(core.Plan.tiny()):
        if isinstance(found, harness.Record):
            assert set(found.as_dict()) >= KEYS
            assert found.value >= 0
            assert isinstance(found.met, bool)
        else:
            assert found.why


def test_refcount(tmp_path):
    section = run_bench("refcount", tmp_path)
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


def test_peers(tmp_path):
    section = run_bench("peers", tmp_path)
    assert "hit: lease" in names(section)
    assert all(table["rows"] for table in section["tables"])


@pytest.mark.parametrize(
    ("value", "budget", "met"), [(1.0, "<= 1.2", True), (1.3, "<= 1.2", False), (5, ">= 4", True), (1, None, True)]
)
def test_budgets(value, budget, met):
    assert harness.holds(value, budget) is met


def test_ratio_of_a_time_that_should_be_so_many_times_faster():
    found = harness.record("hit", 100.0, "ns", against="LMDB", baseline=500.0, budget=">= 4")
    assert (found.ratio, found.met) == (5.0, True)


def test_ratio_of_a_rate():
    assert harness.record("two", 1.9, "hits/s", baseline=1.0, budget=">= 1.8").ratio == 1.9


def test_rounds_rotate():
    seen = []
    harness.interleave({"a": lambda: seen.append("a") or 1.0, "b": lambda: seen.append("b") or 2.0}, 2, warmup=0)
    assert seen == ["a", "b", "b", "a"]


def test_a_core_with_another_signature_is_not_called(monkeypatch):
    monkeypatch.setitem(native._SIGNATURES, ("page_ref", "put"), "int (something else)")
    with pytest.raises(native.Unavailable, match="put"):
        native.core_function("page_ref", "put")
