"""The fsspec adapter: ``folio::`` in front of any URL, or ``cache_type="folio"`` for one file. See docs/fsspec.md.

Importing this module registers both. fsspec finds ``folio::`` by itself (by an entry point), but not the cache type.
"""

from __future__ import annotations

import fsspec
from fsspec.caching import register_cache

from . import fork as _fork  # noqa: F401 (its hooks)
from .file import FolioFile
from .filecache import FolioCache
from .filesystem import FolioFileSystem

__all__ = ["FolioCache", "FolioFile", "FolioFileSystem"]

fsspec.register_implementation("folio", FolioFileSystem, clobber=True)
register_cache(FolioCache, clobber=True)
