"""Builds the compiled core. Everything else is in pyproject.toml, and what is generated is written by tools/generate.py."""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

MM = Path("src/foliocache/mm")
POOL = Path("src/foliocache/pool")
BUILD = Path("build/cython")

# What modules are linked without, since they are small and many: gaps up to the next page, which may be of 64 KiB on aarch64.
# noseparate-code: code has no pages of its own, apart from constants. Only the linkers of x86 do that by themselves.
# norelro: what is read-only after relocation need not end with a page. Without binding at load time it is some 600 bytes of a
# module, and the table of functions' addresses is not among them.
LINKED = ["-Wl,-z,noseparate-code", "-Wl,-z,norelro"]

# Each function of the hit path begins with a cache line: where it lands otherwise is worth up to a tenth of a hit. Modules in
# which no read spends its time are compiled for size, the largest of all, the audit, among them.
SMALL = (
    *("audit", "awaited", "calls", "descriptor", "flow", "headroom", "overlay", "question", "reap", "scan", "slot", "trim"),
    "waiter",
)
HOW = {"folio_map": ["-O2", "-falign-functions=64"], **{name: ["-Os"] for name in SMALL}}


def sources():
    """Every module of the core that has C types, and the .pyx modules around it."""
    core = [MM / f"{path.stem}.py" for path in sorted(MM.glob("*.pxd")) if path.stem not in ("layout", "__init__")]
    return [*core, *sorted(Path("src/foliocache").rglob("*.pyx"))]


def extension(path):
    return Extension(
        ".".join(path.with_suffix("").parts[1:]),
        [str(path)],
        include_dirs=[str(MM), str(POOL)],
        depends=[
            str(MM / "atomics.h"),
            str(MM / "layout.h"),
            str(MM / "layout.pxd"),
            str(POOL / "stat.h"),
            *([str(POOL / "section.h")] if path.parent == POOL else []),
        ],
        extra_compile_args=[*HOW.get(path.stem, ["-O2"]), "-Wall", "-Werror", "-Wno-unused-function", "-fno-strict-aliasing"],
        extra_link_args=LINKED,
    )


def declarations_are_newer():
    """True if some C file is older than the constants or the inlined functions. Cython does not see which modules have them."""
    newest = max(path.stat().st_mtime for path in (MM / "layout.pxd", *(MM / "inline").glob("*.pxd")))
    written = [BUILD / path.with_suffix(".c") for path in sources()]
    return any(path.exists() and path.stat().st_mtime < newest for path in written)


def main():
    setup(
        options={"build_ext": {"parallel": os.cpu_count()}},
        ext_modules=cythonize(
            [extension(path) for path in sources()],
            language_level=3,
            build_dir=str(BUILD),
            nthreads=os.cpu_count(),
            force=declarations_are_newer(),
            compiler_directives={
                "infer_types": True,
                "boundscheck": False,
                "cdivision": True,
                "binding": False,  # a method of a cdef class is a descriptor that checks what it is called with
                "embedsignature": True,
                "embedsignature.format": "clinic",
                "warn.undeclared": False,
                "freethreading_compatible": True,  # by critical sections: pool/section.h
            },
        ),
    )


if __name__ == "__main__":  # cythonize works in processes of its own, which may import this file
    main()
