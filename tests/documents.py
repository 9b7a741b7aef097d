"""Holds JSON documents against their published schemas (docs/reference/schemas), where jsonschema is installed."""

from __future__ import annotations

import importlib.util
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

SCHEMAS = Path(__file__).parents[1] / "docs" / "reference" / "schemas"
INSTALLED = importlib.util.find_spec("jsonschema") is not None
"""A plain ``make test`` has no jsonschema; in continuous integration the examiners are installed."""


def names() -> list[str]:
    """The schemas that are published, like ``emu.run/1``."""
    found = [path.name.removesuffix(".schema.json") for path in SCHEMAS.glob("*.schema.json")]
    return sorted("/".join(name.rsplit("-", 1)) for name in found)


def schema(name: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((SCHEMAS / f"{name.replace('/', '-')}.schema.json").read_text("utf-8"))
    return read


@cache
def _validator(name: str) -> Validator:
    from jsonschema import Draft202012Validator
    from referencing import Registry, Resource

    found = [schema(each) for each in names()]
    registry = Registry().with_resources([(each["$id"], Resource.from_contents(each)) for each in found])
    return Draft202012Validator(schema(name), registry=registry)


def problems(document: dict[str, Any]) -> list[str]:
    """What the schema that ``document`` names has against it."""
    return [
        f"{error.json_path}: {error.message[:500]}" for error in _validator(document["schema"]).iter_errors(document)
    ]


def check(document: dict[str, Any]) -> dict[str, Any]:
    """``document``, which must be as its schema says."""
    if INSTALLED:
        assert problems(document) == []
    return document
