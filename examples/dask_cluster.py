"""A Dask cluster of two workers, with one pool for both. Tasks find it by its name; a table is made once per machine.

python examples/dask_cluster.py
"""

import sys

import foliocache

try:
    import distributed
    import numpy

    from foliocache.dask import PoolPlugin, remove, report
except ImportError:
    sys.exit("this needs Dask: pip install 'foliocache[dask]'")

NAME = "example-dask"


def table() -> numpy.ndarray:
    """Return something that takes long."""
    return numpy.arange(1_000_000.0) ** 0.5


def root(number: int) -> float:
    """A task: it uses the table."""
    return float(foliocache.attach(NAME).get_or_create("roots", table)[number])


def main() -> None:
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        client.register_plugin(PoolPlugin(NAME, "64MiB"))
        try:
            print("roots:", client.gather(client.map(root, [4, 9, 16, 25])))
            for machine, stat in report(client, NAME).items():
                print(f"{machine}: {len(stat.clients)} processes, {stat.counters.fill_bytes / 1e6:.0f} MB made")
        finally:
            remove(client, NAME)


if __name__ == "__main__":
    main()
