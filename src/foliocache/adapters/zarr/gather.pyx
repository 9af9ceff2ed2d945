"""An array put together from parts of chunks.

A row of the result is made of rows of all chunks that lie side by side, and these are short. So rows are copied in the order
of the result, from all of these chunks in turn, with what comes next prefetched: one chunk after the other, the lines of memory
where two chunks meet would be loaded twice.
"""
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.string cimport memcpy

cdef enum:
    DIMS_MAX = 16
    PIECES_MAX = 32  # that are copied in turns
    LINE = 64  # bytes
    AHEAD = 8  # rows: so far ahead of the copying
    ROW_MAX = 4096  # bytes; longer rows are prefetched by the processor
    BLOCK = 256 << 10  # bytes of one copy: those of a longer one bypass the caches
    LONG_MIN = 256 << 10  # bytes; longer copies release the GIL

cdef extern from *:
    """
    /* As memcpy, for rows of a few lines: without choosing among its ways for each row. All of a block is loaded before any of
       it is stored: to load and store line by line takes a sixth longer on an Intel Xeon. */
    typedef char fc_word __attribute__((vector_size(16), aligned(1), may_alias));

    static inline void fc_copy_row(char *into, const char *at, Py_ssize_t n)
    {
        fc_word block[16];
        for (; n >= (Py_ssize_t)sizeof(block); n -= sizeof(block), at += sizeof(block), into += sizeof(block)) {
            #pragma GCC unroll 16
            for (int i = 0; i < 16; i++)
                block[i] = ((const fc_word *)at)[i];
            #pragma GCC unroll 16
            for (int i = 0; i < 16; i++)
                ((fc_word *)into)[i] = block[i];
        }
        for (; n >= 64; n -= 64, at += 64, into += 64) {
            memcpy(block, at, 64);
            memcpy(into, block, 64);
        }
        memcpy(into, at, n);
    }
    """
    void copy_row "fc_copy_row" (char *into, const char *at, Py_ssize_t n) noexcept nogil
    void prefetch "__builtin_prefetch" (const void *) noexcept nogil

cdef struct Piece:
    const char *at
    char *into
    Py_ssize_t width  # bytes of a row
    Py_ssize_t *strides


def gather(out, list parts, Py_ssize_t side):
    """Write parts of chunks to their places in a new array.

    parts: a place each (a tuple of slices, one for each dimension, of step 1), what goes there, and None: an array, or a scalar
    to fill the place with. Or the bytes of an array of the new one's type, in C order, and its shape in place of None. ``side``
    of them, one after the other, lie side by side in the last dimension.
    """
    cdef Py_buffer whole
    cdef Py_ssize_t start, end
    side = max(side, 1)
    try:
        PyObject_GetBuffer(out, &whole, PyBUF_STRIDES | PyBUF_WRITABLE)
    except (ValueError, BufferError):  # dates have no buffer
        _assign(out, parts)
        return
    try:
        start = 0
        while start < len(parts):
            end = min(start + min(side, PIECES_MAX), (start // side + 1) * side)
            if not _copied(out, &whole, parts[start:end]):
                _assign(out, parts[start:end])
            start = end
    finally:
        PyBuffer_Release(&whole)


cdef int _assign(out, list parts) except -1:
    for place, part, shape in parts:
        out[place] = part if shape is None else type(out)(shape, out.dtype, part)
    return 0


cdef bint _copied(out, Py_buffer *whole, list parts) except -1:
    """Copy parts that lie side by side. Return False, with nothing done, if they are no rows of bytes."""
    cdef Py_buffer views[PIECES_MAX]
    cdef Py_buffer view
    cdef Piece pieces[PIECES_MAX]
    cdef Py_ssize_t shapes[PIECES_MAX][DIMS_MAX]
    cdef Py_ssize_t strides[PIECES_MAX][DIMS_MAX]
    cdef Py_ssize_t shape[DIMS_MAX]
    cdef int count = 0, n, dims = whole.ndim
    cdef Py_ssize_t total = 0
    if not 0 < dims <= DIMS_MAX or whole.strides[dims - 1] != whole.itemsize:
        return False
    try:
        kind = out.dtype
        for place, part, known in parts:
            if len(place) != dims:
                return False
            if known is None:
                other = getattr(part, "dtype", None)
                if other is not kind and other != kind:
                    return False
                PyObject_GetBuffer(part, &views[count], PyBUF_STRIDES)
                view = views[count]
            else:
                PyObject_GetBuffer(part, &views[count], PyBUF_SIMPLE)
                view = views[count]
                _describe(&view, whole, known, &shapes[count][0], &strides[count][0])
            count += 1
            if count == 1 and view.ndim == dims:
                for n in range(dims):
                    shape[n] = view.shape[n]
            if not _fits(whole, &view, &shape[0], place, &pieces[count - 1]):
                return False
            total += view.len
        if total:
            while count == 1 and dims > 1 and _is_whole(&pieces[0], whole, dims - 1):
                dims -= 1
                pieces[0].width *= shape[dims - 1]
            if total < LONG_MIN:
                _copy(&pieces[0], count, &shape[0], whole.strides, dims - 1)
            else:
                with nogil:
                    _copy(&pieces[0], count, &shape[0], whole.strides, dims - 1)
        return True
    finally:
        for n in range(count):
            PyBuffer_Release(&views[n])


cdef int _describe(Py_buffer *view, const Py_buffer *whole, tuple known, Py_ssize_t *shape, Py_ssize_t *strides) except -1:
    """Describe bytes as an array of a known shape. Raises ValueError if they are not as many."""
    cdef Py_ssize_t size = whole.itemsize
    cdef int n = len(known)
    if n != whole.ndim:
        raise ValueError(f"an array of {n} dimensions for one of {whole.ndim}")
    view.ndim, view.itemsize, view.shape, view.strides = n, whole.itemsize, shape, strides
    while n:
        n -= 1
        shape[n], strides[n] = known[n], size
        size *= shape[n]
    if size != view.len:
        raise ValueError(f"{view.len} bytes for an array of {size}")
    return 0


cdef bint _is_whole(const Piece *piece, const Py_buffer *whole, int n) noexcept:
    """Return True if the rows of dimension n lie one after the other on both sides."""
    return piece.strides[n - 1] == piece.width and whole.strides[n - 1] == piece.width


cdef bint _fits(const Py_buffer *whole, const Py_buffer *view, const Py_ssize_t *first, place, Piece *piece) except -1:
    """Describe a piece. Return False if it has not the rows of the first one, whose shape is given, or the elements of a row do
    not lie one after the other."""
    cdef int n, last = whole.ndim - 1
    cdef Py_ssize_t start, stop
    cdef slice part
    piece.at, piece.into, piece.strides = <const char *>view.buf, <char *>whole.buf, view.strides
    if view.ndim != whole.ndim or view.itemsize != whole.itemsize:
        return False
    for n in range(last + 1):
        part = place[n]
        start, stop = part.start, part.stop
        if not 0 <= start <= stop <= whole.shape[n] or stop - start != view.shape[n] or part.step not in (None, 1):
            return False
        if n < last and view.shape[n] != first[n]:
            return False
        piece.into += start * whole.strides[n]
    piece.width = view.shape[last] * view.itemsize
    return view.strides[last] == view.itemsize or view.shape[last] <= 1


cdef void _copy(Piece *pieces, int count, const Py_ssize_t *shape, const Py_ssize_t *strides, int dims) noexcept nogil:
    """Copy the rows of all pieces. ``dims`` of ``shape`` and ``strides`` are those of rows."""
    cdef Piece inner[PIECES_MAX]
    cdef Py_ssize_t _
    cdef int n
    if dims <= 1:
        _copy_rows(pieces, count, shape[0] if dims else 1, strides[0] if dims else 0, dims)
        return
    for n in range(count):
        inner[n] = pieces[n]
        inner[n].strides = pieces[n].strides + 1
    for _ in range(shape[0]):
        _copy(&inner[0], count, shape + 1, strides + 1, dims - 1)
        for n in range(count):
            inner[n].at += pieces[n].strides[0]
            inner[n].into += strides[0]


cdef void _copy_rows(const Piece *pieces, int count, Py_ssize_t rows, Py_ssize_t stride, int dims) noexcept nogil:
    cdef Py_ssize_t row, step, byte
    cdef const char *at
    cdef int n
    for row in range(rows):
        for n in range(count):
            step = pieces[n].strides[0] if dims else 0
            at = pieces[n].at + row * step
            if pieces[n].width > ROW_MAX:
                _copy_block(pieces[n].into + row * stride, at, pieces[n].width)
                continue
            byte = 0
            while byte < pieces[n].width and byte < step:
                prefetch(at + AHEAD * step + byte)
                byte += LINE
            copy_row(pieces[n].into + row * stride, at, pieces[n].width)


cdef void _copy_block(char *into, const char *at, Py_ssize_t width) noexcept nogil:
    cdef Py_ssize_t byte = 0
    while byte < width:
        memcpy(into + byte, at + byte, min(width - byte, <Py_ssize_t>BLOCK))
        byte += BLOCK
