"""How ranges of an object are divided into the values of a server: pieces of 64 KiB, and blocks of 16 of them.

It is done for each load and each store, and cost as much as the checks of the bytes when it was interpreted.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t as u64
from libc.stdio cimport snprintf
from libc.string cimport memcpy

cdef enum:
    PIECE_BYTES = 0x10000
    BLOCK_BYTES = 0x100000
    IN_BLOCK = 16  # pieces
    TRAILED = 0x10008  # bytes of a piece in a value, with its magic and its checksum
    TOGETHER = 0x400000  # bytes of an object whose pieces are on one node of a cluster, so that one command asks for them
    TAIL = 64  # bytes; more than what is behind the name in a key

cdef u64 OBJECT_MAX = (1 << 63) - 1  # bytes

PIECE = PIECE_BYTES
BLOCK = BLOCK_BYTES
BLOCK_VALUE = IN_BLOCK * TRAILED  # bytes of the value of a block


cpdef bytes key(bytes name, u64 offset, u64 length):
    """Return the key of a value with a range. What is between the braces chooses a cluster's node."""
    cdef char[TAIL] tail
    cdef int size = snprintf(tail, TAIL, b":%lx}:%lx:%lx", offset // TOGETHER, offset, length)
    cdef Py_ssize_t begin = PyBytes_GET_SIZE(name)
    cdef bytes made = PyBytes_FromStringAndSize(NULL, begin + size)
    memcpy(PyBytes_AS_STRING(made), PyBytes_AS_STRING(name), begin)
    memcpy(PyBytes_AS_STRING(made) + begin, tail, size)
    return made


cdef u64 _end(u64 offset, u64 length) except? 0:
    """Return where a range ends. Raises OverflowError if no object is so large: the sums here would begin at 0 again."""
    if offset > OBJECT_MAX or length > OBJECT_MAX - offset:
        raise OverflowError(f"no object has {length} bytes from {offset} on")
    return offset + length


def spans_of(u64 offset, u64 length):
    """Divide a range at the multiples of PIECE. Return (begin, end) of each."""
    cdef u64 end = _end(offset, length), stop
    cdef list found = []
    while offset < end:
        stop = min(end, (offset // PIECE_BYTES + 1) * PIECE_BYTES)
        found.append((offset, stop))
        offset = stop
    return found


def divided(bytes name, parts):
    """Divide parts (offset, buffer) into pieces.

    Returns
    -------
    tuple of four lists
        The pieces' keys; views of their bytes, to be released; for each the key of the block that may have it, and at which
        byte of that value, or None; and the number of its part.
    """
    cdef list keys = [], views = [], blocks = [], owners = []
    cdef u64 offset, begin, stop, end, inside, first = 1  # not a multiple of BLOCK
    cdef bytes block = None
    cdef Py_ssize_t number = 0
    for start, buffer in parts:
        begin = offset = start
        end = _end(offset, len(buffer))
        while begin < end:
            stop = min(end, (begin // PIECE_BYTES + 1) * PIECE_BYTES)
            keys.append(key(name, begin, stop - begin))
            views.append(buffer[<Py_ssize_t>(begin - offset) : <Py_ssize_t>(stop - offset)])
            owners.append(number)
            if stop - begin < PIECE_BYTES:
                blocks.append(None)
            else:
                inside = begin % BLOCK_BYTES
                if begin - inside != first:
                    first = begin - inside
                    block = key(name, first, BLOCK_BYTES)
                blocks.append((block, inside // PIECE_BYTES * TRAILED))
            begin = stop
        number += 1
    return keys, views, blocks, owners


def complete(list blocks):
    """Return the places of pieces in blocks, for those blocks of which all pieces are there, in order. None for the others."""
    cdef list found = [None] * len(blocks)
    cdef Py_ssize_t count = len(blocks), number, first = 0
    cdef tuple place
    cdef bytes name = None
    for number in range(count):
        place = blocks[number]
        if place is None or place[1] == 0 or <bytes>place[0] != name:
            first, name = number, None if place is None else place[0]
        if name is None or <Py_ssize_t>place[1] != (number - first) * TRAILED:
            name = None
        elif number - first == IN_BLOCK - 1:
            found[first : number + 1] = blocks[first : number + 1]
            name = None
    return found
