"""``foliocache warm``: fill a pool before the work begins.

Reads through ``folio::`` like any other user and throws the bytes away. Files are cut into pieces, so that one large file
keeps all threads busy as well as many small ones do; a piece is read with the same calls that a reader would make, hence what
is cached already costs nothing and another process that warms the same files costs nothing either.

The threads are daemons, and not an executor's: whoever presses Ctrl-C does not wait until a source that hangs has answered.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

from foliocache.cli import exits
from foliocache.cli.options import Json, Name, Positive, Size, open_pool
from foliocache.cli.output import console, emit_json, size
from foliocache.cli.progress import counted

PIECE = 4 * 2**20
GLOB = frozenset("*[")
Target = tuple[Any, str, int]  # a filesystem, a path in it, the file's size
Piece = tuple[Any, str, int, int]  # a filesystem, a path in it, start and end


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
    pool = open_pool(name, pool_size)
    before, begin = pool.stat()["counters"], time.monotonic()
    options = {"name": name, "check_files": False}  # asking once who a file is will do for the moment that this takes
    targets = [target for one in (url, *urls) for target in resolve(one, options)]
    read(targets, concurrency, quiet=json)
    after = pool.stat()["counters"]
    report = {
        "name": name,
        "files": len(targets),
        "bytes": sum(length for _, _, length in targets),
        "fetched_bytes": after["fill_bytes"] - before["fill_bytes"],
        "seconds": round(time.monotonic() - begin, 3),
    }
    emit_json(report) if json else show(report)


def resolve(url: str, options: dict[str, Any]) -> list[Target]:
    """The files that a URL, a glob or a folder stands for."""
    from fsspec.core import url_to_fs

    import foliocache.adapters.fsspec  # noqa: F401 - registers the protocol where foliocache is on the path but not installed
    from foliocache.adapters.fsspec.passthrough import refuse_misspelled

    full = absolute(url)
    with named(url):
        refuse_misspelled(url)
        fs, path = url_to_fs(f"folio::{full}", folio=options)
        found = sorted(expand(fs, path, is_glob(full)))
        if not found:
            raise FileNotFoundError("no file matches")
        return [(fs, one, length(fs, one)) for one in found]


def absolute(url: str) -> str:
    """A URL without the ``folio::`` that is put in front anyway; a plain path becomes a file URL."""
    bare = url.removeprefix("folio::")
    return bare if "://" in bare or "::" in bare else f"file://{os.path.abspath(bare)}"


def is_glob(url: str) -> bool:
    """Whether a URL is a pattern; behind http a question mark begins a query, and a local file's name is no pattern."""
    if url.startswith("file://") and os.path.lexists(url.removeprefix("file://")):
        return False
    return not GLOB.isdisjoint(url) or ("?" in url and not url.startswith("http"))


def expand(fs: Any, path: str, pattern: bool) -> list[str]:
    """The files that a path stands for."""
    if pattern:
        return [name for name, info in fs.glob(path, detail=True).items() if info["type"] == "file"]
    if fs.isfile(path):
        return [path]
    return fs.find(path)


def length(fs: Any, path: str) -> int:
    """A file's size; a store that does not tell cannot be cached by pages."""
    found = fs.info(path).get("size")
    if found is None:
        raise ValueError(f"the store does not tell the size of {path}")
    if found and not fs._identify(path).cacheable:
        raise ValueError(f"nothing proves which version the bytes of {path} are, so they are not cached (docs/fsspec.md)")
    return found


@contextmanager
def named(url: str) -> Iterator[None]:
    """Errors of the source, whatever library they come from, as one line that names the URL."""
    from foliocache import FoliocacheError

    try:
        yield
    except FoliocacheError:
        raise
    except Exception as error:
        raise exits.CommandError(f"{url}: {type(error).__name__}: {exits.one_line(error)}") from error


def pieces(targets: list[Target]) -> Iterator[Piece]:
    """The files cut up: filesystem, path, start, end."""
    for fs, path, whole in targets:
        for start in range(0, whole, PIECE):
            yield fs, path, start, min(whole, start + PIECE)


def fetch(fs: Any, path: str, start: int, end: int) -> int:
    """Read a piece and forget it; its length."""
    with named(path):
        got = len(fs.cat_file(path, start=start, end=end))
        if got != end - start:
            raise OSError(f"{got} bytes instead of {end - start} at {start}")
        return got


class Fetching:
    """Pieces, fetched by threads that share them out among themselves."""

    def __init__(self, todo: list[Piece]):
        self.count = len(todo)
        self.todo = iter(todo)  # a list's: its next() is atomic
        self.outcomes: SimpleQueue[int | BaseException] = SimpleQueue()
        self.over = False

    def run(self, concurrency: int) -> Iterator[int]:
        """The lengths of the pieces as they come; raises the first error. What is under way when this ends is left behind."""
        for _ in range(min(concurrency, self.count)):
            threading.Thread(target=self.work, name="foliocache-warm", daemon=True).start()
        try:
            for _ in range(self.count):
                outcome = self.outcomes.get()
                if isinstance(outcome, BaseException):
                    raise outcome
                yield outcome
        finally:
            self.over = True

    def work(self) -> None:
        """One thread."""
        for piece in self.todo:
            if self.over:
                return
            try:
                self.outcomes.put(fetch(*piece))
            except BaseException as error:  # whatever it was, somebody waits for this piece
                self.outcomes.put(error)


def read(targets: list[Target], concurrency: int, quiet: bool) -> None:
    """Read all pieces, ``concurrency`` at a time; the first error stops it."""
    with progress(sum(whole for _, _, whole in targets), quiet) as advance:
        for length in Fetching(list(pieces(targets))).run(concurrency):
            advance(length)


@contextmanager
def progress(total: int, quiet: bool) -> Iterator[Callable[[int], object]]:
    """A bar of bytes in a terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = BarColumn(24), DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda count: bar.advance(task, count)


def show(report: dict[str, Any]) -> None:
    """What was read."""
    console().print(
        f"{counted(report['files'], 'file')}, {size(report['bytes'])}, in pool {report['name']}: "
        f"{size(report['fetched_bytes'])} fetched in {report['seconds']:.1f} s"
    )
