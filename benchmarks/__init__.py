"""The measurements of foliocache: ``python -m benchmarks``, or ``make bench``. The results are in docs/performance.md.

A bench is a module with a function ``run(plan)`` that returns a Section, named in ``BENCHES`` of ``__main__``.
"""
