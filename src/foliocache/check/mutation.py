"""Deliberate damage to the source, to verify that a scenario detects it.

A mutation names a module, a function, and a text inside that function. The text must occur there exactly once: when the
source changes, a mutation that no longer fits raises :class:`Mismatch` instead of testing nothing.
"""

import ast
import dataclasses
import textwrap
from typing import Protocol


class Mismatch(Exception):
    """The mutation does not fit the source (any more)."""


class Mutation(Protocol):
    """A change of one module's source."""

    @property
    def module(self) -> str: ...
    def apply(self, source: str) -> str: ...


def _span(source: str, function: str) -> tuple[int, int]:
    """Return the lines, as slice bounds, of a top-level function or ``Class.method``. Raises Mismatch if there is none."""
    body = ast.parse(source).body
    for part in function.split("."):
        found = [node for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == part]
        if len(found) != 1:
            raise Mismatch(f"no function {function!r}")
        body = found[0].body
    return found[0].lineno - 1, found[0].end_lineno or 0


@dataclasses.dataclass(frozen=True)
class Edit:
    """Within ``module.function``, the text ``old`` (there exactly once) becomes ``new``."""

    module: str
    function: str
    old: str
    new: str

    def apply(self, source: str) -> str:
        first, last = _span(source, self.function)
        lines = source.splitlines(keepends=True)
        text = "".join(lines[first:last])
        if text.count(self.old) != 1:
            raise Mismatch(f"{self.module}.{self.function} has {self.old!r} {text.count(self.old)} times, not once")
        return "".join(lines[:first]) + text.replace(self.old, self.new) + "".join(lines[last:])


@dataclasses.dataclass(frozen=True)
class Replace:
    """``module.function`` becomes the function whose source is given (same name)."""

    module: str
    function: str
    source: str

    def apply(self, source: str) -> str:
        first, last = _span(source, self.function)
        lines = source.splitlines(keepends=True)
        new = textwrap.dedent(self.source).strip("\n").splitlines(keepends=True)
        new[-1] = new[-1].rstrip("\n") + "\n"
        # Line numbers after the function should stay as on disk: pad a variant that is shorter.
        new += ["\n"] * (last - first - len(new))
        return "".join(lines[:first] + new + lines[last:])
