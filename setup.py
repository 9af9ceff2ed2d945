"""Builds the compiled core. Everything else is in pyproject.toml."""

import importlib.util
import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

ROOT = Path(__file__).parent
MM = Path("src/foliocache/mm")


def write_layout_pxd():
    """layout.py's integers as C constants, so that the two worlds cannot disagree about an offset. Whether they have changed."""
    spec = importlib.util.spec_from_file_location("layout", ROOT / MM / "layout.py")
    layout = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(layout)
    constants = {name: value for name, value in vars(layout).items() if name.isupper() and isinstance(value, int)}
    wide = {name for name, value in constants.items() if value > 0xFFFFFFFF}
    defines = "\n".join(f"    #define FC_{name} {value:#x}u{'ll' if name in wide else ''}" for name, value in constants.items())
    names = "\n".join(f'    const {"u64" if name in wide else "u32"} {name} "FC_{name}"' for name in constants)
    text = (
        "# Written by setup.py from layout.py; not kept in git.\n"
        "from libc.stdint cimport uint32_t as u32, uint64_t as u64\n\n\n"
        f'cdef extern from *:\n    """\n{defines}\n    """\n{names}\n'
    )
    target = ROOT / MM / "layout.pxd"
    if target.exists() and target.read_text() == text:
        return False
    target.write_text(text)
    return True


new_layout = write_layout_pxd()
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
