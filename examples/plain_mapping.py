"""A cache for anything that can be read by offset; here the source is a function that computes the bytes.

python examples/plain_mapping.py
"""

import foliocache

NAME = "example-plain"
SIZE = 1_000_000


def slow_source(offset: int, length: int) -> bytes:
    """Return bytes of the object. In your program: read a database, a file on another machine, or compute."""
    print(f"  fetching {length} bytes at {offset}")
    return bytes(number % 251 for number in range(offset, offset + length))


def main() -> None:
    pool = foliocache.open(NAME, size="16MiB")
    try:
        mapping = pool.mapping("example://numbers", SIZE, version="1", read=slow_source)

        print("the first read fetches, the second does not:")
        first = bytes(mapping.read(500_000, 10))
        assert bytes(mapping.read(500_000, 10)) == first

        print("a lease is the page itself, read-only and without a copy; it is not evicted while you hold it:")
        with mapping.lease(0) as lease, memoryview(lease) as view:
            print(f"  {len(view)} bytes, readonly={view.readonly}, begins with {view[:5].tolist()}")

        print(f"counters: {pool.stat().counters}")
    finally:
        foliocache.remove(NAME)


if __name__ == "__main__":
    main()
