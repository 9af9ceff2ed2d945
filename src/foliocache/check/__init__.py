"""The model checker: runs a package's source, uncompiled, through every execution that a memory model allows.

Everything here but ``scenarios`` is the engine. It imports nothing of foliocache; the package is an argument (see
``scenario.Suite``).
"""
