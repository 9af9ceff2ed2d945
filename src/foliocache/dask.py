"""Dask through a pool: `PoolPlugin` opens one per machine for all workers there; `report` says what it has, `remove` ends it.

It needs the extra ``dask``.
"""

from .adapters.dask import PoolPlugin, remove, report

__all__ = ["PoolPlugin", "remove", "report"]
