"""``foliocache warm``: fill a pool before the work begins.

Missing bytes are fetched into the pool, and no copy is made for this process. Files are divided into pieces, so that one large
file keeps all threads as busy as many small ones do. For each piece, several requests are made at a time. Bytes that are cached
are not fetched again, also if another process fetches them at the same time.

The threads are daemons, and not those of an executor: Ctrl-C does not wait for a source that hangs.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

from foliocache import FoliocacheError
from foliocache.cli.exits import CommandError, UsageError
from foliocache.cli.options import Json, Name, Positive, Size, open_pool
from foliocache.cli.output import console, counted, emit_json, one_line
from foliocache.cli.progress import watcher
from foliocache.sizes import format_size

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

    from foliocache.adapters.fsspec import FolioFileSystem

PIECE = 64 * 2**20
GLOB = frozenset("*[")


class File(NamedTuple):
    """A file to read, and its size in bytes."""

    fs: FolioFileSystem
    path: str
    size: int


class Piece(NamedTuple):
    """A part of a file, from ``start`` to before ``end``."""

    file: File
    start: int
    end: int

    def fetch(self) -> Iterator[int]:
        """Fetch the piece. Yields how many further bytes are cached. Raises CommandError."""
        with _named(self.file.path):
            got = 0
            for count in self.file.fs.fetch(self.file.path, self.start, self.end - self.start):
                got += count
                yield count
            if got != self.end - self.start:
                raise OSError(f"{got} bytes instead of {self.end - self.start} at {self.start}")


class Speed:
    """How fast one file is fetched."""

    def __init__(self, file: File) -> None:
        self.path: str = file.path
        self.size: int = file.size
        self.got: int = 0
        self.begin: float = time.monotonic()
        self.seconds: float = 0.0

    def advance(self, count: int) -> None:
        """Count further bytes."""
        self.got += count
        self.seconds = time.monotonic() - self.begin

    @property
    def rate(self) -> float:
        """Bytes per second, from the first byte to the last one so far."""
        return self.got / max(self.seconds, 1e-6)

    def to_dict(self) -> dict[str, Any]:
        """Return the file as an object for JSON."""
        rate = round(self.rate) if self.got else 0
        return {"path": self.path, "bytes": self.got, "seconds": round(self.seconds, 3), "bytes_per_second": rate}


def warm(
    url: str,
    /,
    *urls: str,
    name: Name = "default",
    pool_size: Size = None,
    concurrency: Positive = 8,
    json: Json = False,
) -> None:
    """Read files into a pool, so that the first reader finds them there.

    Parameters
    ----------
    url
        A URL as fsspec knows them (https://…, s3://…, a path); * ? [ ] and ** are globs.
    urls
        More URLs.
    name
        The pool; it is made if there is none.
    pool_size
        The pool's size if it is made, like 4GiB.
    concurrency
        Pieces of files that are read at a time.
    json
        Print what was read as JSON.
    """
    begin = time.monotonic()
    options = {"name": name, "check_files": False}  # an answer about a file is good enough for as long as this command takes
    found = [one for each in (url, *urls) for one in resolve(each, options)]  # without a pool: if one is missing, none is made
    pool = open_pool(name, pool_size)
    before = pool.stat().counters
    files = [_sized(*one) for one in found]
    speeds: dict[File, Speed] = {}
    with watcher(quiet=json).transfers(sum(file.size for file in files)) as show:
        for file, count in Fetching([piece for one in files for piece in _pieces(one)]).run(concurrency):
            if (speed := speeds.get(file)) is None:
                speed = speeds[file] = Speed(file)
            speed.advance(count)
            show(speed.path, speed.size, count, speed.rate)
    total = sum(file.size for file in files)
    fetched, seconds = pool.stat().counters.fill_bytes - before.fill_bytes, time.monotonic() - begin
    if json:
        made = {"name": name, "files": len(files), "bytes": total, "fetched_bytes": fetched, "seconds": round(seconds, 3)}
        return emit_json(made | {"objects": [speeds.get(file, Speed(file)).to_dict() for file in files]})
    read = f"{counted(len(files), 'file')}, {format_size(total)}, in pool {name}"
    console().print(f"{read}: {format_size(fetched)} fetched in {seconds:.1f} s, {format_size(total / max(seconds, 1e-6))}/s")


class Fetching:
    """Threads that fetch pieces. Each takes the next piece when it has finished one."""

    def __init__(self, pieces: list[Piece]):
        self.count: int = len(pieces)
        self.todo: Iterator[Piece] = iter(pieces)  # a list's: its next() is atomic
        self.outcomes: SimpleQueue[tuple[File, int] | BaseException | None] = SimpleQueue()
        self.over: bool = False

    def run(self, concurrency: int) -> Iterator[tuple[File, int]]:
        """Yield (file, how many further bytes of it are cached); for each piece first with 0, when it begins.

        Raises the first error. Pieces that are being fetched then are not waited for.
        """
        for _ in range(min(concurrency, self.count)):
            threading.Thread(target=self.work, name="foliocache-warm", daemon=True).start()
        ended = 0
        try:
            while ended < self.count:
                outcome = self.outcomes.get()
                if isinstance(outcome, BaseException):
                    raise outcome
                if outcome is None:
                    ended += 1
                else:
                    yield outcome
        finally:
            self.over = True

    def work(self) -> None:
        """The main function of each thread."""
        for piece in self.todo:
            if self.over:
                return
            try:
                self.outcomes.put((piece.file, 0))
                for count in piece.fetch():
                    self.outcomes.put((piece.file, count))
                self.outcomes.put(None)
            except BaseException as error:  # run() waits for the end of every piece
                self.outcomes.put(error)


def resolve(url: str, options: dict[str, Any]) -> list[tuple[str, FolioFileSystem, str]]:
    """Return (url, filesystem, path) of each file that a URL, a glob or a folder stands for. Raises CommandError."""
    from fsspec.core import url_to_fs

    import foliocache.adapters.fsspec  # noqa: F401 - registers the protocol where foliocache is on the path but not installed
    from foliocache.adapters.fsspec.passthrough import refuse_misspelled

    if not url.removeprefix("folio::"):
        raise UsageError("an empty URL names no file")  # and not the present folder: a script's variable may be unset
    full = _absolute(url)
    with _named(url):
        refuse_misspelled(url)
        fs, path = url_to_fs(f"folio::{full}", folio=options)
        found = sorted(_expand(fs.fs, path, _is_glob(full)))
        if not found:
            raise FileNotFoundError("no file matches" + _reason(fs.fs, path))
        return [(url, fs, one) for one in found]


def _sized(url: str, fs: FolioFileSystem, path: str) -> File:
    """Return a file with its size. Raises CommandError."""
    with _named(url):
        return File(fs, path, _size(fs, path))


def _absolute(url: str) -> str:
    """Return a URL without ``folio::``. A plain path becomes a file URL."""
    bare = url.removeprefix("folio::")
    return bare if "://" in bare or "::" in bare else f"file://{os.path.abspath(bare)}"


def _is_glob(url: str) -> bool:
    """Return True if a URL is a pattern. In an HTTP URL, a question mark begins a query. The name of an existing local file is
    not a pattern."""
    if url.startswith("file://") and os.path.lexists(url.removeprefix("file://")):
        return False
    return not GLOB.isdisjoint(url) or ("?" in url and not url.startswith("http"))


def _expand(fs: AbstractFileSystem, path: str, pattern: bool) -> list[str]:
    """Return the paths of the files that a path stands for, as the origin says."""
    if pattern:
        return [name for name, info in fs.glob(path, detail=True).items() if info["type"] == "file"]
    return [path] if _is_file(fs, path) else list(fs.find(path))


def _is_file(fs: AbstractFileSystem, path: str) -> bool:
    """Return True for a file. fsspec's ``isfile`` of HTTP would begin to read it."""
    try:
        return bool(fs.info(path)["type"] == "file")
    except FileNotFoundError:
        return False


def _reason(fs: AbstractFileSystem, path: str) -> str:
    """Return why the origin did not say whether there is such a file, as the end of a message: fsspec's HTTP takes any refusal,
    and an origin that is not there, for a missing file. Empty if the origin did say so."""
    try:
        fs.info(path)
    except FileNotFoundError as error:
        cause = error.__cause__
        return "" if cause is None or isinstance(cause, FileNotFoundError) else f": {type(cause).__name__}: {cause}"
    return ""


def _size(fs: FolioFileSystem, path: str) -> int:
    """Return a file's size in bytes. Raises ValueError for a file that cannot be cached."""
    identity = fs._identify(path, (0, None))
    if identity.cacheable:
        return identity.size or 0
    found: int | None = fs.info(path).get("size")
    if found is None:
        raise ValueError(f"the size of {path} is not known")
    if found:
        raise ValueError(f"nothing proves which version the bytes of {path} are, so they are not cached (docs/fsspec.md)")
    return found


def _pieces(file: File) -> Iterator[Piece]:
    """Yield the pieces of a file."""
    for start in range(0, file.size, PIECE):
        yield Piece(file, start, min(file.size, start + PIECE))


@contextmanager
def _named(url: str) -> Iterator[None]:
    """Raise an error of the source, of whatever library, as a CommandError that names the URL."""
    try:
        yield
    except FoliocacheError:
        raise
    except Exception as error:
        raise CommandError(f"{url}: {type(error).__name__}: {one_line(error)}") from error
