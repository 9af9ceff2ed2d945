"""Access to the bytes of users' buffers: those to read into, and those that sources return. All errors are clear and ours."""
from cpython.buffer cimport PyBUF_FULL_RO, PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release
from cpython.buffer cimport PyBuffer_IsContiguous, PyBuffer_ToContiguous, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize

from ..errors import SourceError
from ..sizes import quoted


def copy(target, data):
    """Copy contiguous bytes into a writable buffer of the same length. Raises ValueError if it has another one, BufferError."""
    cdef Py_buffer to, source
    PyObject_GetBuffer(target, &to, PyBUF_WRITABLE)
    try:
        PyObject_GetBuffer(data, &source, PyBUF_SIMPLE)
        try:
            if source.len != to.len:
                raise ValueError(f"{source.len} bytes do not fill a buffer of {to.len}")
            copy_long(to.buf, source.buf, to.len)
        finally:
            PyBuffer_Release(&source)
    finally:
        PyBuffer_Release(&to)


def clear(target):
    """Make all bytes of a contiguous writable buffer zero. Raises BufferError."""
    cdef Py_buffer to
    PyObject_GetBuffer(target, &to, PyBUF_WRITABLE)
    try:
        clear_long(to.buf, to.len)
    finally:
        PyBuffer_Release(&to)


cdef bint release(memoryview view) except -1:
    """Release a view. Return False if it has other users."""
    try:
        view.release()
    except BufferError:
        return False
    return True


cdef int get_writable(buffer, Py_buffer *view) except -1:
    """Get a contiguous, writable buffer of bytes or numbers. Raises TypeError for anything else."""
    try:
        PyObject_GetBuffer(buffer, view, PyBUF_WRITABLE)
    except Exception as error:
        raise TypeError(
            f"readinto needs a writable buffer whose bytes lie side by side, not {type(buffer).__name__}: {error}"
        ) from None
    try:
        if view.len and _has_objects(buffer):
            raise TypeError(f"readinto needs a buffer of bytes or numbers, not {type(buffer).__name__} of Python objects")
    except BaseException:
        PyBuffer_Release(view)
        raise
    return 0


cdef bint _has_objects(buffer) except -1:
    """True if a buffer's bytes are pointers to Python objects: NumPy and ctypes give such buffers to a caller that does not ask
    for a format."""
    if type(buffer) is bytes or type(buffer) is bytearray:
        return False
    if getattr(getattr(buffer, "dtype", None), "hasobject", False) is True:
        return True
    try:
        with memoryview(buffer) as view:
            return any(["O" in part for part in view.format.split(":")[::2]])  # names of fields are between colons
    except Exception:  # not a buffer, or one without a format (dates)
        return False


cdef int _get_plain(content, Py_buffer *view, key) except -1:
    """Get the bytes of a source's answer whose element type has no buffer format, such as NumPy's dates. Raises SourceError."""
    try:
        PyObject_GetBuffer(content, view, PyBUF_SIMPLE)
    except Exception as error:
        raise SourceError(
            f"the source of {quoted(key)} returned {type(content).__name__} whose bytes cannot be had: {error}"
        ) from error
    return 0


cdef int get_readable(content, Py_buffer *view, key) except -1:
    """Get the bytes of a source's answer, contiguous, in the order of ``bytes(content)``. Raises SourceError."""
    if _has_objects(content):
        raise SourceError(f"the source of {quoted(key)} returned {type(content).__name__} of Python objects, not bytes")
    try:
        PyObject_GetBuffer(content, view, PyBUF_FULL_RO)
    except TypeError:
        raise SourceError(f"the source of {quoted(key)} returned {type(content).__name__}, not a bytes-like object") from None
    except Exception:
        _get_plain(content, view, key)
    try:
        if PyBuffer_IsContiguous(view, b"C"):
            return 0
        copy = PyBytes_FromStringAndSize(NULL, view.len)
        PyBuffer_ToContiguous(PyBytes_AS_STRING(copy), view, view.len, b"C")
    except BaseException:
        PyBuffer_Release(view)
        raise
    PyBuffer_Release(view)
    PyObject_GetBuffer(copy, view, PyBUF_SIMPLE)
    return 0
