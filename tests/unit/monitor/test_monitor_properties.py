"""One row for each property: option, QMP, QOM, checks and the reference page say the same of it."""

from __future__ import annotations

import typing
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from emu.cli import keyval
from emu.cli.options import DRIVER_KEYS, NVDIMM_KEYS, OBJECT_KEYS, backend_keys
from emu.config import (
    BACKEND_PROPERTIES,
    NVDIMM_PROPERTIES,
    BackendConfig,
    BackendKind,
    Kind,
    NvdimmConfig,
    OnOffAuto,
    Policy,
    Property,
    backend_properties,
)
from emu.errors import UsageError
from emu.memory.properties import check_value
from emu.monitor.commands import introspection
from emu.monitor.errors import QmpError
from emu.units import MIB, U64_MAX
from tests.unit.monitor.monitor_fakes import Shell

OPTIONS = Path(__file__).parents[3] / "docs" / "reference" / "options.md"
# Where a value is a number, and where it is a list of them.
NUMBERS = [row for row in BACKEND_PROPERTIES if row.kind in (Kind.NUMBER, Kind.SIZE, Kind.HOST_NODES)]
PYTHON = {
    Kind.IDENTIFIER: str, Kind.PATH: str, Kind.UUID: str, Kind.SIZE: int, Kind.ADDRESS: int, Kind.NUMBER: int,
    Kind.SLOT: int, Kind.NODE: int, Kind.HOST_NODES: tuple, Kind.FLAG: bool, Kind.FLAG_OR_AUTO: OnOffAuto,
    Kind.ON_OFF_AUTO: OnOffAuto, Kind.POLICY: Policy,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "rows", "other"),
    [(BackendConfig, BACKEND_PROPERTIES, ["id", "kind", "keep_blank"]), (NvdimmConfig, NVDIMM_PROPERTIES, ["backend"])],
)
def test_every_field_has_a_row_of_its_type(config: Any, rows: tuple[Property, ...], other: list[str]) -> None:
    assert [*other, *(row.field for row in rows)] == [item.name for item in fields(config)]
    hints = typing.get_type_hints(config)
    for row in rows:
        assert row.summary
        kinds = {typing.get_origin(part) or part for part in typing.get_args(hints[row.field]) or (hints[row.field],)}
        expected = {tuple} if row.kind is Kind.HOST_NODES else {PYTHON[row.kind]}
        assert (typing.get_origin(hints[row.field]) is tuple) is (row.kind is Kind.HOST_NODES)
        assert row.kind is Kind.HOST_NODES or kinds - {type(None)} == expected


@pytest.mark.parametrize("kind", BackendKind)
def test_every_door_has_the_same_backend_properties(kind: BackendKind) -> None:
    rows = backend_properties(kind)
    names = {row.name for row in rows}
    assert {*backend_keys(kind)} == names | {"id"}
    schema = {entry["name"]: entry for entry in introspection()}
    (struct,) = (item["type"] for item in schema["object-add-arg"]["variants"] if item["case"] == kind)
    members = {member["name"]: member for member in schema[struct]["members"]}
    assert {*members} == names
    assert {name for name, member in members.items() if "default" not in member} == {
        row.name for row in rows if row.required
    }
    shell = Shell()
    listed = {item["name"] for item in shell.run("qom-list-properties", typename=str(kind))}
    assert listed == {"type", *(row.name for row in rows if row.shown)}


def test_every_door_has_the_same_nvdimm_properties() -> None:
    names = {row.name for row in NVDIMM_PROPERTIES}
    assert {*DRIVER_KEYS["nvdimm"]} == names | {"memdev"}
    assert {*NVDIMM_KEYS} == names | {"file"} | {row.name for row in BACKEND_PROPERTIES}
    listed = {item["name"] for item in Shell().run("qom-list-properties", typename="nvdimm")}
    assert listed == {
        *(names - {"id"}), "type", "realized", "hotplugged", "hotpluggable", "memdev", "size",
    }  # fmt: skip
    for name in names:  # a value that fits none of them, so that the refusal says that the name is known
        refusal = Shell().refusal("device_add", {"driver": "nvdimm", "memdev": "m1", name: []})[1]
        assert "not found" not in refusal


def by_option(row: Property, value: int) -> bool:
    try:
        keyval.parse(f"{row.name}={value}", OBJECT_KEYS, option="-object")
    except UsageError:
        return False
    return True


def by_qmp(row: Property, value: int) -> str:
    """What QMP says of it; "" when it takes it."""
    given: dict[str, object] = {"qom-type": "memory-backend-file", "id": "new", "size": MIB, "mem-path": "f"}
    given[row.name] = [value] if row.kind is Kind.HOST_NODES else value
    try:
        Shell().run("object-add", given)
    except QmpError as error:
        return error.description
    return ""


@pytest.mark.parametrize("row", NUMBERS, ids=lambda row: row.name)
def test_the_bounds_are_the_same_at_every_door(row: Property) -> None:
    for value, inside in ((row.low - 1, False), (row.low, True), (row.high, True), (row.high + 1, False)):
        # The option takes any size; that 0 is none is found when the backend is opened, in the order of QEMU's checks.
        if row.kind is not Kind.SIZE:
            assert by_option(row, value) is inside, value
        if row.settable:
            given = [value] if row.kind is Kind.HOST_NODES else value
            try:
                check_value(BackendKind.FILE, row.name, given)
                assert inside, value
            except UsageError:
                assert not inside, value
        # The fake machine has less than 2**40 bytes: it refuses the largest size, and not for its bounds.
        said = by_qmp(row, value)
        assert (said == "" or "no space" in said) is inside, (value, said)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        # QEMU 7.2's words; tests/oracle/test_oracle_qmp.py lets it repeat them.
        ({"host-nodes": [200], "policy": "bind"}, "Invalid host-nodes value: 200"),
        ({"host-nodes": [0, 128], "policy": "bind"}, "Invalid host-nodes value: 128"),
        ({"prealloc-threads": 0}, "property 'prealloc-threads' of memory-backend-ram doesn't take value '0'"),
    ],
)
def test_numbers_out_of_bounds_in_qemus_words(arguments: dict[str, Any], says: str) -> None:
    given: dict[str, object] = {"qom-type": "memory-backend-ram", "id": "new", "size": MIB}
    assert Shell().refusal("object-add", given | arguments) == ("GenericError", says)
    name, value = next(iter(arguments.items()))
    with pytest.raises(UsageError) as caught:
        check_value(BackendKind.RAM, name, value)
    assert caught.value.what == says


@pytest.mark.parametrize("row", [*BACKEND_PROPERTIES, *NVDIMM_PROPERTIES], ids=lambda row: row.name)
def test_the_reference_page_says_the_default_that_there_is(row: Property) -> None:
    page = OPTIONS.read_text()
    section = page.split("## `-object`")[0] if row in NVDIMM_PROPERTIES else page.split("## `-object`")[1]
    line = next(line for line in section.splitlines() if line.startswith(f"| `{row.name}`"))
    config: Any = BackendConfig(id="a") if row in BACKEND_PROPERTIES else NvdimmConfig(backend=BackendConfig(id="a"))
    value = getattr(config, row.field)
    shown = {True: "on", False: "off", None: "", (): ""}.get(value, str(value)) if type(value) is not int else value
    default = line.replace("\\|", "/").split(" | ")[2].strip()
    assert default == (f"`{shown}`" if shown != "" else "")


def test_no_bound_is_wider_than_its_qmp_type() -> None:
    """What QMP's type lets through and the row does not is refused by the row; the other way round nobody could."""
    widest = {Kind.NUMBER: (1 << 32) - 1, Kind.HOST_NODES: (1 << 16) - 1, Kind.SIZE: U64_MAX}
    for row in NUMBERS:
        assert 0 <= row.low <= row.high <= widest[row.kind]
