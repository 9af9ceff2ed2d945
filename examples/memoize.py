"""Four processes call the same function. Each result is computed once, and kept by the function's arguments.

python examples/memoize.py
"""

import multiprocessing

import numpy

import foliocache

NAME = "example-memoize"
pool = foliocache.open(NAME, size="64MiB")


@pool.memoize()
def waves(frequency: int, samples: int = 1_000_000) -> numpy.ndarray:
    """Return something that takes long."""
    print(f"computed: {frequency} waves", flush=True)
    return numpy.sin(numpy.linspace(0, 2 * numpy.pi * frequency, samples))


def worker(frequency: int) -> float:
    """Call it by keyword: the key is of the arguments, and not of how they are given."""
    return float(waves(samples=1_000_000, frequency=frequency).max())


def main() -> None:
    try:
        waves(3)
        with multiprocessing.get_context("spawn").Pool(4) as workers:
            print("highest:", [round(each, 3) for each in workers.map(worker, [3, 4, 3, 4, 3, 4], chunksize=1)])
        print(f"{sum('waves' in each.key for each in pool.mappings())} results in the pool")
    finally:
        foliocache.remove(NAME)


if __name__ == "__main__":
    main()
