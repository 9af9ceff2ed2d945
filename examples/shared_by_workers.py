"""Spawned workers that read the same object: each page is fetched once, by the worker that needs it first.

    python examples/shared_by_workers.py

It does what PyTorch's DataLoader does with ``num_workers=4``, without PyTorch. The workers inherit nothing and send each other
nothing; all that they have in common is the pool's name.
"""

import multiprocessing
import os
import random
import sys
import tempfile
from collections import Counter
from multiprocessing.synchronize import Barrier
from pathlib import Path

import foliocache

NAME = "example-workers"
WORKERS = 4
SIZE = 20_000_000


def worker(path: str, log: str, number: int, start: Barrier) -> None:
    """Read the whole file in random order through the pool, and write every fetch into a log that all workers share."""

    def read(offset: int, length: int) -> bytes:
        with open(log, "a") as file:
            file.write(f"{os.getpid()} {length}\n")
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(length)

    mapping = foliocache.open(NAME).mapping(f"file://{path}", SIZE, version=str(os.path.getmtime(path)), read=read)
    pieces = list(range(0, SIZE, 10_000))
    random.Random(number).shuffle(pieces)
    start.wait(60)  # seconds; all workers fail if one does not come
    for offset in pieces:
        mapping.read(offset, 10_000)


def main() -> None:
    foliocache.open(NAME, size="64MiB")
    try:
        with tempfile.NamedTemporaryFile() as data, tempfile.NamedTemporaryFile() as log:
            data.write(random.randbytes(SIZE))
            data.flush()
            run(data.name, log.name)
            report(Path(log.name).read_text())
    finally:
        foliocache.remove(NAME)


def run(path: str, log: str) -> None:
    """Run all workers at the same time."""
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(WORKERS)
    workers = [context.Process(target=worker, args=(path, log, number, start)) for number in range(WORKERS)]
    for process in workers:
        process.start()
    for process in workers:
        process.join()
    if any(process.exitcode for process in workers):
        sys.exit("a worker has failed")


def report(log: str) -> None:
    """Print how many bytes each process has fetched."""
    fetched: Counter[str] = Counter()
    for pid, length in map(str.split, log.splitlines()):
        fetched[pid] += int(length)
    print(f"{SIZE} bytes, read whole by each of {WORKERS} processes, {sum(fetched.values())} bytes fetched:")
    for pid, length in fetched.items():
        print(f"  process {pid} fetched {length}")


if __name__ == "__main__":
    main()
