"""docs/reference/python.md names everything that is public, and nothing else."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import emu
from emu.api.crashes import CrashAnswer
from emu.api.parts import Dimm, Labels

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "python.md").read_text("utf-8")
# Within the project only; the page promises none of them.
INTERNAL = {"engine", "migration_control", "row", "COLUMNS"}


def signature_of(name: str) -> list[str]:
    """The names of the parameters that the page's signature of ``name`` has, in its order."""
    (found,) = re.findall(rf"^    emu\.{name}\(((?:[^()]|\n)*?)\)$", PAGE, re.MULTILINE)
    words = [word.partition("=")[0].strip() for word in found.split(",")]
    return [word for word in words if word != "*"]


@pytest.mark.parametrize("name", ["Nvdimm", "Machine", "crash", "migrate"])
def test_signatures(name: str) -> None:
    assert signature_of(name) == list(inspect.signature(getattr(emu, name)).parameters)


@pytest.mark.parametrize("name", emu.__all__)
def test_names(name: str) -> None:
    assert re.search(rf"`(emu\.)?{name}`", PAGE)


@pytest.mark.parametrize("kind", [emu.Machine, CrashAnswer, Dimm, emu.Capture, Labels])
def test_members(kind: type) -> None:
    members = {name for name in vars(kind) if not name.startswith("_")} - INTERNAL - {"LIMIT"}
    missing = [name for name in members if not re.search(rf"`{name}(\(.*?\))?`", PAGE)]
    assert missing == []
