"""The public names have docstrings of one style, numpydoc: parameters, what is returned and what is raised have sections."""

import inspect
import re
from typing import NamedTuple

import pytest

import foliocache
from foliocache.adapters.fsspec import FolioCache, FolioFile, FolioFileSystem

FIELD = type(NamedTuple("Record", [("field", int)]).field)  # it has no docstring of its own
SECTIONS = ("Parameters", "Attributes", "Returns", "Raises")
# Of fsspec's interface, only what fsspec does not have.
ADAPTERS = {"FolioFile": FolioFile, "FolioFileSystem": FolioFileSystem, "FolioCache": FolioCache}
OWN = {
    "FolioFile.lease": FolioFile.lease,
    "FolioFile.read_buffer": FolioFile.read_buffer,
    "FolioFileSystem.lease": FolioFileSystem.lease,
}


def public():
    """(name, thing) of the public names, and of the public methods and properties of the classes among them."""
    for name in foliocache.__all__:
        thing = getattr(foliocache, name)
        yield name, thing
        if inspect.isclass(thing) and not issubclass(thing, BaseException):
            for base in (base for base in thing.__mro__ if base.__module__.startswith("foliocache.")):
                for each, member in vars(base).items():
                    described = callable(member) or inspect.isdatadescriptor(member)
                    is_field = inspect.ismemberdescriptor(member) or inspect.isgetsetdescriptor(member) or type(member) is FIELD
                    if not each.startswith("_") and described and not is_field:
                        yield f"{name}.{each}", member
    yield from ADAPTERS.items()
    yield from OWN.items()


PUBLIC = dict(public())


def sections(text):
    """The docstring by its sections; "" is what comes before the first."""
    found = re.split(rf"^({'|'.join(SECTIONS)})\n-+\n", inspect.cleandoc(text), flags=re.MULTILINE)
    return {"": found[0], **dict(zip(found[1::2], found[2::2], strict=True))}


def described(section):
    """The names that a section describes."""
    heads = re.findall(r"^(\S.*?)(?: : .*)?$", section, re.MULTILINE)
    return {name for head in heads for name in head.split(", ")}


def parameters(thing):
    if inspect.isclass(thing) or not callable(thing):
        return []
    return [name for name in inspect.signature(thing).parameters if name != "self"]


@pytest.mark.parametrize("name", PUBLIC)
def test_docstring(name):
    thing = PUBLIC[name]
    found = sections(thing.__doc__ or "")
    assert re.match(r".*[.\n]", found[""]), "it has no summary"
    assert not re.search(r":param|:raises|:return|^(Raises|Returns) \w", thing.__doc__, re.MULTILINE), "another style"
    assert set(parameters(thing)) <= described(found.get("Parameters", ""))
    assert list(found) == ["", *(section for section in SECTIONS if section in found)], "sections in another order"


def test_a_parameter_that_is_not_described_is_found():
    def wrong(one, other):
        """Does it.

        Parameters
        ----------
        one : int
            The one.
        """

    assert set(parameters(wrong)) - described(sections(wrong.__doc__)["Parameters"]) == {"other"}


def test_the_public_functions_are_among_them():
    assert {"open", "Pool.mapping", "Mapping.lease", "Mapping.window", "Lease.release", "Window.lease", "Stat.to_dict"} <= set(
        PUBLIC
    )
