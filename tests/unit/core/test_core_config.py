"""Machine descriptions survive JSON, and strange JSON is refused in words."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.config import BackendConfig, MachineConfig, NvdimmConfig, OnOffAuto, Policy, from_json, to_json
from emu.errors import UsageError

backends = st.builds(
    BackendConfig,
    id=st.text(max_size=8),
    size=st.none() | st.integers(0, 1 << 64),
    path=st.none() | st.text(max_size=8),
    sync=st.sampled_from(OnOffAuto),
    merge=st.none() | st.booleans(),
    host_nodes=st.lists(st.integers(0, 9), max_size=3).map(tuple),
    policy=st.sampled_from(Policy),
)
machines = st.builds(
    MachineConfig,
    image=st.none() | st.text(max_size=8),
    ram_size=st.integers(0, 1 << 40),
    nvdimms=st.lists(st.builds(NvdimmConfig, backend=backends, uuid=st.none() | st.text(max_size=4)), max_size=3).map(
        tuple
    ),
)


@given(machines)
def test_round_trip(machine: MachineConfig) -> None:
    assert from_json(MachineConfig, to_json(machine)) == machine


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ram_size": "1"}, "ram_size is not of type int"),
        ({"colour": 1}, "unknown keys: colour"),
        ({"clock": "slow"}, "clock is not one of virtual, real"),
        ({"nvdimms": [{}]}, "backend"),
        ({"exit_ports": [[1]]}, "right length"),
        ({"nvdimms": 3}, "not a list"),
    ],
)
def test_strange_descriptions(change: dict[str, object], message: str) -> None:
    raw = json.loads(to_json(MachineConfig()))
    with pytest.raises(UsageError, match=message):
        from_json(MachineConfig, json.dumps(raw | change))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_any_json_is_a_machine_or_a_usage_error(raw: object) -> None:
    try:
        assert isinstance(from_json(MachineConfig, json.dumps(raw)), MachineConfig)
    except UsageError as error:
        assert "machine description" in str(error)


def test_rom_follows_readonly_unless_said() -> None:
    assert BackendConfig(id="a", readonly=True).is_rom
    assert not BackendConfig(id="a", readonly=True, rom=OnOffAuto.OFF).is_rom
    assert not BackendConfig(id="a").is_rom
