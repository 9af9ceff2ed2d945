"""Four processes want the same table. It is computed once, and all of them read the same pages.

python examples/objects.py
"""

import multiprocessing

import numpy

import foliocache

NAME = "example-objects"


def table() -> numpy.ndarray:
    """Return something that takes long."""
    print("made by one process", flush=True)
    return numpy.arange(1_000_000.0) ** 0.5


def worker(number: int) -> float:
    """Use the table."""
    return float(foliocache.open(NAME).get_or_create("roots", table)[number])


def main() -> None:
    pool = foliocache.open(NAME, size="64MiB")
    try:
        with multiprocessing.get_context("spawn").Pool(4) as workers:
            print("roots:", workers.map(worker, [4, 9, 16, 25], chunksize=1))
        print(f"{pool.stat().cached_bytes / 1e6:.0f} MB in the pool, for four processes")
    finally:
        foliocache.remove(NAME)


if __name__ == "__main__":
    main()
