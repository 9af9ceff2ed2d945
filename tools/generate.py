"""Writes the declarations that follow from the core's sources. Their output is committed; a test finds drift.

- ``mm/layout.h`` and ``mm/layout.pxd``: the integers of ``layout.py`` as C constants, so that no offset is written down twice.
- ``mm/inline/``: copies of the functions of the hit path, text for text, as ``cdef inline``. Cython calls the functions of
  another module through pointers, and a hit makes some twenty such calls; ``folio_map.pyx`` and ``lease.pyx`` cimport the
  copies instead. A declaration in a ``.pxd`` that ends in ``# inline`` marks such a function.
- ``mm/*.pyi``: for type checkers, the functions that Python can call, with the types of their module's ``.pxd``.

::

    python tools/generate.py            write what is not up to date
    python tools/generate.py --check    write nothing; exit code 1 if something is not
"""

import ast
import importlib.util
import re
import sys
from pathlib import Path

MM = Path(__file__).resolve().parent.parent / "src" / "foliocache" / "mm"
MARK = "# inline"
DECLARATION = re.compile(
    r"(?P<locals>(?:@cython.*\n)*)(?P<how>cp?def) (?P<head>(?:\w+ )+(?P<name>\w+)\((?:[^()]|\n)*\)[^#\n]*)(?P<mark>#.*)?"
)
LINE_LENGTH = 128  # ruff's
# The modules that have Python of their own; their stubs are written by hand.
BY_HAND = ("atomics", "audit")
PYTHON_TYPES = {
    "u32": "int", "u64": "int", "mem_t": "int", "bint": "bool", "void": "None", "list": "list[int]", "const char *": "bytes",
    "char *": "bytearray",
}  # fmt: skip
HEADER = """\
# Written by tools/generate.py from {0}.py and {0}.pxd.
cimport cython
from libc.stdint cimport int64_t, uint32_t as u32, uint64_t as u64

from .. cimport atomics, layout
from ..atomics cimport mem_t
"""


def constants():
    """The integers of layout.py: {name: value}."""
    spec = importlib.util.spec_from_file_location("layout", MM / "layout.py")
    layout = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(layout)
    return {name: value for name, value in vars(layout).items() if name.isupper() and isinstance(value, int)}


def is_wide(value):
    return value > 0xFFFFFFFF


def layout_h():
    defines = (f"#define FC_{name} {value:#x}u{'ll' if is_wide(value) else ''}\n" for name, value in constants().items())
    return f"/* Written by tools/generate.py from layout.py. */\n#pragma once\n\n{''.join(defines)}"


def layout_pxd():
    names = (f'    const {"u64" if is_wide(value) else "u32"} {name} "FC_{name}"\n' for name, value in constants().items())
    return (
        "# Written by tools/generate.py from layout.py.\n"
        "from libc.stdint cimport uint32_t as u32, uint64_t as u64\n\n\n"
        f'cdef extern from "layout.h":\n{"".join(names)}'
    )


def declarations(module):
    """The functions of a module's .pxd, in its order: {name: match of DECLARATION}."""
    return {match["name"]: match for match in DECLARATION.finditer((MM / f"{module}.pxd").read_text())}


def inlined(module):
    """The names of the functions of a module that are marked with MARK."""
    return [name for name, match in declarations(module).items() if match["mark"] == MARK]


def body(source, function):
    """The text of a function without its docstring."""
    first, *_ = function.body
    has_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    start = first.end_lineno if has_docstring else first.lineno - 1
    return "\n".join(source.splitlines()[start : function.end_lineno])


def inline_pxd(module, names, modules):
    """The inline/*.pxd of a module: these functions inline, the others cimported. modules: those that have such a file."""
    source = (MM / f"{module}.py").read_text()
    functions = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    declared = declarations(module)
    nodes = [node for name in names for node in ast.walk(functions[name]) if isinstance(node, ast.Attribute)]
    used = {node.value.id for node in nodes} - {"atomics", "layout"}
    parts = [HEADER.format(module)]
    parts += [f"from {'.' if name in modules else '..'} cimport {name}\n" for name in sorted(used)]
    parts += [f"from ..{module} cimport {name}\n" for name in sorted(set(declared) - set(names))]
    for name in names:
        head = f"{declared[name]['locals']}cdef inline {declared[name]['head'].rstrip()}"
        parts.append(f"\n\n{head}:\n{body(source, functions[name])}\n")
    return "".join(parts)


def stub(module):
    """The type stub of a module, from its .pxd."""
    signatures = [signature(match["head"]) for match in declarations(module).values() if match["how"] == "cpdef"]
    return f"# Written by tools/generate.py from {module}.pxd.\n" + "".join(signatures)


def signature(head):
    """A declaration's head, as a line of a stub."""
    returned, name, declared = re.match(r"(\w+) (\w+)\(([^()]*)\)", head).groups()
    parameters = [re.match(r"(.+?) ?(\w+)$", " ".join(each.split())).groups() for each in declared.split(",") if each]
    typed = [f"{parameter}: {PYTHON_TYPES[kind]}" for kind, parameter in parameters]
    line = f"def {name}({', '.join(typed)}) -> {PYTHON_TYPES[returned]}: ...\n"
    if len(line) - 1 > LINE_LENGTH:
        line = f"def {name}(\n" + "".join(f"    {each},\n" for each in typed) + f") -> {PYTHON_TYPES[returned]}: ...\n"
    return line


def outputs():
    """{path: text} of everything that is written here."""
    modules = {path.stem: names for path in sorted(MM.glob("*.pxd")) if (names := inlined(path.stem))}
    texts = {MM / "layout.h": layout_h(), MM / "layout.pxd": layout_pxd(), MM / "inline" / "__init__.pxd": ""}
    for module, names in modules.items():
        texts[MM / "inline" / f"{module}.pxd"] = inline_pxd(module, names, modules)
    for path in MM.glob("*.pxd"):
        if path.stem not in ("__init__", "layout", *BY_HAND):
            texts[path.with_suffix(".pyi")] = stub(path.stem)
    return texts


def stale():
    """The paths whose text differs from what would be written, and the generated files that would not be written."""
    wanted = outputs()
    differing = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    written = [*(MM / "inline").glob("*.pxd"), *(path for path in MM.glob("*.pyi") if path.stem not in BY_HAND)]
    return differing, [path for path in written if path not in wanted]


def main(arguments):
    differing, left_over = stale()
    if "--check" in arguments:
        for path in (*differing, *left_over):
            print(f"{path.relative_to(MM.parent.parent.parent)} is not up to date; run tools/generate.py", file=sys.stderr)
        return int(bool(differing or left_over))
    for path in differing:
        path.parent.mkdir(exist_ok=True)
        path.write_text(outputs()[path])
    for path in left_over:
        path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
