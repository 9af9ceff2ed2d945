"""A plugin for the workers of a Dask cluster, and what a client asks of the pools that it has opened."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, SupportsIndex

from distributed import Client, WorkerPlugin

from ... import PoolNotFoundError, attach, open
from ... import remove as remove_pool
from ...pool.files import path_of
from ...pool.geometry import parameters
from ...sizes import quoted

if TYPE_CHECKING:
    from distributed import Worker

    from ...observe.records import Stat
    from ...pool.pool import Pool


class PoolPlugin(WorkerPlugin):
    """A plugin that opens a pool on each worker: all workers of a machine share one.

    Register it before the work begins: ``client.register_plugin(PoolPlugin("zarr", "8GiB"))``. Tasks then get the pool by its
    name, ``foliocache.attach("zarr")``, and so do a `FolioStore` and ``folio::`` URLs. Workers that start later open it, too. A
    worker that is killed leaves the pool as it was.

    Each registration replaces the one before it of the same pool's name, also one that failed: all workers open the pool again,
    with the parameters of the new one. The client gets the error of a worker that cannot. A worker that starts later and cannot
    writes it to its log, and goes on without the pool.

    Parameters
    ----------
    name : str
        The pool's name.
    size : int or str, optional
        Bytes of a new pool on each machine, a string such as ``"8GiB"``, or a share of the memory there is, such as ``"25%"``,
        as in `foliocache.open`. An existing pool keeps its size.
    page_size : int or str, optional
        Bytes of a page, as in `foliocache.open`.
    clients : int, optional
        How many processes of a machine may use the pool at once, as in `foliocache.open`.
    exact : bool
        Raise an error also if a machine's existing pool has another ``size`` than that given.

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

    def __init__(
        self,
        name: str = "dask",
        size: SupportsIndex | str | None = None,
        *,
        page_size: SupportsIndex | str | None = None,
        clients: SupportsIndex | None = None,
        exact: bool = False,
    ) -> None:
        path_of(name)  # these two raise here what each worker would
        parameters(size, page_size, clients)
        self.pool_name: str = name
        self.name: str = f"foliocache-{name}"
        self.pool: Pool | None = None
        self._options = size, page_size, clients, exact

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
        size, page_size, clients, exact = self._options
        self.pool = open(self.pool_name, size, page_size, clients=clients, exact=exact)

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
        A client of the cluster. In its event loop, await `report_async` instead.
    name : str
        The pool's name.

    Returns
    -------
    dict of str to Stat
        The machines' addresses, and the state of each one's pool. Machines without the pool are left out.

    Raises
    ------
    TypeError
        ``client`` is no client, or asynchronous.
    ValueError
        No pool can have that name; or the client is closed, or has not been awaited.
    PoolError
        As from `foliocache.attach`.
    OSError
        No worker of a machine can be reached.
    """
    _check_client(client, "report", asynchronous=False)
    return client.sync(report_async, client, name)


async def report_async(client: Client, name: str = "dask") -> dict[str, Stat]:
    """`report`, in the event loop of an asynchronous client.

    Parameters
    ----------
    client : Client
        An asynchronous client of the cluster.
    name : str
        The pool's name.

    Returns
    -------
    dict of str to Stat
        As from `report`.

    Raises
    ------
    TypeError
        ``client`` is no client, is not asynchronous, or has another event loop. The others are those of `report`.
    """
    _check_client(client, "report", asynchronous=True)
    found = await _on_each_machine(client, _stat, name)
    return {host: stat for host, stat in found.items() if stat is not None}


def remove(client: Client, name: str = "dask") -> list[str]:
    """Remove the pool from each machine of a cluster. Processes that use it keep what they have, and no other finds it.

    Unregister the plugin first if workers may start later: they would make a new pool. Machines without a worker keep theirs.

    Parameters
    ----------
    client : Client
        A client of the cluster. In its event loop, await `remove_async` instead.
    name : str
        The pool's name.

    Returns
    -------
    list of str
        The addresses of the machines that had the pool.

    Raises
    ------
    TypeError
        ``client`` is no client, or asynchronous.
    ValueError
        No pool can have that name; or the client is closed, or has not been awaited.
    PoolError
        As from `foliocache.remove`.
    OSError
        No worker of a machine can be reached.
    """
    _check_client(client, "remove", asynchronous=False)
    return client.sync(remove_async, client, name)


async def remove_async(client: Client, name: str = "dask") -> list[str]:
    """`remove`, in the event loop of an asynchronous client.

    Parameters
    ----------
    client : Client
        An asynchronous client of the cluster.
    name : str
        The pool's name.

    Returns
    -------
    list of str
        As from `remove`.

    Raises
    ------
    TypeError
        ``client`` is no client, is not asynchronous, or has another event loop. The others are those of `remove`.
    """
    _check_client(client, "remove", asynchronous=True)
    found = await _on_each_machine(client, _remove, name)
    return sorted(host for host, was_there in found.items() if was_there)


def _check_client(client: Client, function: str, asynchronous: bool) -> None:
    if not isinstance(client, Client):
        raise TypeError(f"client must be a distributed.Client, not {quoted(client)}")
    if client.asynchronous is not asynchronous:
        if asynchronous:
            raise TypeError(f"{function}_async() needs an asynchronous client, and its event loop; call {function}() instead")
        raise TypeError(
            f"{function}() cannot wait in the event loop of an asynchronous client; await {function}_async() instead"
        )
    if client.scheduler is None:
        raise ValueError(f"the client has no connection to a scheduler: its status is {client.status!r}")


async def _on_each_machine(client: Client, function: Callable[[str], Any], name: str) -> dict[str, Any]:
    """Call ``function(name)`` on one worker of each machine. Return the results by the machines' addresses.

    Where the worker ends meanwhile, or has no descriptors left, another one is asked. Machines without a worker are left out.
    """
    path_of(name)  # raises here what each worker would
    found: dict[str, Any] = {}
    failed: dict[str, BaseException] = {}  # by the workers' addresses
    while True:
        workers = (await client.scheduler.identity(n_workers=-1))["workers"]
        missing = {address: each["host"] for address, each in workers.items() if each["host"] not in found}
        chosen = {host: address for address, host in missing.items() if address not in failed}
        if not chosen:
            break
        results = await client.run(function, name, workers=list(chosen.values()), on_error="return")
        for host, address in chosen.items():
            result = results[address]
            if not isinstance(result, BaseException):
                found[host] = result
            elif isinstance(result, OSError):  # so is distributed's, of a worker that cannot be reached
                failed[address] = result
            else:
                raise result
    for address in missing:
        raise failed[address]
    return found


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
