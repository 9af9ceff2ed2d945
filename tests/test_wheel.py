"""The wheel contains the library, and nothing that measures, tests or generates it."""

import tomllib
from pathlib import Path

import pytest
from setuptools import Distribution

ROOT = Path(__file__).parents[1]


@pytest.fixture
def distribution(monkeypatch):
    """The distribution as setup.py makes it of pyproject.toml, without its compiled modules."""
    monkeypatch.chdir(ROOT)
    made = Distribution({"script_name": "setup.py"})
    made.parse_config_files()
    made.set_defaults()
    return made


def test_the_wheel_has_the_library_alone(distribution, tmp_path):
    """The files that build_py puts into the wheel; the compiled modules lie beside them."""
    built = tmp_path / "wheel"
    metadata = tmp_path / "metadata"
    metadata.mkdir()
    distribution.get_command_obj("egg_info").egg_base = str(metadata)
    command = distribution.get_command_obj("build_py")
    command.build_lib = str(built)
    command.ensure_finalized()
    files = [Path(each).relative_to(built) for each in command.get_outputs(include_bytecode=False)]
    assert {each.parts[0] for each in files} == {"foliocache"}
    sources = [path for path in (ROOT / "src").rglob("*") if path.suffix in (".py", ".pyx", ".pxd", ".pyi", ".h", ".typed")]
    assert len(sources) > 100 and set(files) == {path.relative_to(ROOT / "src") for path in sources}
    assert not [each for each in files if {"bench", "benchmarks", "tests", "tools", "examples"} & set(each.parts)]


def test_no_other_command_is_installed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert list(project["scripts"]) == ["foliocache"]
