"""The demo's dataset: files that are really on this machine, packed into tar shards, with an index that can prove a read.

Tar shards because that is how training data travels (webdataset), and because a shard's members are the awkward case for a
cache: unaligned, of every size, read in random order out of few large objects. The index is made from two sources on purpose:
digests from the files' bytes as they go in, offsets from reading the finished shards back; a read that ends up right has
therefore agreed with both.
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
    """One file of the dataset: where it lies and what it must hash to."""

    name: str
    shard: int
    offset: int
    size: int
    digest: str


@dataclass(frozen=True)
class Dataset:
    """Shards in a folder, and their members."""

    folder: str
    shards: list[str]
    members: list[Member]
    total_bytes: int

    def save(self, path: Path) -> None:
        """Write the index for the workers."""
        path.write_text(json.dumps(asdict(self) | {"members": self.members}))

    @classmethod
    def load(cls, path: str | Path) -> Dataset:
        """Read an index."""
        fields = json.loads(Path(path).read_text())
        return cls(**fields | {"members": [Member(*row) for row in fields["members"]]})


def digest(data: bytes | memoryview) -> str:
    """The hash by which a read is judged."""
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
    """Files from the front until they hold ``wanted`` bytes; all of them if they never do."""
    chosen, total = [], 0
    for path in files:
        if total >= wanted:
            break
        chosen.append(path)
        total += path.stat().st_size
    return chosen


def spread(files: list[Path], shards: int) -> list[list[Path]]:
    """The files dealt out so that the shards come out equally large: each to the smallest so far, the largest first."""
    sizes = [0] * shards
    dealt: list[list[Path]] = [[] for _ in range(shards)]
    for path in sorted(files, key=lambda path: (-path.stat().st_size, str(path))):
        smallest = sizes.index(min(sizes))
        dealt[smallest].append(path)
        sizes[smallest] += path.stat().st_size
    return dealt


def write_shard(path: Path, files: list[Path]) -> dict[str, str]:
    """One tar of these files; their digests by member name."""
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
    """Pack files into ``shards`` tars in ``folder``."""
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
