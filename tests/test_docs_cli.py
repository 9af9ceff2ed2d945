"""What docs/cli.md shows is what the commands print: the keys of documents, the exit codes, a section for each command."""

import json
import re

from documents import page, rows, section

from foliocache.cli import exits
from foliocache.cli.app import COMMANDS

TEXT = page("cli.md")


def shown(command, n=0):
    return json.loads(re.findall(r"^```json\n(.*?)^```$", section(TEXT, command), re.DOTALL | re.MULTILINE)[n])


def keys(thing):
    """The keys of dicts in dicts and lists of them."""
    if isinstance(thing, dict):
        return {key: keys(value) for key, value in thing.items()}
    return [keys(thing[0])] if isinstance(thing, list) and thing else None


def test_stat_and_ls(pool):
    with pool.mapping("k", 100, "1", lambda offset, length: bytes(length)).lease(0):
        assert keys(shown("stat")) == keys({**pool.stat().to_dict(), "huge_bytes": 0})
        assert keys(shown("ls")) == keys([found.to_dict() for found in pool.mappings()])
        pool.names.ask("k").answer(100, "1")
        assert keys(shown("ls", 1)) == keys([found.to_dict() for found in pool.names.list()])


def test_the_sums_of_the_shown_pool():
    told = shown("stat")
    assert sum(told["pages_by_state"].values()) == told["pages"] == told["pool_bytes"] // told["page_size"]
    free = told["pages_by_state"]["free"] + told["pages_by_state"]["hole"]
    assert told["free_bytes"] == free * told["page_size"]
    assert told["metadata_ratio"] == round(told["metadata_bytes"] / told["pool_bytes"], 4)


def test_the_exit_codes():
    assert {int(code): meaning for code, meaning, _ in rows(TEXT, "code", "meaning")} == exits.MEANINGS


def test_every_command_has_its_section():
    assert set(re.findall(r"^## (.*)$", TEXT, re.MULTILINE)) == {"Exit codes", *COMMANDS}
