"""One process's side of a pool: its file, the client slot, leases, windows, mappings, and the pool as an object."""

from ..mm import atomics as _atomics  # noqa: F401 - an uncompiled core says so before a compiled module is missed
