"""Dask through a pool: ``plugin`` opens one pool per machine for all workers there, and reports."""

from .plugin import PoolPlugin, remove, report

__all__ = ["PoolPlugin", "remove", "report"]
