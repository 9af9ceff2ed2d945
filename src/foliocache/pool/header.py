"""The header of a segment's file: what identifies it, written by its creator and checked by every process that attaches."""

import itertools
import os
import time
import zlib

from ..errors import PoolDamagedError, PoolError
from ..mm import layout
from . import geometry
from .geometry import Geometry

_OFFSETS = sorted((at, name.removeprefix("HDR_").lower()) for name, at in vars(layout).items() if name.startswith("HDR_"))
# The bytes of each field: up to where the next begins; the last offset is the end.
FIELDS = {name: slice(at, end) for (at, name), (end, _) in itertools.pairwise(_OFFSETS)}


def pack(shape: Geometry, state: int) -> bytes:
    """Return the header of a segment of this geometry (``geometry.compute``, and "fenced"), in bytes."""
    values = shape | {
        "magic": layout.MAGIC,
        "abi": layout.ABI,
        "state": state,
        "checksum": 0,
        "created": time.time_ns(),
    }
    head = b"".join(values[name].to_bytes(field.stop - field.start, "little") for name, field in FIELDS.items())
    return head[: layout.HDR_CHECKSUM] + _checksum(head).to_bytes(4, "little") + head[layout.HDR_MEMMAP :]


def read(fd: int, name: str, path: str) -> Geometry:
    """Return the geometry and "fenced" from the header of a file, after checking all of it. Raises PoolError."""
    advice = f"remove it (foliocache rm {name}) or use another name"
    head = os.pread(fd, layout.HDR_IDENTITY_END, 0)
    said = {key: int.from_bytes(head[field], "little") for key, field in FIELDS.items()}
    if len(head) < layout.HDR_IDENTITY_END or said["magic"] != layout.MAGIC:
        raise PoolDamagedError(f"{path} is not a foliocache pool; {advice}")
    if said["abi"] != layout.ABI:
        raise PoolError(f"pool {name!r} has layout version {said['abi']}, this foliocache needs {layout.ABI}; {advice}")
    if said["checksum"] != _checksum(head):
        raise PoolDamagedError(f"pool {name!r} is damaged: its header does not match its checksum; {advice}")
    if said["state"] != layout.STATE_READY:
        raise PoolDamagedError(f"pool {name!r} is damaged: its header says that it was never finished; {advice}")
    if not geometry.is_possible(said["page_shift"], said["npages"], said["nclients"], said["pool"], said["chunk_shift"]):
        raise PoolDamagedError(f"pool {name!r} is damaged: its header makes no sense; {advice}")
    first = said["pool"] >> said["page_shift"]
    shape = geometry.compute(said["npages"], 1 << said["page_shift"], said["nclients"], first, said["chunk_shift"])
    if any(said[key] != value for key, value in shape.items()):
        raise PoolDamagedError(f"pool {name!r} is damaged: its header contradicts itself; {advice}")
    if os.fstat(fd).st_size != shape["size"]:
        raise PoolDamagedError(f"pool {name!r} is truncated: {os.fstat(fd).st_size} bytes instead of {shape['size']}; {advice}")
    return shape | {"fenced": said["fenced"]}


def _checksum(head: bytes) -> int:
    """Return the CRC-32 of everything but magic, version, state and the checksum itself."""
    return zlib.crc32(head[layout.HDR_SIZE : layout.HDR_CHECKSUM] + head[layout.HDR_MEMMAP :])
