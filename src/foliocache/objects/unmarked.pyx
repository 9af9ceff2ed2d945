"""Buffers that do not say that they are read-only, and tensors on them: PyTorch has no read-only tensors."""
cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer

import sys

from ..sizes import quoted


@cython.final
@cython.no_gc
@cython.freelist(64)
@cython.auto_pickle(False)
cdef class Unmarked:
    """The memory of another buffer, as one that claims to be writable. It keeps the other one's view."""
    cdef Py_buffer view

    def __cinit__(self, buffer):
        PyObject_GetBuffer(buffer, &self.view, PyBUF_SIMPLE)

    def __dealloc__(self):
        PyBuffer_Release(&self.view)

    def __reduce__(self):
        raise TypeError("a buffer of the pool's pages cannot be copied or pickled")

    def __getbuffer__(self, Py_buffer *buffer, int wanted):
        PyBuffer_FillInfo(buffer, self, self.view.buf, self.view.len, 0, wanted)


cdef dict _dtypes = {}  # NumPy's, by the names that PyTorch has for them
cdef object _array = None  # numpy.ndarray
cdef object _from_numpy = None  # torch.from_numpy


def tensor(view, name, shape):
    """Return a tensor on the bytes of a view. The tensor keeps the view alive.

    PyTorch warns of read-only buffers. So it gets a buffer that claims to be writable. Writing to the tensor ends the process
    with SIGSEGV, like any stray write to the pool; use ``writable="copy"`` for a writable tensor.
    """
    dtype = _dtypes.get(name)
    if dtype is None:
        dtype = _learn(name)
    if dtype is None or 0 in shape:
        return _by_torch(view, name, shape)
    return _from_numpy(_array(shape, dtype, Unmarked(view)))  # takes half the time of frombuffer and view


cdef object _learn(name):
    global _array, _from_numpy
    numpy = sys.modules.get("numpy")
    if numpy is None or name not in _NUMPYS:
        return None
    _array, _from_numpy = numpy.ndarray, _torch().from_numpy
    return _dtypes.setdefault(name, numpy.dtype(name))


cdef object _torch():
    return sys.modules.get("torch") or __import__("torch")


cdef object _by_torch(view, name, shape):
    torch = _torch()
    kind = getattr(torch, name, None)
    if not isinstance(kind, torch.dtype):
        raise ValueError(f"this version of PyTorch has no type {quoted(name)}")
    if 0 in shape:
        return torch.empty(tuple(shape), dtype=kind)
    return torch.frombuffer(Unmarked(view), dtype=kind).view(shape)

cdef object _NUMPYS = frozenset(  # the types of PyTorch that NumPy has, by the same names
    (
        "bool",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "int8",
        "int16",
        "int32",
        "int64",
        "float16",
        "float32",
        "float64",
        "complex64",
        "complex128",
    )
)
