"""Cross-builds the wheel for 64-bit ARM, and runs the core's tests under emulation.

The compiler is Debian's (``gcc-aarch64-linux-gnu``), the emulator is ``qemu-aarch64-static`` (``qemu-user-static``). The
interpreter, its headers and the C library that it is built with are Debian's own for arm64: apt resolves and fetches them into
a folder, the root of compiler and emulator; nothing is installed. Where one of these lacks, it says so and what to install.

The tests of ``mm`` run with a processor that has the atomic instructions of Armv8.1 (LSE), and those of the atomics again with
one that has not, where each is a loop of load-exclusive and store-exclusive.
"""

import argparse

from tools import cross
from tools.cross import PYTHON
from tools.wheels import ROOT, run

WORK = ROOT / "build/aarch64"
COMPILER = "aarch64-linux-gnu-gcc"
EMULATOR = "qemu-aarch64-static"
PACKAGES = [f"python{PYTHON}-minimal", f"libpython{PYTHON}-stdlib", f"libpython{PYTHON}-dev"]
CPUS = {"max": "tests/mm", "cortex-a53": "tests/mm/test_atomics.py"}


def interpreter():
    """Fetch Debian's Python for arm64 with what it needs, and return the root of its files."""
    state, root = WORK / "apt", WORK / "root"
    if root.exists():
        return root
    sources = "Dir::Etc::sourcelist=/etc/apt/sources.list.d/debian.sources"
    apt = cross.apt(state, sources, "APT::Architecture=arm64", "APT::Architectures=arm64")
    run(*apt, "install", "--yes", "--no-install-recommends", "--download-only", *PACKAGES, timeout=600)
    for package in (state / "cache/archives").glob("*.deb"):
        run("dpkg", "-x", package, WORK / "unpacked")
    (WORK / "unpacked").rename(root)
    return root


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--no-tests", action="store_true", help="build the wheel alone")
    arguments = parser.parse_args()
    cross.need(COMPILER, EMULATOR, "apt-get", "dpkg", install="gcc-aarch64-linux-gnu qemu-user-static")
    root = interpreter()
    target = cross.Target(
        work=WORK,
        triplet="aarch64-linux-gnu",
        platform="linux-aarch64",
        policies=["manylinux_2_28_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64"],
        compiler=f"{COMPILER} --sysroot={root}",
        headers=[root / f"usr/include/python{PYTHON}"],
    )
    made = target.wheel()
    if arguments.no_tests:
        return
    packages, tree = target.packages(made), target.tree()
    for cpu, chosen in CPUS.items():
        print(f"on {cpu}:", flush=True)
        emulated = [EMULATOR, "-cpu", cpu, "-L", root, root / f"usr/bin/python{PYTHON}"]
        cross.tests(emulated, target.compiler, tree, packages, chosen)


if __name__ == "__main__":
    main()
