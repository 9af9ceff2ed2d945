"""``python -m foliocache``: the same command line where the script folder is not on the path."""

from foliocache.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
