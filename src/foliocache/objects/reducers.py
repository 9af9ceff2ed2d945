"""Pickling objects of other libraries so that their bytes stay out of band, and building them on the pool's pages."""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .unmarked import tensor

if TYPE_CHECKING:
    from typing_extensions import Buffer


def dumps(value: Any) -> tuple[bytes, list[memoryview]]:
    """Pickle a value. Return the pickle, and the buffers that are not in it. Raises what pickling raises."""
    buffers: list[memoryview] = []
    stream = io.BytesIO()
    _Pickler(stream, 5, buffer_callback=lambda buffer: _keep(buffers, buffer)).dump(value)
    return stream.getvalue(), buffers


def _keep(buffers: list[memoryview], buffer: pickle.PickleBuffer) -> bool:
    """Take a buffer out of the pickle and return False; return True to keep one in it that is not contiguous."""
    try:
        raw = buffer.raw()
    except BufferError:
        return True
    buffers.append(raw)
    return False


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        kind = type(value)
        numpy = sys.modules.get("numpy")
        if numpy is not None and isinstance(value, numpy.ndarray) and _is_left_in_band(value, kind, numpy.ndarray):
            plain = numpy.asarray(value)
            order = "F" if plain.flags.f_contiguous and not plain.flags.c_contiguous else "C"
            return _array, (pickle.PickleBuffer(elements(plain)), plain.shape, plain.dtype, order, kind)
        if kind.__module__ == "torch" and kind is sys.modules["torch"].Tensor and is_plain(value):
            dimensions = order_of(value)
            if dimensions is None:
                return tensor, (pickle.PickleBuffer(content(value)), type_name(value), tuple(value.shape))
            lying = value.permute(dimensions)
            return permuted, (pickle.PickleBuffer(content(lying)), type_name(value), tuple(lying.shape), dimensions)
        if kind.__module__ == "pyarrow.lib" and kind.__name__ in ("Table", "RecordBatch"):
            return _arrow, (pickle.PickleBuffer(_ipc(value)), kind.__name__)
        return NotImplemented


# NumPy.


def elements(array: Any) -> memoryview:
    """Return the bytes of an array of any type but Python objects, including types without a buffer format (dates): as they
    lie, in C or Fortran order; of an array that is not contiguous, a copy in C order."""
    import numpy

    if array.nbytes == 0:
        return memoryview(b"")
    if not array.flags.c_contiguous:
        array = array.T if array.flags.f_contiguous else array.copy(order="C")
    flat: Any = array.reshape(-1).view(numpy.uint8)
    return memoryview(flat).cast("B")


def _is_left_in_band(value: Any, kind: type, plain: type) -> bool:
    """Return True for an array whose elements NumPy pickles in band, though they are not Python objects: a subclass, as
    ``memmap`` is, that is pickled as its base is; an array that is not contiguous, or whose type has no buffer format, as dates
    have none."""
    if value.nbytes == 0 or value.dtype.hasobject:
        return False
    if kind is not plain:
        return all(getattr(kind, name) is getattr(plain, name) for name in ("__reduce__", "__reduce_ex__", "__setstate__"))
    if not value.flags.forc:
        return True
    try:
        memoryview(value).release()
    except (ValueError, BufferError):
        return True
    return False


def _array(content: Any, shape: Sequence[int], dtype: Any, order: Any, kind: Any) -> Any:
    import numpy

    found = numpy.ndarray(shape, dtype, content, order=order)
    return found if kind is numpy.ndarray else found.view(kind)


# Arrow: a stream in Arrow's own format has only the rows of a slice, and is read without a copy.


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
    """Return True for a tensor that its type, shape and elements describe completely: strided, on the CPU, no gradient."""
    torch = sys.modules["torch"]
    return bool(
        value.device.type == "cpu"
        and value.layout is torch.strided
        and not value.requires_grad
        and not value.is_quantized
        and not value.is_nested
        and not value.is_conj()
        and not value.is_neg()
        and not value._is_zerotensor()
        and not vars(value)
    )


def order_of(value: Any) -> tuple[int, ...] | None:
    """Return the dimensions of a plain tensor in the order in which they lie, if it is dense and not in C order (transposed,
    ``channels_last``); else None."""
    if value.is_contiguous() or value.numel() == 0:
        return None
    strides = value.stride()
    order = tuple(sorted(range(value.dim()), key=lambda at: (-strides[at], at)))
    return order if value.permute(order).is_contiguous() else None


def permuted(view: Buffer, name: str, shape: Sequence[int], order: Sequence[int]) -> Any:
    """Return a tensor whose dimensions lie in another order. ``shape`` is in that order."""
    return tensor(view, name, shape).permute([order.index(at) for at in range(len(order))])


def content(value: Any) -> memoryview:
    """Return the bytes of a plain tensor, in C order."""
    torch = sys.modules["torch"]
    if value.numel() == 0:
        return memoryview(b"")
    flat = value.detach().contiguous().reshape(-1)
    if flat.stride(0) != 1:  # of one element, which is contiguous whatever its strides are
        flat = flat.clone(memory_format=torch.contiguous_format)
    return memoryview(flat.view(torch.uint8).numpy())


def type_name(value: Any) -> str:
    """Return the name of a tensor's type in ``torch``."""
    return str(value.dtype).removeprefix("torch.")
