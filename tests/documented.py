"""Numbers of executions that the documents state, for tests that explore those scenarios anyway."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
MODELS = ("sc", "tso", "rc11")
NAME = r"([a-z]+/[a-z-]+)"


def number(text):
    return int(text.replace(",", ""))


def executions():
    """Return {(scenario, model): executions} of what reliability.md, checker.md and protocol.md say."""
    return _tables() | {(name, "rc11"): count for name, (_, count) in equal_threads().items()} | _protocol()


def _tables():
    rows = re.findall(rf"^\| `{NAME}` \|.*\| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \|$", _read("reliability.md"), re.MULTILINE)
    return {(name, model): number(count) for name, *counts in rows for model, count in zip(MODELS, counts, strict=True)}


def equal_threads():
    """Return {scenario: (executions without the declaration, executions with it)} of the table in checker.md."""
    rows = re.findall(rf"^\| `{NAME}` \| [^|]+ \| ([\d,]+) \| ([\d,]+) \|$", _read("checker.md"), re.MULTILINE)
    return {name: (number(without), number(with_)) for name, without, with_ in rows}


def _protocol():
    text = " ".join(_read("protocol.md").split())
    found = re.findall(
        rf"`(?:foliocache verify )?{NAME}`(?:, | \()([\d,]+)(?: executions?)?(?: under rc11|, under[^()]*)?\)", text
    )
    found += re.findall(rf"verify {NAME}`(?:(?! verify ).)*?\*[Hh]olds\*[^()]*\(([\d,]+) executions", text)
    return {(name, "rc11"): number(count) for name, count in found}


def _read(page):
    return (DOCS / page).read_text()
