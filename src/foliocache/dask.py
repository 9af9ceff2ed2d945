"""Dask through a pool: `PoolPlugin` opens one per machine for all workers there; `report` says what it has, `remove` ends it.

In the event loop of an asynchronous client these two are `report_async` and `remove_async`. It needs the extra ``dask``.
"""

from .adapters.dask import PoolPlugin, remove, remove_async, report, report_async

__all__ = ["PoolPlugin", "remove", "remove_async", "report", "report_async"]
