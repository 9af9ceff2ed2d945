"""Python objects in a pool: each is made once per machine, and all processes get views of the same pages.

``values`` converts an object to bytes and builds it from them. ``store`` finds, makes, keeps and forgets objects; ``many``
makes several in one call. ``memo`` and ``keys`` are the decorator. The package does not import ``pool``; ``host`` has the
protocols that it needs of a pool.
"""

from .memo import Memo, Memoized
from .store import Make, MakeAsync, Objects, Writable
from .values import Loads

__all__ = ["Loads", "Make", "MakeAsync", "Memo", "Memoized", "Objects", "Writable"]
