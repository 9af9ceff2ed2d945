"""What type checkers know of memoized functions and of objects."""

import subprocess
import sys

import pytest

pytest.importorskip("mypy", reason="mypy is not installed (make lint installs it)")

SOUND = """
from typing import Any, assert_type

import foliocache

pool = foliocache.open("types")

@pool.memoize
def function(a: int, self: str = "") -> float:
    return 1.0

@pool.memoize(version="1")
async def coroutine(a: int) -> list[int]:
    return [a]

class Decoder:
    @pool.memoize
    def decode(self, path: str, *, size: int = 1) -> bytes:
        return b""

    @staticmethod
    @pool.memoize
    def plain(path: str) -> bytes:
        return b""

assert_type(function(1, self=""), float)
assert_type(function.key(1, self=""), str)
function.delete(1)
assert_type(Decoder().decode("", size=2), bytes)
assert_type(Decoder.decode.key(Decoder(), "", size=2), str)
assert_type(Decoder.plain(""), bytes)
assert_type(pool.get_or_create("number", lambda: 5), int)
assert_type(pool.get("number"), Any)

async def main() -> None:
    async def make() -> int:
        return 1

    assert_type(await coroutine(1), list[int])
    assert_type(coroutine.key(1), str)
    assert_type(await pool.get_or_create_async("number", make), int)
"""

WRONG = [
    "function('1')",
    "function.key('1')",
    "function.delete()",
    "Decoder().decode(1)",
    "Decoder().decode()",
    "coroutine.key()",
]


def test_memoized_functions_have_the_types_of_their_functions(tmp_path):
    file = tmp_path / "typed.py"
    file.write_text(SOUND + "\n".join(WRONG))
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file=",
        f"--cache-dir={tmp_path}",
        "--no-error-summary",
        file,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    first = SOUND.count("\n") + 1
    found = [int(line.split(":")[1]) for line in done.stdout.splitlines() if " error: " in line]
    assert found == [first + n for n in range(len(WRONG))], done.stdout + done.stderr
