"""Wheels for another platform than this machine's, and the core's tests with them: what test-aarch64 and test-musl share.

A target's interpreter runs the tests, in a tree where no module is found but the wheel's; its packages come from pip here.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tools.trial import copied
from tools.wheels import LIMIT, ROOT, run, size

PYTHON = "3.11"  # of Debian 12
TESTS = ["pytest", "pytest-timeout", "pytest-asyncio", "hypothesis", "fsspec"]
HOSTS = [
    "tests/mm/test_layers.py",  # reads the sources, and starts the interpreter again, which the host cannot
    "tests/mm/test_objdump.py",  # reads symbols, which a wheel has not
]
ONLY = ["-k", "not interpreted and not small_nodes", *(f"--ignore={path}" for path in HOSTS)]


@dataclass
class Target:
    """What differs between platforms. ``work`` is a folder below ``build``."""

    work: Path
    triplet: str
    platform: str
    policies: list[str]  # the first is the wheel's; the others are further ones whose wheels its interpreter takes
    compiler: str
    headers: list[Path]

    def wheel(self):
        """Build the wheel, hold it against its policy and against the limit of its size, and return its path in ``dist``."""
        raw = self.work / "raw"
        shutil.rmtree(raw, ignore_errors=True)
        shutil.rmtree(self.work / "build", ignore_errors=True)
        environment = os.environ | {
            "CC": self.compiler,
            "LDSHARED": f"{self.compiler} -shared -s",
            "CFLAGS": " ".join(f"-I{path}" for path in self.headers),
            "SETUPTOOLS_EXT_SUFFIX": f".cpython-{PYTHON.replace('.', '')}-{self.triplet}.so",
            "_PYTHON_HOST_PLATFORM": self.platform,
        }
        build = [sys.executable, "setup.py", "--quiet", "build", "--build-base", self.work / "build"]
        run(*build, "bdist_wheel", "--bdist-dir", raw / "tree", "--dist-dir", raw, cwd=ROOT, env=environment, timeout=1800)
        (made,) = raw.glob("*.whl")
        show = [sys.executable, "-m", "auditwheel", "show", made]
        shown = subprocess.run(show, capture_output=True, text=True, timeout=60, check=True).stdout
        if f'platform tag: "{self.policies[0]}"' not in " ".join(shown.split()):
            sys.exit(f"{made.name} does not keep to {self.policies[0]}:\n{shown}")
        run(sys.executable, "-m", "wheel", "tags", "--remove", "--platform-tag", self.policies[0], made)
        (made,) = raw.glob("*.whl")
        print(f"{made.name}: {made.stat().st_size:,} bytes, unpacked {size(made):,}", flush=True)
        if size(made) > LIMIT:
            sys.exit(f"{made.name} unpacks to more than {LIMIT:,} bytes")
        dist = ROOT / "dist"
        dist.mkdir(exist_ok=True)
        return shutil.copy(made, dist)

    def packages(self, made):
        """Install the wheel and what the tests import into a folder for the target's interpreter, and return the folder."""
        folder = self.work / "packages"
        shutil.rmtree(folder, ignore_errors=True)
        run(
            *[sys.executable, "-m", "pip", "install", "--quiet", "--target", folder, "--no-compile", "--only-binary=:all:"],
            *[f"--python-version={PYTHON}", "--implementation=cp", *(f"--platform={name}" for name in self.policies)],
            *[made, *TESTS],
            timeout=600,
        )
        return folder

    def tree(self):
        """Return a folder with what the tests read, where no module is compiled."""
        tree = self.work / "tree"
        shutil.rmtree(tree, ignore_errors=True)
        tree.mkdir()
        return copied(tree)


def tests(python, compiler, tree, packages, *chosen):
    """Run tests with the target's interpreter, a list of words, and with its compiler."""
    environment = os.environ | {"CC": compiler, "PYTHONPATH": str(packages), "PYTHONDONTWRITEBYTECODE": "1"}
    limits = ["-o", "timeout=600", "-p", "no:cacheprovider"]
    run(*python, "-m", "pytest", "-q", *limits, *ONLY, *chosen, cwd=tree, env=environment, timeout=3600)


def need(*commands, install):
    """Leave with a message if a command or a file lacks, or this is not the version of Python that the target has."""
    lacking = [name for name in commands if not shutil.which(name) and not Path(name).exists()]
    if lacking:
        sys.exit(f"{', '.join(map(str, lacking))}: not found; on Debian: apt-get install {install}")
    if sys.version_info[:2] != tuple(map(int, PYTHON.split("."))):
        sys.exit(f"this needs Python {PYTHON}, that of Debian 12")


def apt(state, *settings):
    """Return an apt-get that keeps all it knows in a folder, where this machine's own is not changed, after an update.

    ``settings`` are further options, the names and values of apt.conf.
    """
    (state / "lists/partial").mkdir(parents=True, exist_ok=True)
    (state / "cache/archives/partial").mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    folders = [f"Dir::State={state}", f"Dir::State::status={state / 'status'}", f"Dir::Cache={state / 'cache'}"]
    command = ["apt-get", "-qq", *(f"-o{one}" for one in [*folders, "Dir::Etc::sourceparts=-", *settings])]
    run(*command, "update", timeout=600)
    return command
