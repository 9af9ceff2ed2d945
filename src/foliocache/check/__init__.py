"""The model checker: runs a package's source, uncompiled, through every execution that a memory model allows.

Everything here except ``scenarios`` is the engine. It imports nothing of foliocache; the package to check is an argument (see
``scenario.Suite``).
"""
