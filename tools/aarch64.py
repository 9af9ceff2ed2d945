"""Cross-builds the wheel for 64-bit ARM, and runs the core's tests under emulation.

The compiler is Debian's (``gcc-aarch64-linux-gnu``), the emulator is ``qemu-aarch64-static`` (``qemu-user-static``), and the
interpreter and its headers are Debian's own for arm64: apt resolves and fetches them into a folder of its own, and nothing is
installed. Where one of these lacks, it says so and what to install.

The tests of ``mm`` run with a processor that has the atomic instructions of Armv8.1 (LSE), and those of the atomics again with
one that has not, where each is a loop of load-exclusive and store-exclusive.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tools.trial import copied
from tools.wheels import LIMIT, ROOT, run, size

WORK = ROOT / "build/aarch64"
PREFIX = "aarch64-linux-gnu-"
EMULATOR = "qemu-aarch64-static"
POLICY = "manylinux_2_28_aarch64"
PYTHON = "3.11"  # of Debian 12
PACKAGES = [f"python{PYTHON}-minimal", f"libpython{PYTHON}-stdlib", f"libpython{PYTHON}-dev"]
TESTS = ["pytest", "pytest-timeout", "pytest-asyncio", "hypothesis", "numpy", "fsspec"]
CPUS = {"max": ["tests/mm"], "cortex-a53": ["tests/mm/test_atomics.py"]}
HOSTS = ["tests/mm/test_layers.py"]  # reads the sources, and starts the interpreter again, which the host cannot


def interpreter():
    """Fetch Debian's Python for arm64 with what it needs, and return the root of its files."""
    state, root = WORK / "apt", WORK / "root"
    if root.exists():
        return root
    (state / "lists/partial").mkdir(parents=True, exist_ok=True)
    (state / "cache/archives/partial").mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    settings = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "Dir::State": state,
        "Dir::State::status": state / "status",
        "Dir::Cache": state / "cache",
        "Dir::Etc::sourcelist": "/etc/apt/sources.list.d/debian.sources",
        "Dir::Etc::sourceparts": "-",
    }
    apt = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in settings.items())]
    run(*apt, "update", timeout=600)
    run(*apt, "install", "--yes", "--no-install-recommends", "--download-only", *PACKAGES, timeout=600)
    for package in (state / "cache/archives").glob("*.deb"):
        run("dpkg", "-x", package, WORK / "unpacked")
    (WORK / "unpacked").rename(root)
    return root


def wheel(root, folder):
    """Cross-build the wheel into a folder, hold it against the policy, and return its path."""
    raw = WORK / "raw"
    shutil.rmtree(raw, ignore_errors=True)
    shutil.rmtree(WORK / "build", ignore_errors=True)
    headers = [root / f"usr/include/python{PYTHON}", root / "usr/include"]
    environment = os.environ | {
        "CC": PREFIX + "gcc",
        "LDSHARED": PREFIX + "gcc -shared -s",
        "CFLAGS": " ".join(f"-I{path}" for path in headers),
        "SETUPTOOLS_EXT_SUFFIX": f".cpython-{PYTHON.replace('.', '')}-aarch64-linux-gnu.so",
        "_PYTHON_HOST_PLATFORM": "linux-aarch64",
    }
    build = [sys.executable, "setup.py", "--quiet", "build", "--build-base", WORK / "build"]
    run(*build, "bdist_wheel", "--bdist-dir", raw / "tree", "--dist-dir", raw, cwd=ROOT, env=environment, timeout=1800)
    (made,) = raw.glob("*.whl")
    show = [sys.executable, "-m", "auditwheel", "show", made]
    shown = subprocess.run(show, capture_output=True, text=True, timeout=60, check=True).stdout
    if f'platform tag: "{POLICY}"' not in " ".join(shown.split()):
        sys.exit(f"{made.name} does not keep to {POLICY}:\n{shown}")
    run(sys.executable, "-m", "wheel", "tags", "--remove", "--platform-tag", POLICY, made)
    (made,) = raw.glob("*.whl")
    return shutil.copy(made, folder)


def packages(made):
    """Install the wheel and what the tests import into a folder for the emulated interpreter, and return the folder."""
    folder = WORK / "packages"
    shutil.rmtree(folder, ignore_errors=True)
    kinds = [f"--platform={name}" for name in (POLICY, "manylinux_2_17_aarch64", "manylinux2014_aarch64")]
    run(
        *[sys.executable, "-m", "pip", "install", "--quiet", "--target", folder, "--no-compile", "--only-binary=:all:"],
        *[f"--python-version={PYTHON}", "--implementation=cp", *kinds, made, *TESTS],
        timeout=600,
    )
    return folder


def try_it(root, folder):
    """Run the core's tests with the emulated interpreter, where no module is found but the wheel's."""
    tree = WORK / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir()
    copied(tree)
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    for cpu, tests in CPUS.items():
        print(f"on {cpu}:", flush=True)
        emulated = [EMULATOR, "-cpu", cpu, "-L", root, root / f"usr/bin/python{PYTHON}"]
        only = ["-k", "not interpreted and not small_nodes", *(f"--ignore={path}" for path in HOSTS)]
        limits = ["-o", "timeout=600", "-p", "no:cacheprovider"]
        run(*emulated, "-m", "pytest", "-q", *limits, *only, *tests, cwd=tree, env=environment, timeout=3600)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--no-tests", action="store_true", help="build the wheel alone")
    arguments = parser.parse_args()
    lacking = [name for name in (PREFIX + "gcc", EMULATOR, "apt-get", "dpkg") if not shutil.which(name)]
    if lacking:
        sys.exit(f"{', '.join(lacking)}: not found; on Debian: apt-get install gcc-aarch64-linux-gnu qemu-user-static")
    if sys.version_info[:2] != tuple(map(int, PYTHON.split("."))):
        sys.exit(f"this needs Python {PYTHON}, whose headers Debian has for arm64")
    dist = ROOT / "dist"
    dist.mkdir(exist_ok=True)
    root = interpreter()
    made = Path(wheel(root, dist))
    print(f"{made.name}: {made.stat().st_size:,} bytes, unpacked {size(made):,}", flush=True)
    if size(made) > LIMIT:
        sys.exit(f"{made.name} unpacks to more than {LIMIT:,} bytes")
    if not arguments.no_tests:
        try_it(root, packages(made))


if __name__ == "__main__":
    main()
