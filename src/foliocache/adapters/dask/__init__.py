"""Dask through a pool: ``plugin`` opens one pool per machine for all workers there, and reports."""

from .plugin import PoolPlugin, remove, remove_async, report, report_async

__all__ = ["PoolPlugin", "remove", "remove_async", "report", "report_async"]
