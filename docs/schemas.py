"""The pages of the JSON schemas, key by key, in words: what ``docs/generate.py`` writes as reference/documents.md."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

SCHEMAS = Path(__file__).parent / "reference" / "schemas"

_INTRO = """\
# JSON documents, key by key

This page is written by `python docs/generate.py` from [the schemas](json.md). `a.b` is the key `b` of the object `a`,
`a[]` each entry of the list `a`, `a.*` each value of an object whose keys are data. Sizes, offsets and addresses are
integers of bytes, and names that end in `_s` are seconds. A key in *italics* may be absent; one that stands there
twice belongs to things of different kinds.
"""


class Row(NamedTuple):
    """A key: where it is, what it holds, what that means, and whether it is always there."""

    path: str
    kind: str
    meaning: str
    always: bool


def documents_page() -> str:
    """docs/reference/documents.md."""
    parts, reader = [_INTRO], Reader()
    for path in sorted(SCHEMAS.glob("*.schema.json")):
        schema = loaded(path.name)
        parts.append(f"## {schema['title']}\n\n{schema['description']}\n")
        parts.append("| key | holds | meaning |\n|---|---|---|")
        for row in reader.document(schema):
            key = f"`{row.path}`" if row.always else f"*`{row.path}`*"
            parts.append(f"| {key} | {_cell(row.kind)} | {_cell(row.meaning)} |")
        parts.append("")
    return "\n".join(parts)


@cache
def loaded(file: str) -> Mapping[str, Any]:
    """The schema of this name, its references with the file that they mean."""

    def with_file(found: dict[str, Any]) -> dict[str, Any]:
        if str(found.get("$ref", "")).startswith("#"):
            found["$ref"] = f"{file}{found['$ref']}"
        return found

    read: Mapping[str, Any] = json.loads((SCHEMAS / file).read_text("utf-8"), object_hook=with_file)
    return read


class Reader:
    """Reads the schemas of one page: what several keys hold is shown where it is first, and named elsewhere."""

    def __init__(self) -> None:
        self._shown: dict[str, str] = {}
        self._title = ""

    def document(self, schema: Mapping[str, Any]) -> Iterator[Row]:
        """Every key of the documents of ``schema``, in its order."""
        self._title = schema["title"]
        return self._rows(schema, "")

    def _rows(self, schema: Mapping[str, Any], path: str) -> Iterator[Row]:
        """Of what is below the object, list or choice ``schema`` at ``path``."""
        schema = self._resolved(schema)
        for name, inner in schema.get("properties", {}).items():
            yield from self._key(inner, f"{path}.{name}".lstrip("."), always=name in schema.get("required", ()))
        if isinstance(schema.get("additionalProperties"), dict):
            yield from self._key(schema["additionalProperties"], f"{path}.*", always=True)
        if isinstance(schema.get("items"), dict):
            yield from self._below(schema["items"], f"{path}[]")
        for choice in schema.get("oneOf", ()):
            yield from self._below(choice, path)

    def _key(self, schema: Mapping[str, Any], path: str, *, always: bool) -> Iterator[Row]:
        meaning = schema.get("description") or self._resolved(schema).get("description", "")
        yield Row(path, self.kind(schema), meaning, always)
        yield from self._below(schema, path)

    def _below(self, schema: Mapping[str, Any], path: str) -> Iterator[Row]:
        reference = schema.get("$ref")
        first = self._shown.get(reference) if reference else None
        if first is not None:
            yield Row(f"{path}...", "", f"as {first}", always=True)
            return
        if reference and not self._resolved(schema).keys().isdisjoint({"properties", "items", "oneOf"}):
            self._shown[reference] = f"`{path}` of {self._title}"
        yield from self._rows(schema, path)

    def _resolved(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        while "$ref" in schema:
            file, _, pointer = schema["$ref"].partition("#")
            schema = loaded(file)
            for step in filter(None, pointer.split("/")):
                schema = schema[step]
        return schema

    def kind(self, schema: Mapping[str, Any]) -> str:
        """What a value may be, in words."""
        schema = self._resolved(schema)
        if "const" in schema:
            return f"`{json.dumps(schema['const'])}`"
        if "enum" in schema:
            return ", ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
        if "oneOf" in schema:
            return " or ".join(dict.fromkeys(self.kind(choice) for choice in schema["oneOf"]))
        kinds = schema.get("type", "any value")
        words = [self._word(kind, schema) for kind in (kinds if isinstance(kinds, list) else [kinds])]
        return " or ".join(words)

    def _word(self, kind: str, schema: Mapping[str, Any]) -> str:
        if kind == "array":
            return f"list of {self.kind(schema.get('items', {}))}"
        return f"{kind} from {schema['minimum']}" if "minimum" in schema and kind == "integer" else kind


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
