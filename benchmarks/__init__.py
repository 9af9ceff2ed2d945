"""The measurements of foliocache: ``python -m benchmarks``, or ``make bench``. docs/performance.md says what they found."""
