"""``foliocache metrics``: the statistics of pools as metrics, once or for a server that scrapes them."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

from foliocache.cli import address, exits
from foliocache.cli.options import AnyName
from foliocache.cli.output import tell
from foliocache.pool.watch import Watch

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


def metrics(name: AnyName = None, /, *, serve: str | None = None, any_owner: bool = False) -> None:
    """Print the metrics of pools as OpenMetrics text, or serve them to Prometheus.

    It is a client of no pool, takes no lock, and costs the same however large a pool is.

    Parameters
    ----------
    name
        The pool; all pools of this user if left out.
    serve
        Serve the metrics at http://HOST:PORT/metrics instead, until Ctrl-C: HOST:PORT, or :PORT for this machine alone.
    any_owner
        Also read a pool of another user, who can change its bytes at any time.
    """
    watch = Watch(() if name is None else (name,), any_owner=any_owner)
    registry = _registry(watch)
    if serve is not None:
        return _serve(registry, *address.parse_address(serve))
    from prometheus_client.openmetrics import exposition

    if name is not None and (found := watch.look()[0]).error is not None:
        raise exits.CommandError(found.error)
    text: bytes = exposition.generate_latest(registry)  # type: ignore[no-untyped-call]
    sys.stdout.write(text.decode())


def _registry(watch: Watch) -> CollectorRegistry:
    """Return a registry with the metrics of the pools alone. Raises CommandError without prometheus_client."""
    try:
        from prometheus_client import CollectorRegistry

        from foliocache.observe.exposition import PoolCollector
    except ImportError:
        raise exits.CommandError('metrics need prometheus_client: pip install "foliocache[metrics]"') from None
    registry = CollectorRegistry()
    registry.register(PoolCollector(lambda: ((seen.name, seen.statistics) for seen in watch.look())))
    return registry


def _serve(registry: CollectorRegistry, host: str, port: int) -> None:
    """Serve the metrics until a signal ends the command."""
    from prometheus_client import start_http_server

    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise exits.CommandError(f"cannot listen at {address.shown(host, port)}: {error.strerror or error}") from None
    tell(f"metrics at http://{address.shown(host, server.server_port)}/metrics")
    try:
        threading.Event().wait()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
