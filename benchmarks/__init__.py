"""The measurements of foliocache: ``python -m benchmarks``, or ``make bench``. docs/performance.md says what they found.

A bench is a module with a function ``run(plan)`` that returns a Section, named in ``BENCHES`` of ``__main__``.
"""
