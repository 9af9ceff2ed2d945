"""How objects of other libraries are pickled so that their bytes stay out of band, and built on the pages themselves."""

from __future__ import annotations

import ctypes
import io
import math
import pickle
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Buffer


def dumps(value: Any) -> tuple[bytes, list[memoryview]]:
    """Pickle a value: the pickle, and the buffers that are not in it. Raises what pickling raises."""
    buffers: list[memoryview] = []
    stream = io.BytesIO()
    _Pickler(stream, 5, buffer_callback=lambda buffer: _keep(buffers, buffer)).dump(value)
    return stream.getvalue(), buffers


def _keep(buffers: list[memoryview], buffer: pickle.PickleBuffer) -> bool:
    """Take a buffer out of the pickle. One whose bytes do not lie side by side stays in it."""
    try:
        raw = buffer.raw()
    except BufferError:
        return True
    buffers.append(raw)
    return False


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        kind = type(value)
        if kind.__module__ == "torch" and kind is sys.modules["torch"].Tensor and is_plain(value):
            return tensor, (pickle.PickleBuffer(content(value)), type_name(value), tuple(value.shape))
        if kind.__module__ == "pyarrow.lib" and kind.__name__ in ("Table", "RecordBatch"):
            return _arrow, (pickle.PickleBuffer(_ipc(value)), kind.__name__)
        return NotImplemented


# Arrow: a stream of Arrow's own format has only what a slice shows, and is read without a copy.


def _ipc(value: Any) -> Any:
    pyarrow = sys.modules["pyarrow"]
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, value.schema) as writer:
        writer.write(value)
    return sink.getvalue()


def _arrow(content: Buffer, kind: str) -> Any:
    import pyarrow

    with pyarrow.ipc.open_stream(pyarrow.py_buffer(content)) as reader:
        return reader.read_all() if kind == "Table" else reader.read_next_batch()


# PyTorch.


def is_plain(value: Any) -> bool:
    """True for a tensor that is its elements, in memory, and no more."""
    torch = sys.modules["torch"]
    return bool(
        value.device.type == "cpu"
        and value.layout is torch.strided
        and not value.requires_grad
        and not value.is_quantized
        and not value.is_conj()
        and not value.is_neg()
        and not vars(value)
    )


def content(value: Any) -> memoryview:
    """Return the bytes of a plain tensor, in C order."""
    torch = sys.modules["torch"]
    if value.numel() == 0:
        return memoryview(b"")
    return memoryview(value.detach().contiguous().reshape(-1).view(torch.uint8).numpy())


def type_name(value: Any) -> str:
    """Return what its type is called in ``torch``."""
    return str(value.dtype).removeprefix("torch.")


def tensor(view: Buffer, name: str, shape: Sequence[int]) -> Any:
    """Return a tensor on the bytes of a view, which lives as long as the tensor does.

    A tensor knows no read-only memory, and PyTorch warns of such buffers. So it is given one that does not say so. Who writes
    to the tensor ends with SIGSEGV, as with any stray write to the pool; ``writable="copy"`` gives one that may be written to.
    """
    import torch

    kind = getattr(torch, name, None)
    if not isinstance(kind, torch.dtype):
        raise ValueError(f"this version of PyTorch has no type {name!r}")
    if math.prod(shape) == 0:
        return torch.empty(tuple(shape), dtype=kind)
    return torch.frombuffer(_unmarked(view), dtype=kind).reshape(tuple(shape))


def _unmarked(view: Any) -> Any:
    """Return the same memory as a buffer that seems to be writable, and keeps the view."""
    import numpy

    array = numpy.frombuffer(view, numpy.uint8)
    seeming: Any = (ctypes.c_char * array.nbytes).from_address(array.ctypes.data)
    seeming.view = array
    return seeming
