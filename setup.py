"""Builds the compiled core. Everything else is in pyproject.toml.

Two kinds of Cython declarations are written here, from the core's Python files:

- ``mm/layout.pxd``: layout.py's integers as C constants, so that the two worlds cannot disagree about an offset;
- ``mm/inline/``: the functions of the hit path once more, text for text, as ``cdef inline``. Cython calls the functions of another
  module through pointers, and a hit makes some twenty such calls; ``lease.pyx`` cimports these instead, and makes none.
"""

import ast
import importlib.util
import os
import re
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

ROOT = Path(__file__).parent
MM = Path("src/foliocache/mm")
INLINE = {
    "client": "slot count enter leave note done pin hold drop keep let_go finish",
    "page_ref": "try_get put",
    "flags": "load",
    "slab": "at pfn_of _place _size",
    "xarray": "find load reload node_at slot_at pfn_of",
    "folio": "put release is_identity",
    "filemap": "find_get lookup",
}
HEADER = """\
# Written by setup.py from {0}.py and {0}.pxd; not kept in git.
cimport cython
from libc.stdint cimport int64_t, uint32_t as u32, uint64_t as u64

from .. cimport atomics, layout
from ..atomics cimport mem_t
"""


def write(name, text):
    """Write one of these files, unless it is there already. Whether it has changed."""
    target = ROOT / MM / name
    if target.exists() and target.read_text() == text:
        return False
    target.parent.mkdir(exist_ok=True)
    target.write_text(text)
    return True


def layout_pxd():
    spec = importlib.util.spec_from_file_location("layout", ROOT / MM / "layout.py")
    layout = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(layout)
    constants = {name: value for name, value in vars(layout).items() if name.isupper() and isinstance(value, int)}
    wide = {name for name, value in constants.items() if value > 0xFFFFFFFF}
    defines = "\n".join(f"    #define FC_{name} {value:#x}u{'ll' if name in wide else ''}" for name, value in constants.items())
    names = "\n".join(f'    const {"u64" if name in wide else "u32"} {name} "FC_{name}"' for name in constants)
    return (
        "# Written by setup.py from layout.py; not kept in git.\n"
        "from libc.stdint cimport uint32_t as u32, uint64_t as u64\n\n\n"
        f'cdef extern from *:\n    """\n{defines}\n    """\n{names}\n'
    )


def inline_pxd(module, names):
    """The functions with these names inline, the module's other ones as they are."""
    source = (ROOT / MM / f"{module}.py").read_text()
    functions = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    declared = {
        match["name"]: match
        for match in re.finditer(
            r"(?P<locals>(?:@cython.*\n)*)cp?def (?P<head>(?:\w+ )+(?P<name>\w+)\(.*)",
            (ROOT / MM / f"{module}.pxd").read_text(),
        )
    }
    bodies = {}
    for name in names:
        first, *_ = body = functions[name].body
        has_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
        start = first.end_lineno if has_docstring else body[0].lineno - 1
        bodies[name] = "\n".join(source.splitlines()[start : functions[name].end_lineno])
    nodes = [node for name in names for node in ast.walk(functions[name]) if isinstance(node, ast.Attribute)]
    used = {node.value.id for node in nodes} - {"atomics", "layout"}
    parts = [HEADER.format(module)]
    parts += [f"from {'.' if name in INLINE else '..'} cimport {name}\n" for name in sorted(used)]
    parts += [f"from ..{module} cimport {name}\n" for name in sorted(set(declared) - set(names))]
    parts += [f"\n\n{declared[name]['locals']}cdef inline {declared[name]['head']}:\n{bodies[name]}\n" for name in names]
    return "".join(parts)


def main():
    new_layout = write("layout.pxd", layout_pxd())
    write("inline/__init__.pxd", "")
    for module, names in INLINE.items():
        write(f"inline/{module}.pxd", inline_pxd(module, names.split()))
    compiled = [MM / f"{path.stem}.py" for path in sorted(MM.glob("*.pxd")) if path.stem not in ("layout", "__init__")]
    compiled += sorted(Path("src/foliocache").glob("*.pyx"))
    extensions = [
        Extension(
            ".".join(path.with_suffix("").parts[1:]),
            [str(path)],
            include_dirs=[str(MM)],
            depends=[str(MM / "atomics.h"), str(MM / "layout.py")],
            extra_compile_args=["-O2", "-Wall", "-Werror", "-Wno-unused-function", "-fno-strict-aliasing"],
        )
        for path in compiled
    ]
    setup(
        options={"build_ext": {"parallel": os.cpu_count()}},
        ext_modules=cythonize(
            extensions,
            language_level=3,
            build_dir="build/cython",
            nthreads=os.cpu_count(),
            force=new_layout,  # Cython does not see that every module depends on layout.pxd
            compiler_directives={
                "infer_types": True,
                "boundscheck": False,
                "cdivision": True,
                "embedsignature": True,
                "warn.undeclared": False,
            },
        ),
    )


if __name__ == "__main__":  # cythonize works in processes of its own, which may import this file
    main()
