"""Runs a test in a new interpreter, which has imported no more than the test needs.

The process of a whole run has many modules and millions of objects. A fork of it copies its page tables, and a collection of
garbage looks at all its objects: tens of milliseconds each. A test that forks or collects hundreds of times does that in a
small process instead, and the same happens there.
"""

import functools
import importlib
import os
import pickle
import subprocess
import sys

TESTS = os.path.dirname(os.path.abspath(__file__))
LIMIT = 2800 if "FOLIOCACHE_STRESS_SECONDS" in os.environ else 280  # seconds; a test's own timer ends it after 3000 or 300


def process(test):
    """Decorate a test that takes only fixtures with plain values (names, paths): they are made here and passed on."""

    @functools.wraps(test)
    def in_a_new_process(**fixtures):
        called = test.__module__, test.__qualname__, fixtures
        path = os.pathsep.join([TESTS, os.path.dirname(TESTS), os.path.dirname(sys.modules[test.__module__].__file__)])
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([path, os.environ.get("PYTHONPATH", "")])}
        ended = subprocess.run(
            [sys.executable, __file__], input=pickle.dumps(called), env=environment, capture_output=True, timeout=LIMIT
        )
        assert ended.returncode == 0, (ended.stdout + ended.stderr).decode(errors="replace")

    return in_a_new_process


def main():
    module, name, fixtures = pickle.loads(sys.stdin.buffer.read())
    getattr(importlib.import_module(module), name).__wrapped__(**fixtures)


if __name__ == "__main__":
    main()
