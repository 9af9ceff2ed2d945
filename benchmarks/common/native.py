"""C without Python around it: ``pairs.c``, compiled once per version of it, and the compiled core's own functions.

The core's modules export their ``cpdef`` functions as capsules named by their C signature. A pointer is taken only under the
very signature that ``pairs.c`` calls it by, so a core that has changed is skipped with a message and never called wrongly.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib
import os
import shutil
import subprocess
import tempfile
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import Any

from benchmarks.common.measure import Unavailable

SOURCE = Path(__file__).with_name("pairs.c")
COMPILE_SECONDS = 120
FLAGS = ("-O2", "-shared", "-fPIC", "-pthread", "-Wall", "-Werror")
KINDS = {"xadd": 0, "mainline": 1, "optimistic": 2, "fetch_add": 3, "core": 4}


class Job(ctypes.Structure):
    """``job`` of pairs.c."""

    _fields_ = [
        ("kind", c_int),
        ("cpu", c_int),
        ("word", c_void_p),
        ("get", c_void_p),
        ("put", c_void_p),
        ("mem", c_size_t),
        ("folio", c_uint64),
        ("count", c_uint64),
        ("begin_ns", c_uint64),
        ("took_ns", c_uint64),
        ("failed", c_uint64),
    ]


class Line:
    """A word on a cache line of its own, holding one reference."""

    def __init__(self) -> None:
        self._memory = (ctypes.c_uint32 * 64)()
        self.address = (ctypes.addressof(self._memory) + 127) // 128 * 128
        ctypes.c_uint32.from_address(self.address).value = 1


def pair_job(kind: str, word: int, count: int, mem: int = 0, folio: int = 0, cpu: int = -1, begin_ns: int = 0) -> Job:
    """``count`` pairs of one kind on the word at an address, or for ``core`` on a folio."""
    core = kind == "core"
    get = core_function("page_ref", "try_get") if core else None
    put = core_function("page_ref", "put") if core else None
    return Job(KINDS[kind], cpu, word, get, put, mem, folio, count, begin_ns)


def compiler() -> str | None:
    """The path of the C compiler: that of ``CC``, else gcc or cc."""
    return shutil.which(os.environ.get("CC") or "gcc") or shutil.which("cc")


@functools.cache
def library() -> Any:
    """The compiled ``pairs.c``. Raises Unavailable without a C compiler."""
    if not (found := compiler()):
        raise Unavailable("needs a C compiler")
    text = SOURCE.read_bytes()
    built = Path(tempfile.gettempdir()) / f"foliocache-bench-{os.getuid()}-{hashlib.sha256(text).hexdigest()[:16]}.so"
    if not (built.exists() and built.stat().st_uid == os.getuid()):
        fresh = built.with_suffix(f".{os.getpid()}")
        command = [found, *FLAGS, "-o", str(fresh), str(SOURCE)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_SECONDS, check=False)
        if done.returncode:
            raise Unavailable(f"{SOURCE.name} does not compile: {done.stderr.strip().splitlines()[-1]}")
        fresh.rename(built)
    return _declared(ctypes.CDLL(str(built)))


def _declared(library: Any) -> Any:
    library.run.argtypes = [POINTER(Job)]
    library.run_threads.argtypes = [POINTER(Job), c_int]
    library.read_core.restype = library.read_file.restype = c_uint64
    library.read_core.argtypes = [
        c_void_p,
        c_void_p,
        c_size_t,
        c_uint32,
        c_uint64,
        c_uint64,
        c_uint32,
        c_void_p,
        c_uint32,
        c_uint64,
        c_uint64,
        POINTER(c_uint64),
    ]
    library.read_file.argtypes = [c_int, c_uint64, c_uint64, POINTER(c_uint64)]
    return library


_CALLED = "int __pyx_skip_dispatch"  # the last argument of what Cython calls cpdef
_SIGNATURES = {
    ("page_ref", "try_get"): f"uint32_t (mem_t, uint64_t, {_CALLED})",
    ("page_ref", "put"): f"int (mem_t, uint64_t, {_CALLED})",
    ("filemap", "find_get"): f"uint32_t (mem_t, uint32_t, uint64_t, uint64_t, uint32_t, uint64_t, {_CALLED})",
    ("folio", "put"): f"int (mem_t, uint32_t, uint32_t, {_CALLED})",
}


def core_function(module: str, name: str) -> int:
    """The address of a function of ``foliocache.mm``. Raises Unavailable when its signature is not the one that pairs.c
    calls."""
    capsule = importlib.import_module(f"foliocache.mm.{module}").__pyx_capi__.get(name)
    get_name, get_pointer = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
    get_name.restype, get_name.argtypes = c_char_p, [ctypes.py_object]
    get_pointer.restype, get_pointer.argtypes = c_void_p, [ctypes.py_object, c_char_p]
    found = get_name(capsule) if capsule is not None else b"nothing"
    if found.decode() != _SIGNATURES[module, name]:
        raise Unavailable(f"the core's {module}.{name} is {found.decode()} now, pairs.c calls {_SIGNATURES[module, name]}")
    return int(get_pointer(capsule, found))
