"""The machine code of the hit path's one atomic step."""

import platform
import re
import shutil
import subprocess

import pytest

from foliocache.mm import page_ref

SYMBOL = "__pyx_f_10foliocache_2mm_8page_ref_try_get"
UNSIGNED = {"jbe": True, "jb": True, "ja": False, "jae": False}  # taken when the count is below the limit?

pytestmark = [
    pytest.mark.skipif(platform.machine() != "x86_64", reason="reads x86-64 code"),
    pytest.mark.skipif(not shutil.which("objdump"), reason="objdump is not installed"),
]


@pytest.fixture(scope="module")
def code():
    """[(address, mnemonic and operands)] of try_get."""
    command = ["objdump", "-d", "--no-show-raw-insn", f"--disassemble={SYMBOL}", page_ref.__file__]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    body = text.split(f"<{SYMBOL}>:")[1].split("\n\n")[0]
    lines = re.findall(r"^\s*([0-9a-f]+):\s+(.*?)\s*$", body, re.MULTILINE)
    return [(int(address, 16), re.sub(r"\s+", " ", text)) for address, text in lines]


def target(text):
    """Where a jump goes, or None."""
    jump = re.match(r"j\w+ ([0-9a-f]+)", text)
    return int(jump[1], 16) if jump else None


def fast_path(code):
    """The instructions that run when the count is live and small: the comparison with REF_MAX decides, nothing else may."""
    number, places = 0, {address: i for i, (address, _) in enumerate(code)}
    path, compared = [], False
    while True:
        text = code[number][1]
        path.append(text)
        if text.startswith(("ret", "repz ret", "bnd ret")):
            return path
        compared = compared or bool(re.match(r"cmp \$0x(3fffffff|40000000),", text))
        taken = text.startswith("jmp")
        if target(text) and not taken:
            assert compared, f"{text}: a branch before the count is compared with its limit"
            taken = UNSIGNED[text.split()[0]]
            compared = False
        number = places[target(text)] if taken else number + 1
        assert len(path) <= len(code), "the fast path goes in a circle"


def test_the_function_is_there(code):
    assert len(code) > 5


def test_the_first_atomic_step_is_lock_xadd(code):
    atomic = [text for _, text in code if text.startswith("lock ") or "cmpxchg" in text or text.startswith("xchg")]
    assert atomic[0].startswith("lock xadd")


def test_the_fast_path_is_one_lock_xadd(code):
    path = fast_path(code)
    assert [text.split()[1] for text in path if text.startswith("lock ")] == ["xadd"]
    assert not any("cmpxchg" in text or "xchg" in text or text.startswith("call") for text in path)


def test_no_jump_goes_back(code):
    """Neither on the fast path nor elsewhere: there is no loop in the whole function."""
    inside = {address for address, _ in code}
    for address, text in code:
        if target(text):
            assert target(text) in inside, f"{text} leaves the function"
            assert target(text) > address, f"{text} goes back"


def test_the_reset_is_a_single_cmpxchg(code):
    assert len([text for _, text in code if "cmpxchg" in text]) <= 1
