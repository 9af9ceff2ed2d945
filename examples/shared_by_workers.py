"""Spawned workers that read the same object: it is fetched once, by whichever of them comes first, page by page.

    python examples/shared_by_workers.py

What PyTorch's DataLoader does with ``num_workers=4``, without PyTorch: nothing is inherited, nothing is sent; the pool's name
is all that the workers have in common.
"""
import multiprocessing
import os
import random
import sysconfig
import tempfile
from pathlib import Path

import foliocache

NAME = "example-workers"
WORKERS = 4


def worker(path: str, log: str, number: int) -> None:
    """Read the whole file in random order through the pool, and note every fetch in a log that all share."""

    def read(offset: int, length: int) -> bytes:
        with open(log, "a") as file:
            file.write(f"{os.getpid()} {length}\n")
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(length)

    size = os.path.getsize(path)
    mapping = foliocache.open(NAME).mapping(f"file://{path}", size, version=str(os.path.getmtime(path)), read=read)
    pieces = list(range(0, size, 10_000))
    random.Random(number).shuffle(pieces)
    for offset in pieces:
        mapping.read(offset, min(10_000, size - offset))


def main() -> None:
    path = max(Path(sysconfig.get_path("stdlib")).glob("*.py"), key=lambda file: file.stat().st_size)
    foliocache.open(NAME, size="64MiB")
    try:
        with tempfile.NamedTemporaryFile() as log:
            context = multiprocessing.get_context("spawn")
            crew = [context.Process(target=worker, args=(str(path), log.name, number)) for number in range(WORKERS)]
            for process in crew:
                process.start()
            for process in crew:
                process.join()
            fetches = [line.split() for line in Path(log.name).read_text().splitlines()]
        fetched = sum(int(length) for _, length in fetches)
        print(f"{path.name}: {path.stat().st_size} bytes, read whole by each of {WORKERS} processes")
        print(f"fetched: {fetched} bytes in {len(fetches)} reads, by {len({pid for pid, _ in fetches})} of them")
    finally:
        foliocache.remove(NAME)


if __name__ == "__main__":
    main()
