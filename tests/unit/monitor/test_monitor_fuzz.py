"""Every command with any arguments: it is answered with a value of its type, or refused, and never fails inside."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emu.monitor.commands import COMMANDS
from emu.monitor.errors import QmpError
from tests.unit.monitor.monitor_fakes import Shell

# Words that lead somewhere, so that the search gets behind the first check; file names stay in the test's own folder.
TEXTS = st.sampled_from(
    ["m1", "m2", "nv1", "/objects/m1", "/machine", "nvdimm", "memory-backend-file", "memory-backend-ram", "size",
     "sync", "merge", "dump", "policy", "type", "on", "off", "auto", "bind", "file", "a\0b", "", "\udcff", "x" * 300,
     "info status", "info memdev", "unix:s", "active", "none", "events", "12345678-1234-1234-1234-123456789abc"]
)  # fmt: skip
NUMBERS = st.sampled_from([0, 1, -1, 4096, 1 << 20, (1 << 63) - 1, 1 << 64, 0.5]) | st.integers(-(1 << 65), 1 << 65)
VALUES = st.recursive(
    TEXTS | NUMBERS | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
NAMES = {
    name: sorted(
        {member.name for member in command.arguments.members}
        | {member.name for _, variant in command.arguments.variants for member in variant.members}
        | ({"memdev", "label-size", "unarmed", "uuid", "slot", "addr", "node"} if name == "device_add" else set())
    )
    for name, command in COMMANDS.items()
}


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@given(st.data())
@settings(
    max_examples=200,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    deadline=None,
)
def test_any_arguments(data: st.DataObject) -> None:
    shell = Shell()
    for _ in range(3):
        name = data.draw(st.sampled_from(sorted(COMMANDS)))
        arguments = data.draw(st.dictionaries(st.sampled_from([*NAMES[name], "odd"]), VALUES))
        try:
            answer = shell.run(name, arguments)
        except QmpError as refused:
            assert json.dumps(refused.description)
            continue
        COMMANDS[name].returns.check(answer, name)
        assert json.dumps(answer, allow_nan=False)
    assert all(os.path.isfile(name) for name in os.listdir())  # noqa: PTH113, PTH208 - names only
