"""Types check what QEMU's check, in its words, and describe themselves completely."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.monitor.commands import COMMANDS, introspection
from emu.monitor.errors import QmpError
from emu.monitor.events import EVENTS
from emu.monitor.schema import (
    ANY,
    BOOL,
    INT,
    NUMBER,
    STR,
    STR_OR_NULL,
    UINT16,
    UINT64,
    Array,
    Enum,
    Struct,
    Type,
    optional,
    required,
)

INNER = Struct("Inner", (required("flag", BOOL),))
SHAPE = Struct(
    "Shape",
    (required("kind", Enum("Kind", ("a", "b"))), optional("list", Array(INNER)), optional("n", UINT16)),
    tag="kind",
    variants=(("a", Struct("A", (required("only-a", STR),))),),
)


@pytest.mark.parametrize(
    "value",
    [
        {"kind": "b"},
        {"kind": "a", "only-a": "x"},
        {"kind": "b", "list": [{"flag": True}], "n": 65535},
    ],
)
def test_accepts(value: object) -> None:
    SHAPE.check(value)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({}, "Parameter 'kind' is missing"),
        ({"kind": "c"}, "Parameter 'kind' does not accept value 'c'"),
        ({"kind": 1}, "Invalid parameter type for 'kind', expected: string"),
        ({"kind": "a"}, "Parameter 'only-a' is missing"),
        ({"kind": "b", "only-a": "x"}, "Parameter 'only-a' is unexpected"),
        ({"kind": "b", "list": {}}, "Invalid parameter type for 'list', expected: array"),
        ({"kind": "b", "list": [{"flag": "on"}]}, "Invalid parameter type for 'list[0].flag', expected: boolean"),
        ({"kind": "b", "list": [{}]}, "Parameter 'list[0].flag' is missing"),
        ({"kind": "b", "list": [3]}, "Invalid parameter type for 'list[0]', expected: object"),
        ({"kind": "b", "list": [{"flag": True}] * 5000}, "Parameter 'list' has more than 4096 elements"),
        ({"kind": "b", "n": 65536}, "Parameter 'n' expects uint16_t"),
        ({"kind": "b", "n": True}, "Parameter 'n' expects uint64"),
        ({"kind": "b", "n": 1.0}, "Parameter 'n' expects uint64"),
    ],
)
def test_refuses(value: object, says: str) -> None:
    with pytest.raises(QmpError) as refused:
        SHAPE.check(value)
    assert refused.value.description == says


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (INT, [0, -(1 << 63)], [1 << 63, "1", None, 0.5]),
        (UINT64, [(1 << 64) - 1], [-1, 1 << 64]),
        (NUMBER, [1, 0.5], ["1", True, float("inf")]),
        (STR_OR_NULL, ["x", None], [1, []]),
        (ANY, [None, 1, {}, []], []),
    ],
)
def test_builtin_types(kind: Type, good: list[object], bad: list[object]) -> None:
    for value in good:
        kind.check(value, "v")
    for value in bad:
        with pytest.raises(QmpError):
            kind.check(value, "v")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["kind", "list", "n", "flag"]), inner),
)


@given(JSON)
def test_any_value_is_accepted_or_refused(value: object) -> None:
    for kind in (SHAPE, ANY, INT, STR, Array(SHAPE)):
        try:
            kind.check(value, "v")
        except QmpError as refused:
            assert refused.description


def test_introspection_is_closed_and_unambiguous() -> None:
    entries = introspection()
    named = {entry["name"]: entry for entry in entries}
    assert len(named) == len(entries)
    types = {name: entry for name, entry in named.items() if entry["meta-type"] not in ("command", "event")}
    for entry in entries:
        match entry["meta-type"]:
            case "command":
                assert types[entry["arg-type"]]["meta-type"] == "object"
                assert entry["ret-type"] in types
            case "event":
                assert types[entry["arg-type"]]["meta-type"] == "object"
            case "array":
                assert entry["element-type"] in types
            case "alternate":
                assert all(member["type"] in types for member in entry["members"])
            case "object":
                assert all(member["type"] in types for member in entry["members"])
                assert all(variant["type"] in types for variant in entry.get("variants", []))
                if "tag" in entry:
                    assert entry["tag"] in [member["name"] for member in entry["members"]]
            case "enum":
                assert entry["values"] == [member["name"] for member in entry["members"]]
            case kind:
                assert kind == "builtin"
                assert entry["json-type"]


def test_types_of_one_name_are_one_type() -> None:
    """Two different types under one name would hide each other in the introspection."""
    seen: dict[str, object] = {}
    waiting = [kind for command in COMMANDS.values() for kind in (command.arguments, command.returns)]
    waiting += EVENTS.values()
    while waiting:
        kind = waiting.pop()
        described = kind.describe()
        assert seen.setdefault(kind.name, described) == described
        waiting += kind.parts()


def test_introspection_lists_every_command_and_event() -> None:
    entries = introspection()
    commands = {entry["name"] for entry in entries if entry["meta-type"] == "command"}
    events = {entry["name"] for entry in entries if entry["meta-type"] == "event"}
    assert commands == {*COMMANDS, "qmp_capabilities"}
    assert events == set(EVENTS)
