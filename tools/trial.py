"""Runs the tests against another installation than the checkout's own, each in a new virtual environment:

``wheel``   the wheel of dist/ for this Python, where no compiler is found; all tests but those that build, or read symbols
``lowest``  the oldest dependencies that pyproject.toml allows; the tests of what meets a dependency
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
COMPILER = re.compile(r"(.*-)?(cc|c\+\+|gcc|g\+\+|clang|clang\+\+|cpp|tcc|c[89]9)(-[\d.]+)?$")
PYTEST = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "3", "--dist", "worksteal"]  # as `make test`
LEFT_OUT = [
    *("tests/test_pythons.py", "tests/test_generated.py", "tests/test_wheel.py"),  # they build
    "tests/mm/test_objdump.py",  # reads symbols, which a wheel has not
]
MEETS = ["tests/fs", "tests/zarr_store", "tests/objects", "tests/cli", "tests/test_async.py", "tests/test_wheel.py"]
TREE = [
    "tests",
    "docs",
    "benchmarks",
    "tools",
    "examples",
    "src",
    "pyproject.toml",
    "setup.py",
    "Makefile",
    ".github",
    *map(str, ROOT.glob("*.md")),
]


def run(*command, **options):
    subprocess.run([str(part) for part in command], check=True, **options)


def copied(folder):
    """Copy what the tests read into a folder, without any compiled module: what they import is what is installed."""
    for name in TREE:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, folder / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        else:
            shutil.copy(path, folder)
    return folder


def without_compilers(folder):
    """Make a folder of the commands of this machine but the compilers, and return it."""
    folder.mkdir()
    for path in map(Path, [*os.environ["PATH"].split(os.pathsep), "/usr/sbin"]):
        for command in sorted(path.iterdir()) if path.is_dir() else []:
            if not COMPILER.match(command.name) and not (folder / command.name).is_symlink():
                (folder / command.name).symlink_to(command)
    assert not any(shutil.which(name, path=folder) for name in ("cc", "gcc", "c++", "clang"))
    return folder


def of_the_wheel(python, work, chosen):
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    (wheel,) = (ROOT / "dist").glob(f"*-{tag}-{tag}-manylinux*.whl")
    tools = without_compilers(work / "bin")
    environment = os.environ | {"PATH": f"{python.parent}:{tools}", "CC": "no-compiler"}
    run(python, "-m", "pip", "install", "--quiet", f"{wheel}[test]", env=environment)
    run(python, ROOT / "examples/plain_mapping.py", env=environment, cwd=work, timeout=60)
    tree = copied(work)
    ignored = [f"--ignore={name}" for name in LEFT_OUT]
    run(python, *PYTEST, *ignored, *chosen, cwd=tree, env=environment)


def with_the_oldest(python, work, chosen):
    requires = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    uv = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", python]
    run(*uv, *requires)
    run(*uv, "--resolution", "lowest-direct", "--no-build-isolation", "--editable", f"{ROOT}[test]")
    run(python, *PYTEST, *(chosen or MEETS), cwd=ROOT)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["wheel", "lowest"])
    parser.add_argument("tests", nargs="*", help="these tests alone")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "work"
        work.mkdir()
        run(sys.executable, "-m", "venv", Path(folder) / "venv")
        python = Path(folder) / "venv/bin/python"
        {"wheel": of_the_wheel, "lowest": with_the_oldest}[arguments.what](python, work, arguments.tests)


if __name__ == "__main__":
    main()
