"""A plugin for the workers of a Dask cluster, and what a client asks of the pools that it has opened."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, SupportsIndex

from distributed import WorkerPlugin

from ... import PoolNotFoundError, attach, open
from ... import remove as remove_pool
from ...pool.files import path_of
from ...sizes import parse_count, parse_share, parse_size

if TYPE_CHECKING:
    from distributed import Client, Worker

    from ...observe.records import Stat
    from ...pool.pool import Pool


class PoolPlugin(WorkerPlugin):
    """A plugin that opens a pool on each worker: all workers of a machine share one.

    Register it before the work begins: ``client.register_plugin(PoolPlugin("zarr", "8GiB"))``. Tasks then get the pool by its
    name, ``foliocache.attach("zarr")``, and so do a `FolioStore` and ``folio::`` URLs. Workers that start later open it, too. A
    worker that is killed leaves the pool as it was.

    Parameters
    ----------
    name : str
        The pool's name.
    size : int or str, optional
        Bytes of the pool on each machine, or a string such as ``"8GiB"``. By default that of an existing pool, or 4 GiB.
    page_size : int or str, optional
        Bytes of a page, as in `foliocache.open`.
    clients : int, optional
        How many processes of a machine may use the pool at once, as in `foliocache.open`.

    Attributes
    ----------
    pool_name : str
        The pool's name.
    name : str
        The plugin's name, with which ``client.unregister_worker_plugin`` ends it.
    pool : Pool or None
        The pool, on a worker.

    Raises
    ------
    ValueError
        A parameter has an invalid value.
    """

    idempotent = True

    def __init__(
        self,
        name: str = "dask",
        size: SupportsIndex | str | None = None,
        *,
        page_size: SupportsIndex | str | None = None,
        clients: SupportsIndex | None = None,
    ) -> None:
        path_of(name)  # raises here what each worker would
        if isinstance(size, str) and size.rstrip().endswith("%"):
            parse_share(size)
        elif size is not None:
            parse_size(size)
        if page_size is not None:
            parse_size(page_size, "page_size")
        if clients is not None:
            parse_count(clients, "clients")
        self.pool_name: str = name
        self.name: str = f"foliocache-{name}"
        self.pool: Pool | None = None
        self._options = size, page_size, clients

    def setup(self, worker: Worker) -> None:
        """Open the pool. Dask calls this on each worker.

        Parameters
        ----------
        worker : Worker
            The worker.

        Raises
        ------
        PoolError
            The pool cannot be opened there, or has other parameters.
        """
        size, page_size, clients = self._options
        self.pool = open(self.pool_name, size, page_size, clients=clients)

    def teardown(self, worker: Worker) -> None:
        """Let go of the pool, which stays for other processes: `remove` ends it. Dask calls this when a worker ends.

        Parameters
        ----------
        worker : Worker
            The worker.
        """
        self.pool = None


def report(client: Client, name: str = "dask") -> dict[str, Stat]:
    """Ask one worker of each machine for the state of the pool there.

    Parameters
    ----------
    client : Client
        A client of the cluster, not an asynchronous one.
    name : str
        The pool's name.

    Returns
    -------
    dict of str to Stat
        The machines' addresses, and the state of each one's pool. Machines without the pool are left out.
    """
    found = _on_each_machine(client, _stat, name)
    return {host: stat for host, stat in found.items() if stat is not None}


def remove(client: Client, name: str = "dask") -> list[str]:
    """Remove the pool from every machine of a cluster. Processes that use it keep what they have, and no other finds it.

    Parameters
    ----------
    client : Client
        A client of the cluster, not an asynchronous one.
    name : str
        The pool's name.

    Returns
    -------
    list of str
        The addresses of the machines that had the pool.
    """
    return sorted(host for host, was_there in _on_each_machine(client, _remove, name).items() if was_there)


def _on_each_machine(client: Client, function: Any, name: str) -> dict[str, Any]:
    """Call ``function(name)`` on one worker of each machine. Return the results by the machines' addresses."""
    workers = client.scheduler_info(n_workers=-1)["workers"]
    chosen = {each["host"]: address for address, each in workers.items()}
    if not chosen:
        return {}
    found = client.run(function, name, workers=list(chosen.values()))
    return {host: found[address] for host, address in chosen.items()}


def _stat(name: str) -> Stat | None:
    try:
        return attach(name).stat()
    except PoolNotFoundError:
        return None


def _remove(name: str) -> bool:
    with contextlib.suppress(PoolNotFoundError):
        remove_pool(name)
        return True
    return False
