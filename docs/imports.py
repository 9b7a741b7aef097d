"""The drawing of the imports in architecture.md, out of the code: which room imports which, and what each holds."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

_PACKAGE = Path(__file__).parents[1] / "emu"
# Rooms inside rooms, drawn as rooms of their own. The CPU's tables are below the engine; the options' words are below
# the API, which takes the same words.
_INNER = {
    "emu.cpu.registers": "cpu.registers",
    "emu.cpu.features": "cpu.features",
    "emu.cpu.engine": "cpu.engine",
    "emu.persistence.model": "persistence.model",
    "emu.persistence.lab": "persistence.lab",
    "emu.persistence.report": "persistence.report",
    "emu.cli.options": "cli.options",
    "emu.cli.keyval": "cli.options",
    "emu.cli.plain": "cli.options",
    "emu.cli.mistakes": "cli.options",
}


def _modules() -> dict[str, Path]:
    found = {}
    for path in _PACKAGE.rglob("*.py"):
        parts = ("emu", *path.relative_to(_PACKAGE).with_suffix("").parts)
        found[".".join(parts).removesuffix(".__init__")] = path
    # Where a link to a folder is not followed by rglob.
    for link in ("devices", "guest"):
        for path in (_PACKAGE / link).rglob("*.py"):
            parts = ("emu", link, *path.relative_to(_PACKAGE / link).with_suffix("").parts)
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


def _room(module: str) -> str:
    """The room of ``module``; "" for the package's own names, which are found when they are used."""
    for inner, name in _INNER.items():
        if module == inner or module.startswith(f"{inner}."):
            return name
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] != "__main__" else ""


def rooms() -> dict[str, set[str]]:
    """Each room with the rooms that it imports, anywhere in its modules and for type checkers too."""
    modules = _modules()
    found: dict[str, set[str]] = {}
    for module, path in modules.items():
        if not (room := _room(module)):
            continue
        imported = found.setdefault(room, set())
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [
                    whole if (whole := f"{node.module}.{alias.name}") in modules else node.module
                    for alias in node.names
                ]
            else:
                continue
            imported |= {_room(name) for name in names if name.split(".")[0] == "emu"} - {room, ""}
    return found


def _holds(room: str) -> str:
    """The first sentence that the room says about itself."""
    place = _PACKAGE.joinpath(*room.split("."))
    text = (place / "__init__.py" if place.is_dir() else place.with_suffix(".py")).read_text("utf-8")
    words = " ".join((ast.get_docstring(ast.parse(text)) or "").split("\n\n")[0].split())
    return words.partition(". ")[0].rstrip(".").replace("|", "\\|")


def drawing() -> str:
    """A Mermaid chart of the arrows that no other way implies, and a table of the rooms, each below what it imports.

    graphlib.CycleError when there is a circle.
    """
    direct = rooms()
    order = list(TopologicalSorter(direct).static_order())
    reach: dict[str, set[str]] = {}
    for room in order:
        reach[room] = set(direct[room]).union(*(reach[other] for other in direct[room]))
    needed = {
        room: sorted(direct[room] - set().union(*(reach[other] for other in direct[room]))) for room in reversed(order)
    }
    level: dict[str, int] = {}
    for room in order:
        level[room] = max((level[other] + 1 for other in direct[room]), default=0)
    by_level = sorted(order, key=lambda room: (-level[room], room))
    chart = [f"    {room} --> {other}" for room in by_level for other in needed[room]]
    table = [f"| `{room}` | {_holds(room)} | {', '.join(sorted(direct[room])) or 'nothing'} |" for room in by_level]
    return "\n".join(
        ["```mermaid", "flowchart TD", *chart, "```", "", "| room | what it holds | imports |", "|---|---|---|", *table]
    )
