"""The wheel contains the library, and nothing that measures, tests or generates it; and what works without the extras."""

import os
import re
import subprocess
import sysconfig
import tempfile
import tomllib
import venv
from importlib import metadata
from pathlib import Path

import pytest
from setuptools import Distribution

import foliocache

ROOT = Path(__file__).parents[1]
KINDS = (".py", ".pxd", ".pyi", ".h", ".typed", ".html", ".css", ".js")


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
    sources = [path for path in (ROOT / "src").rglob("*") if path.suffix in KINDS]
    assert len(sources) > 100 and set(files) == {path.relative_to(ROOT / "src") for path in sources}
    of_cython = [path.relative_to(ROOT / "src") for path in (ROOT / "src").rglob("*.p[yx][xd]")]
    compiled = {each.with_suffix("") for each in of_cython if each.stem != "__init__"}
    stubs = {each.with_suffix("") for each in files if each.suffix == ".pyi"}
    inline = {each for each in compiled if each.parent.name == "inline"}
    assert stubs == compiled - inline - {Path("foliocache/mm/layout")}, "each compiled module has a stub"
    assert not [each for each in files if {"bench", "benchmarks", "tests", "tools", "examples"} & set(each.parts)]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this tree is not git's")
def test_the_source_distribution_has_what_git_has(distribution, tmp_path):
    git = ["git", "-C", ROOT, "ls-files", "-z"]
    tracked = subprocess.run(git, capture_output=True, text=True, timeout=60, check=True).stdout.split("\0")[:-1]
    command = distribution.get_command_obj("egg_info")
    command.egg_base = str(tmp_path)
    command.ensure_finalized()
    command.run()
    files = set(command.filelist.files)
    assert len(tracked) > 300 and {name for name in tracked if (ROOT / name).exists()} <= files
    assert not [name for name in files if name.endswith((".so", ".pyc"))]


def test_no_other_command_is_installed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert list(project["scripts"]) == ["foliocache"]


@pytest.fixture
def bare(distribution, tmp_path):
    """A virtual environment of the library and what it requires without an extra: the folder of its packages."""
    venv.create(tmp_path / "venv", symlinks=True)
    folder = Path(sysconfig.get_path("purelib", "venv", {"base": str(tmp_path / "venv")}))
    command = distribution.get_command_obj("dist_info")
    command.output_dir = str(folder)
    command.ensure_finalized()
    command.run()
    (folder / "foliocache").symlink_to(Path(foliocache.__file__).parent)
    for name in set(requirements(installed(folder))):
        for part in {file.parts[0] for file in metadata.files(name)} - {".."}:
            (folder / part).symlink_to(metadata.distribution(name).locate_file(part))
    return folder


def installed(folder):
    """The metadata of the library in a folder of packages."""
    (found,) = metadata.distributions(name="foliocache", path=[str(folder)])
    return found


def requirements(distribution):
    """The names of packages that a distribution requires without an extra, and that those require."""
    for one in distribution.requires or ():
        if ";" not in one:
            name = re.match(r"[\w.-]+", one)[0]
            yield name
            yield from requirements(metadata.distribution(name))


def in_venv(folder, *arguments):
    """Run its Python: exit code, stdout, stderr."""
    with tempfile.TemporaryDirectory(prefix="foliocache-test-", dir="/dev/shm") as pools:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"FOLIOCACHE_DIR": pools}
        command = [folder.parents[2] / "bin" / "python", *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


READ = """
import sys, fsspec
with fsspec.open("folio::" + sys.argv[1], folio={"name": "bare", "size": "4MiB"}) as file:
    print(file.read().decode())
print(*sorted({"cyclopts", "rich", "numpy", "aiohttp"} & set(sys.modules)))
"""


def test_without_an_extra_the_library_works(bare, tmp_path):
    assert in_venv(bare, "-c", "import foliocache, sys; print('fsspec' in sys.modules)") == (0, "False\n", "")
    (tmp_path / "file").write_text("content")
    assert in_venv(bare, "-c", READ, (tmp_path / "file").as_uri()) == (0, "content\n\n", "")


def test_without_the_extra_the_command_says_what_to_install(bare):
    (script,) = installed(bare).entry_points.select(group="console_scripts")
    program = f"import sys; from {script.module} import {script.attr}; sys.exit({script.attr}())"  # as pip writes it
    for command in (["-c", program], ["-m", "foliocache"]):
        for arguments in ([], ["--help"], ["stat", "--json"]):
            code, out, err = in_venv(bare, *command, *arguments)
            assert (code, out, err.count("\n")) == (3, "", 1)
            assert err.startswith("foliocache: ") and 'pip install "foliocache[cli]"' in err
