"""docs/reference/qmp.md names every command, argument and event, and only those."""

from __future__ import annotations

import re
from pathlib import Path

from emu.migration.parameters import Parameters
from emu.migration.progress import Progress, Status
from emu.monitor.commands import COMMANDS
from emu.monitor.commands.migration import PARAMETERS
from emu.monitor.events import EVENTS, MIGRATION_STATUS

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "qmp.md").read_text()


def first_cells(heading: str) -> set[str]:
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return set(re.findall(r"`([^`]+)`", " ".join(rows)))


def test_every_command_is_there() -> None:
    assert first_cells("Commands") == set(COMMANDS)


def test_every_event_is_there() -> None:
    assert first_cells("Events") == set(EVENTS)


def test_every_argument_is_there() -> None:
    numbers = {member.name for member in PARAMETERS.members}
    # Words of QEMU's that mean nothing here are accepted and not explained.
    silent = {"blk", "inc", "detach", "resume", "bus"}
    for name, command in COMMANDS.items():
        for member in command.arguments.members:
            assert member.name in silent | numbers or f"`{member.name}`" in PAGE, f"{name}: {member.name}"


def test_the_schema_knows_what_migration_says() -> None:
    assert {member.name for member in PARAMETERS.members} == set(Parameters().listing())
    assert {str(status) for status in Status} <= set(MIGRATION_STATUS.values)
    progress = Progress()
    progress.enter(Status.SETUP)
    progress.downtime_ms, progress.throttle, progress.error = 3, 20, "broken"
    progress.reasons, progress.persistence = ["different size"], [{"block": "m1", "bytes": 1, "means": "msync"}]
    progress.enter(Status.FAILED)
    COMMANDS["query-migrate"].returns.check(progress.query(), "answer")
