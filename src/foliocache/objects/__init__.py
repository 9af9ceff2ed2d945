"""Python objects in a pool: made once per machine, and given to all as views of the same pages.

``values`` lays an object out as bytes and builds it from them; ``store`` finds, makes, keeps and forgets; ``memo`` and ``keys``
are the decorator. The package is below ``pool``, and knows of it what ``host`` says.
"""

from .memo import Memo
from .store import Make, MakeAsync, Objects, Writable
from .values import Loads

__all__ = ["Loads", "Make", "MakeAsync", "Memo", "Objects", "Writable"]
