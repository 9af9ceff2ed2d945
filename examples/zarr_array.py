"""Four processes read a Zarr array in slabs. Each chunk is decoded once, by one of them.

python examples/zarr_array.py
"""

import multiprocessing
import sys
import tempfile

import numpy

import foliocache

try:
    import zarr

    from foliocache.zarr import CachedCodecPipeline, FolioStore
except ImportError:
    sys.exit("this needs zarr: pip install 'foliocache[zarr]'")

NAME = "example-zarr"
PIPELINE = f"{CachedCodecPipeline.__module__}.{CachedCodecPipeline.__qualname__}"


def worker(store: FolioStore) -> int:
    """Read all of the array, six rows at a time."""
    zarr.config.set({"codec_pipeline.path": PIPELINE})
    array = zarr.open_array(store, mode="r")
    return sum(int(array[row : row + 6].sum()) for row in range(0, array.shape[0], 6))


def main() -> None:
    pool = foliocache.open(NAME, size="64MiB")
    try:
        with tempfile.TemporaryDirectory() as folder, multiprocessing.get_context("spawn").Pool(4) as workers:
            store = FolioStore(zarr.storage.LocalStore(folder), pool)
            array = zarr.create_array(store, shape=(512, 1000), chunks=(256, 500), dtype="i4")
            array[:] = numpy.arange(512_000).reshape(512, 1000)
            print("sums:", workers.map(worker, [store] * 4, chunksize=1))
        decoded = sum("c/" in each.key for each in pool.mappings())
        print(decoded, "decoded chunks in the pool, read by four processes")
    finally:
        foliocache.remove(NAME)


if __name__ == "__main__":
    main()
