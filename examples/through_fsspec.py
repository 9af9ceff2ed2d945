"""Put ``folio::`` in front of any URL that fsspec can open; pandas, pyarrow and zarr open such a URL, too.

    python examples/through_fsspec.py [URL]

Without a URL, this reads its own file.
"""

import sys
from pathlib import Path

import fsspec

import foliocache

NAME = "example-fsspec"


def main() -> None:
    url = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().as_uri()
    pool = foliocache.open(NAME, size="64MiB")  # folio:: would create it, too
    try:
        for turn in ("from the origin", "from the pool"):
            with fsspec.open(f"folio::{url}", folio={"name": NAME}) as file:
                data = file.read()
            counters = pool.stat().counters
            print(f"{turn}: {len(data)} bytes; {counters.fills} fills, {counters.hits} hits so far")
    finally:
        foliocache.remove(NAME)


if __name__ == "__main__":
    main()
