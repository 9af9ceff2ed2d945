"""An S3 endpoint that counts: moto's server behind a proxy, those of the filesystem's tests."""

import contextlib
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "fs"))

from origin import Proxy, moto


@contextlib.contextmanager
def serving():
    """Yield a proxy, with ``url``, ``requests`` by method and ``sent``, bytes of the bodies of GET, by path."""
    with moto() as url, Proxy(url).running() as proxy:
        yield proxy
