"""The full set of measurements: ``python -m bench``, or ``make bench``. See docs/performance.md."""
