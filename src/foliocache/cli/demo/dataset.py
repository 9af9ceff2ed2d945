"""The demo's dataset: files of this machine, packed into tar shards, with an index that can prove a read.

Tar shards are how training data travels (webdataset), and a shard's members are the awkward case for a cache: unaligned, of
every size, read in random order out of few large objects. The index is made from two sources on purpose: digests from the
files' bytes as they go in, offsets from reading the finished shards back. A read that is right has agreed with both.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sysconfig
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from foliocache.cli.exits import CommandError

DIGEST_SIZE = 16
INSTALLED = ("site-packages", "dist-packages")
LARGEST = 4 * 2**20  # bytes of one library file


class Member(NamedTuple):
    """One file of the dataset: its shard, offset and size in bytes there, and the hash of its bytes."""

    name: str
    shard: int
    offset: int
    size: int
    digest: str


@dataclass(frozen=True)
class Dataset:
    """Shards in a folder, their members, and the shards' size together."""

    folder: str
    shards: list[str]
    members: list[Member]
    total_bytes: int

    def save(self, path: Path) -> None:
        """Write the index, for the workers."""
        path.write_text(json.dumps(asdict(self) | {"members": self.members}))

    @classmethod
    def load(cls, path: str | Path) -> Dataset:
        """Read an index that :meth:`save` has written."""
        fields = json.loads(Path(path).read_text())
        return cls(**fields | {"members": [Member(*row) for row in fields["members"]]})


def digest(data: bytes | memoryview) -> str:
    """The hash by which a read is judged, as hexadecimal digits."""
    return hashlib.blake2b(data, digest_size=DIGEST_SIZE).hexdigest()


def walk(folder: Path, skipped: Iterable[str] = ()) -> Iterator[Path]:
    """The regular, readable, non-empty files under a folder, in an order that does not depend on the file system."""
    names = set(skipped)
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or path.name in names or not os.access(path, os.R_OK):
            continue
        if path.is_dir():
            yield from walk(path, names)
        elif path.is_file() and path.stat().st_size:
            yield path


def library() -> Iterator[Path]:
    """The Python installation's own files: the standard library, its byte code, then what is installed beside it.

    Static libraries and the like are left out by size: one of 43 MiB would be two fifths of the dataset.
    """
    standard = Path(sysconfig.get_path("stdlib"))
    own = sorted(walk(standard, INSTALLED), key=lambda path: "__pycache__" in path.parts)
    beside = [Path(sysconfig.get_path("purelib")), *(standard / name for name in INSTALLED)]
    others = (path for folder in dict.fromkeys(beside) if folder.is_dir() for path in walk(folder))
    return (path for path in chain(own, others) if path.stat().st_size <= LARGEST)


def choose(files: Iterable[Path], wanted: int) -> list[Path]:
    """The first files that hold ``wanted`` bytes together; all of them if they do not."""
    chosen, total = [], 0
    for path in files:
        if total >= wanted:
            break
        chosen.append(path)
        total += path.stat().st_size
    return chosen


def spread(files: list[Path], shards: int) -> list[list[Path]]:
    """The files of each shard, so that the shards are about equally large: the largest file first, each to the smallest shard
    so far."""
    sizes = [0] * shards
    dealt: list[list[Path]] = [[] for _ in range(shards)]
    for path in sorted(files, key=lambda path: (-path.stat().st_size, str(path))):
        smallest = sizes.index(min(sizes))
        dealt[smallest].append(path)
        sizes[smallest] += path.stat().st_size
    return dealt


def write_shard(path: Path, files: list[Path]) -> dict[str, str]:
    """Write one tar of these files; return their digests by member name."""
    digests: dict[str, str] = {}
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for file in sorted(files):
            data = file.read_bytes()
            info = tarfile.TarInfo(str(file).lstrip("/"))
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
            digests[info.name] = digest(data)
    return digests


def read_back(path: Path, shard: int, digests: dict[str, str]) -> Iterator[Member]:
    """The members as the finished tar has them."""
    with tarfile.open(path) as tar:
        for info in tar:
            yield Member(info.name, shard, info.offset_data, info.size, digests[info.name])


def pack(files: Iterable[Path], folder: Path, shards: int) -> Dataset:
    """Pack files into tar shards.

    Parameters
    ----------
    files
        What to pack.
    folder
        Where the shards are written.
    shards
        How many; no more than there are files.

    Raises
    ------
    CommandError
        There are no files.
    """
    chosen = list(files)
    if not chosen:
        raise CommandError("the dataset folder holds no files that are not empty")
    names: list[str] = []
    members: list[Member] = []
    for number, part in enumerate(spread(chosen, min(shards, len(chosen)))):
        path = folder / f"shard-{number:03}.tar"
        digests = write_shard(path, part)
        members += read_back(path, number, digests)
        names.append(path.name)
    total = sum((folder / name).stat().st_size for name in names)
    return Dataset(str(folder), names, members, total)
