"""Every command on a machine of plain values: what it answers, what it does, what it refuses and with which words."""

import os
from pathlib import Path
from typing import Any

import pytest

from emu.monitor import qom
from emu.monitor.commands import COMMANDS
from emu.monitor.errors import QmpError
from emu.monitor.events import EVENTS
from emu.units import GIB, MIB
from tests.unit.monitor.monitor_fakes import FILE, Shell


@pytest.fixture
def shell() -> Shell:
    return Shell()


def names(shell: Shell) -> list[str]:
    events = shell.events.take()
    for event in events:
        EVENTS[event.name].check(event.data)
    return [event.name for event in events]


# -- all of them ------------------------------------------------------------------------------------------------------

QUERIES = {
    "qom-list": {"path": "/machine"},
    "qom-get": {"path": "/objects/m1", "property": "size"},
    "qom-list-properties": {"typename": "nvdimm"},
    "human-monitor-command": {"command-line": "info status"},
}


@pytest.mark.parametrize("name", [name for name in COMMANDS if name.startswith("query-")] + list(QUERIES))
def test_answers_are_of_the_type_that_the_schema_says(shell: Shell, name: str) -> None:
    shell.migration.answer = {"status": "failed", "error-desc": "x"}
    COMMANDS[name].returns.check(shell.run(name, QUERIES.get(name, {})), "answer")


@pytest.mark.parametrize("name", list(COMMANDS))
def test_an_unknown_argument_is_an_error_before_anything_happens(shell: Shell, name: str) -> None:
    before = (shell.machine.state, list(shell.machine.views), list(shell.migration.calls))
    kind, says = shell.refusal(name, {"surprise": 1, "driver": "nvdimm", "memdev": "m1"})
    assert kind == "GenericError"
    assert "surprise" in says or "is missing" in says or "unexpected" in says
    assert (shell.machine.state, shell.machine.views, shell.migration.calls) == before
    assert names(shell) == []


def test_unknown_command(shell: Shell) -> None:
    assert shell.refusal("nosuch") == ("CommandNotFound", "The command nosuch has not been found")


def test_query_commands_names_all(shell: Shell) -> None:
    assert {item["name"] for item in shell.run("query-commands")} == {*COMMANDS, "qmp_capabilities"}


# -- status -----------------------------------------------------------------------------------------------------------


def test_stop_and_cont(shell: Shell) -> None:
    assert shell.run("query-status") == {"status": "running", "singlestep": False, "running": True}
    assert shell.run("stop") == {}
    assert shell.run("query-status")["status"] == "paused"
    assert shell.run("stop") == {}
    assert shell.run("cont") == {}
    assert shell.run("cont") == {}
    assert names(shell) == ["STOP", "RESUME"]


@pytest.mark.parametrize("state", ["shutdown", "guest-panicked"])
def test_a_dead_guest_cannot_go_on(shell: Shell, state: str) -> None:
    shell.machine.state = state
    assert shell.refusal("cont")[1] == "Resetting the Virtual Machine is required"


@pytest.mark.parametrize("command", ["cont", "stop", "migrate"])
def test_a_waiting_destination_is_left_alone(shell: Shell, command: str) -> None:
    shell.machine.state = "inmigrate"
    arguments = {"uri": "tcp::1"} if command == "migrate" else {}
    assert shell.refusal(command, arguments)[1] == "Guest is waiting for an incoming migration"
    assert shell.refusal("system_reset")[1].endswith("'inmigrate'")


def test_a_machine_that_may_live_elsewhere_goes_on_only_by_force(shell: Shell) -> None:
    shell.machine.state = "postmigrate"
    shell.migration.lost = True
    kind, says = shell.refusal("cont")
    assert (kind, says) == ("GenericError", "the machine may run at the destination; look there")
    assert shell.machine.state == "postmigrate"
    shell.run("cont", x_emu_force=True)
    assert shell.machine.state == "running"


def test_reset_power_button_and_quit(shell: Shell) -> None:
    for command in ("system_reset", "system_powerdown", "quit"):
        assert shell.run(command) == {}
    assert names(shell) == ["RESET", "POWERDOWN", "SHUTDOWN"]
    assert shell.machine.quit_seen.is_set()


def test_cpus(shell: Shell) -> None:
    (cpu,) = shell.run("query-cpus-fast")
    assert (cpu["thread-id"], cpu["cpu-index"]) == (4711, 0)
    assert shell.run("qom-get", path=cpu["qom-path"], property="type").endswith("cpu")


# -- memory -----------------------------------------------------------------------------------------------------------


def test_memory_devices(shell: Shell) -> None:
    (device,) = shell.run("query-memory-devices")
    assert device == {
        "type": "nvdimm",
        "data": {"id": "nv1", "addr": 4 * GIB, "size": 64 * MIB - 131072, "slot": 0, "node": 0,
                 "memdev": "/objects/m1", "hotplugged": False, "hotpluggable": True},
    }  # fmt: skip


def test_memdev(shell: Shell) -> None:
    ram, file = shell.run("query-memdev")
    assert (ram["id"], ram["size"], file["id"], file["size"]) == ("pc.ram", MIB, "m1", 64 * MIB)
    assert file["share"] is True
    assert file["policy"] == "default"


def test_persistence_is_the_same_as_in_the_document_of_run(shell: Shell) -> None:
    assert shell.run("x-emu-query-persistence") == shell.machine.persistence()


@pytest.mark.parametrize(
    ("command", "address", "size"), [("pmemsave", 3, 1000), ("memsave", 0x1003, 1000), ("pmemsave", 0, 0)]
)
def test_memory_goes_into_a_file(shell: Shell, tmp_path: Path, command: str, address: int, size: int) -> None:
    path = tmp_path / "memory.bin"
    path.write_bytes(b"old" * 1000)
    assert shell.run(command, val=address, size=size, filename=str(path)) == {}
    assert path.read_bytes() == bytes(shell.machine.memory[3 : 3 + size])


@pytest.mark.parametrize(("address", "size"), [(MIB - 1, 2), (-1, 1), (0, -1), (0, (1 << 63) - 1), (1 << 62, 16)])
def test_memory_that_does_not_exist_leaves_the_file_alone(
    shell: Shell, tmp_path: Path, address: int, size: int
) -> None:
    path = tmp_path / "memory.bin"
    path.write_bytes(b"old")
    says = shell.refusal("pmemsave", val=address, size=size, filename=str(path))[1]
    assert says.startswith(f"Invalid addr {address & (1 << 64) - 1:#018x}/size {size} specified")
    assert path.read_bytes() == b"old"


def test_special_files_and_our_own_memory_are_never_written(shell: Shell, tmp_path: Path) -> None:
    fifo, own = tmp_path / "fifo", tmp_path / "pmem.img"
    os.mkfifo(fifo)
    own.write_bytes(b"precious")
    (tmp_path / "link").symlink_to(own)
    shell.machine.views[1] = type(shell.machine.views[1])(type(FILE)(id="m1", path=str(own), size=8), 8, True)
    for name, why in [
        ("fifo", "not a regular file"),
        ("/dev/null", "not a regular file"),
        ("pmem.img", "is the same file as memory"),
        ("link", "is the same file as memory"),
        ("no/such/dir", "No such file or directory"),
        (".", "Is a directory"),
    ]:
        _, says = shell.refusal("pmemsave", val=0, size=4, filename=str(tmp_path / name))
        assert says.startswith("Could not open '")
        assert why in says
    assert own.read_bytes() == b"precious"
    for name in ("", "a\0b"):
        assert shell.refusal("pmemsave", val=0, size=4, filename=name)[1] == "Parameter 'filename' expects a path"
    assert shell.refusal("memsave", val=0, size=4, filename="x", cpu_index=1)[1] == (
        "Parameter 'cpu-index' expects a CPU number"
    )


def test_a_full_disk_is_told(shell: Shell) -> None:
    if not os.path.exists("/dev/full"):  # noqa: PTH110 - one device
        pytest.skip("no /dev/full here")
    assert "not a regular file" in shell.refusal("pmemsave", val=0, size=4, filename="/dev/full")[1]


# -- the tree of objects ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "name", "value"),
    [
        ("/objects/m1", "size", 64 * MIB),
        ("/objects/m1", "sync", "auto"),
        ("/objects/m1", "type", "memory-backend-file"),
        ("/objects/pc.ram", "share", False),
        ("/machine/peripheral/nv1", "label-size", 128 * 1024),
        ("/machine/peripheral/nv1", "uuid", "00000000-0000-0000-0000-000000000000"),
        ("/machine/peripheral/nv1", "unarmed", False),
        ("/machine/peripheral/nv1", "memdev", "/objects/m1"),
        ("nv1", "addr", 4 * GIB),
        ("m1", "share", True),
        ("peripheral/nv1", "slot", 0),
        ("/machine", "ram-size", MIB),
        ("/machine/unattached/com1", "divisor", 1),
        ("com1", "fifo", "0102"),
        ("com1", "levels", [1, 2]),
        ("/objects", "m1", ""),
    ],
)
def test_qom_get(shell: Shell, path: str, name: str, value: object) -> None:
    assert shell.run("qom-get", path=path, property=name) == value


def test_qom_list(shell: Shell) -> None:
    def listed(path: str) -> dict[str, str]:
        return {item["name"]: item["type"] for item in shell.run("qom-list", path=path)}

    assert listed("/") == {"type": "string", "objects": "child<container>", "machine": "child<pc-q35-machine>"}
    assert listed("/objects")["m1"] == "child<memory-backend-file>"
    assert listed("/machine/peripheral") == {"type": "string", "nv1": "child<nvdimm>"}
    assert listed("nv1")["memdev"] == "link<memory-backend>"
    assert listed("/objects/m1")["policy"] == "HostMemPolicy"
    for typename, path in (("nvdimm", "nv1"), ("memory-backend-file", "m1"), ("memory-backend-ram", "pc.ram")):
        assert shell.run("qom-list-properties", typename=typename) == shell.run("qom-list", path=path)


@pytest.mark.parametrize(
    "path", ["/nosuch", "nosuch", "", "//objects/x", "/objects/m1/size", "objects/../m1", "/" * 9999 + "x"]
)
def test_paths_that_lead_nowhere(shell: Shell, path: str) -> None:
    kind, says = shell.refusal("qom-list", path=path)
    assert kind == "DeviceNotFound"
    assert says == f"Device '{path[:64]}' not found"


def test_an_ambiguous_path(shell: Shell) -> None:
    shell.run("object-add", qom_type="memory-backend-ram", id="nv1", size=MIB)
    assert shell.refusal("qom-list", path="nv1")[1] == "Path 'nv1' does not uniquely identify an object"


@pytest.mark.parametrize(
    ("path", "name", "value", "says"),
    [
        ("m1", "sync", "on", "cannot change property 'sync' of memory-backend-file 'm1'"),
        ("m1", "pmem", True, "cannot change property 'pmem' of memory-backend-file 'm1'"),
        ("m1", "size", 1, "cannot change property 'size' of memory-backend-file 'm1'"),
        ("m1", "nosuch", 1, "Property 'memory-backend-file.nosuch' not found"),
        ("m1", "type", "x", "Property 'memory-backend-file.type' is not writable"),
        ("m1", "id", "x", "Property 'memory-backend-file.id' not found"),
        ("nv1", "label-size", 4096, "cannot change property value"),
        ("nv1", "unarmed", True,
         "Attempt to set property 'unarmed' on device 'nv1' (type 'nvdimm') after it was realized"),
        ("nv1", "memdev", "m1",
         "Attempt to set link property 'memdev' on device 'nv1' (type 'nvdimm') after it was realized"),
        ("nv1", "size", 5, "Property 'nvdimm.size' is not writable"),
        ("nv1", "hotplugged", True, "Property 'nvdimm.hotplugged' is not writable"),
        ("/machine", "ram-size", 5, "Property 'pc-q35-machine.ram-size' is not writable"),
        ("/objects", "m1", 5, "Property 'container.m1' is not writable"),
        ("com1", "divisor", 5, "Property 'com1.divisor' is not writable"),
    ],
)  # fmt: skip
def test_frozen_properties_refuse_in_qemus_words(shell: Shell, path: str, name: str, value: object, says: str) -> None:
    assert shell.refusal("qom-set", path=path, property=name, value=value) == ("GenericError", says)


def test_an_open_property_changes(shell: Shell) -> None:
    shell.run("qom-set", path="/objects/m1", property="merge", value=True)
    assert shell.run("qom-get", path="/objects/m1", property="merge") is True


def test_an_nvdimm_without_an_id_is_listed_among_the_anonymous(shell: Shell) -> None:
    shell.run("object-add", qom_type="memory-backend-ram", id="m2", size=MIB)
    shell.run("device_add", driver="nvdimm", memdev="m2")
    assert shell.run("qom-get", path="/machine/peripheral-anon/device[0]", property="memdev") == "/objects/m2"
    says = shell.refusal("qom-set", path="/machine/peripheral-anon/device[0]", property="slot", value=1)[1]
    assert says == "Attempt to set property 'slot' on anonymous device (type 'nvdimm') after it was realized"


def test_what_devices_show_becomes_json(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell.machine, "devices", lambda: {"odd": {"map": {1: {2, 3}}, "none": None, "object": object}})
    odd = qom.resolve(qom.build(shell.machine), "odd")
    assert odd.get("map").value == {"1": [2, 3]}
    assert odd.get("none").value is None
    assert "object" in odd.get("object").value


# -- hot plug ---------------------------------------------------------------------------------------------------------


def test_a_backend_and_an_nvdimm_are_added_while_running(shell: Shell) -> None:
    assert shell.run(
        "object-add",
        {"qom-type": "memory-backend-file", "id": "m2", "size": MIB, "mem-path": "f", "share": True, "sync": "off",
         "host-nodes": [0], "policy": "bind", "discard-shared": True},
    ) == {}  # fmt: skip
    config = shell.machine.views[-1].config
    assert (config.path, config.share, config.sync, config.host_nodes, config.policy) == (
        "f",
        True,
        "off",
        (0,),
        "bind",
    )
    assert config.discard_shared
    uuid = "12345678-1234-1234-1234-123456789abc"
    shell.run("device_add", {"driver": "nvdimm", "id": "nv2", "memdev": "/objects/m2", "label-size": 131072,
                             "uuid": uuid, "unarmed": True, "slot": -1, "node": 0, "addr": 0})  # fmt: skip
    added = shell.run("query-memory-devices")[1]["data"]
    assert (added["id"], added["hotplugged"], added["memdev"]) == ("nv2", True, "/objects/m2")
    assert shell.run("qom-get", path="nv2", property="uuid") == uuid
    assert shell.run("qom-get", path="nv2", property="unarmed") is True
    assert shell.refusal("object-del", id="m2")[1] == "object 'm2' is in use, can not be deleted"


def test_an_unused_backend_goes_away(shell: Shell) -> None:
    shell.run("object-add", qom_type="memory-backend-ram", id="m2", size=MIB)
    shell.run("object-del", id="m2")
    assert shell.refusal("object-del", id="m2")[1] == "object 'm2' not found"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        # These sentences were observed from QEMU 7.2.
        ({"qom-type": "memory-backend-ram"}, "Parameter 'id' is missing"),
        ({"qom-type": "memory-backend-ram", "id": "m2"}, "Parameter 'size' is missing"),
        ({"qom-type": "memory-backend-ram", "id": "m1", "size": MIB},
         "attempt to add duplicate property 'm1' to object (type 'container')"),
        ({"qom-type": "nosuch", "id": "m3"}, "Parameter 'qom-type' does not accept value 'nosuch'"),
        ({"qom-type": "memory-backend-ram", "id": "m3", "size": MIB, "foo": 1}, "Parameter 'foo' is unexpected"),
        ({"qom-type": "memory-backend-ram", "id": "m3", "size": MIB, "sync": "on"}, "Parameter 'sync' is unexpected"),
        ({"qom-type": "memory-backend-file", "id": "m3", "size": MIB}, "Parameter 'mem-path' is missing"),
        ({"qom-type": "memory-backend-ram", "id": "1!", "size": MIB}, "Parameter 'id' expects an identifier"),
        ({"qom-type": "memory-backend-ram", "id": "m3", "size": "64M"}, "Parameter 'size' expects uint64"),
        # And these are in its manner.
        ({"qom-type": "memory-backend-ram", "id": "m3", "size": 0},
         "property 'size' of memory-backend-ram doesn't take value '0'"),
        ({"qom-type": "memory-backend-file", "id": "m3", "size": MIB, "mem-path": "a\0b"},
         "Parameter 'mem-path' expects a path"),
        ({"qom-type": "memory-backend-ram", "id": "m3", "size": 1 << 50}, "no space; take less"),
    ],
)  # fmt: skip
def test_backends_that_cannot_be(shell: Shell, arguments: dict[str, Any] | None, says: str) -> None:
    assert shell.refusal("object-add", arguments)[1] == says
    assert len(shell.machine.views) == 2


@pytest.mark.parametrize(
    ("arguments", "kind", "says"),
    [
        ({"id": "x"}, "GenericError", "Parameter 'driver' is missing"),
        ({"driver": "nosuch"}, "GenericError", "'nosuch' is not a valid device model name"),
        ({"driver": "nvdimm", "id": "nv3"}, "GenericError", "'memdev' property must be set"),
        ({"driver": "nvdimm", "id": "nv3", "memdev": "zz"}, "DeviceNotFound", "Device 'zz' not found"),
        ({"driver": "nvdimm", "memdev": "m2", "foo": 1}, "GenericError", "Property 'nvdimm.foo' not found"),
        ({"driver": "nvdimm", "id": "nv1", "memdev": "m2"}, "GenericError", "Duplicate device ID 'nv1'"),
        ({"driver": "nvdimm", "id": "nv3", "memdev": "m1"}, "GenericError", "can't use already busy memdev: m1"),
        ({"driver": "nvdimm", "memdev": "pc.ram"}, "GenericError", "can't use already busy memdev: pc.ram"),
        ({"driver": "nvdimm", "id": "a b", "memdev": "m2"}, "GenericError", "Parameter 'id' expects an identifier"),
        ({"driver": "nvdimm", "memdev": "m2", "uuid": "x"}, "GenericError", "Property 'nvdimm.uuid' has invalid value"),
        ({"driver": "nvdimm", "memdev": "m2", "unarmed": "maybe"}, "GenericError",
         "Parameter 'unarmed' does not accept value 'maybe'"),
        ({"driver": "nvdimm", "memdev": "m2", "slot": 9}, "GenericError", "invalid slot number 9"),
        ({"driver": "nvdimm", "memdev": "m2", "bus": "b"}, "GenericError", "Device 'nvdimm' can't go on any bus"),
    ],
)  # fmt: skip
def test_devices_that_cannot_be_added(shell: Shell, arguments: dict[str, Any] | None, kind: str, says: str) -> None:
    shell.run("object-add", qom_type="memory-backend-ram", id="m2", size=MIB)
    assert shell.refusal("device_add", arguments) == (kind, says)
    assert len(shell.machine.dimms) == 1


@pytest.mark.parametrize("command", ["object-add", "device_add"])
@pytest.mark.parametrize(
    ("status", "state"), [("active", "running"), ("completed", "postmigrate"), ("none", "inmigrate")]
)
def test_the_machine_keeps_its_shape_while_it_migrates(shell: Shell, command: str, status: str, state: str) -> None:
    shell.migration.answer, shell.machine.state = {"status": status}, state
    arguments = {"qom-type": "memory-backend-ram", "id": "m2", "size": MIB}
    if command == "device_add":
        arguments = {"driver": "nvdimm", "memdev": "m1"}
    assert shell.refusal(command, arguments)[1] == f"{command} not allowed while migrating"


def test_unplugging_is_refused_as_in_qemu(shell: Shell) -> None:
    assert shell.refusal("device_del", id="nv1")[1] == "nvdimm device hot unplug is not supported yet."
    assert (
        shell.refusal("device_del", id="/machine/peripheral/nv1")[1] == "nvdimm device hot unplug is not supported yet."
    )
    assert shell.refusal("device_del", id="zz") == ("DeviceNotFound", "Device 'zz' not found")
    assert shell.refusal("device_del", id="/machine/unattached/com1")[0] == "GenericError"


# -- migration --------------------------------------------------------------------------------------------------------


def test_migration_is_started_watched_and_cancelled(shell: Shell) -> None:
    assert shell.run("query-migrate") == {}
    shell.run("migrate", uri="unix:/x", detach=True)
    assert shell.run("query-migrate") == {"status": "active"}
    assert shell.refusal("migrate", uri="unix:/y")[1] == "There's a migration process in progress"
    shell.run("migrate_cancel")
    shell.run("migrate_cancel")
    assert shell.migration.calls == [("start", "unix:/x"), "cancel"]


def test_migrations_that_cannot_start(shell: Shell) -> None:
    assert "no such file; start the destination first" in shell.refusal("migrate", uri="unix:/nowhere")[1]
    assert shell.refusal("migrate", uri="unix:/x", blk=True)[1] == "This machine has no disks to migrate"
    assert "no paused migration" in shell.refusal("migrate", uri="unix:/x", resume=True)[1]
    for state in ("postmigrate", "guest-panicked"):
        shell.machine.state = state
        assert shell.refusal("migrate", uri="unix:/x")
    assert shell.migration.calls == []


def test_incoming_only_where_it_was_announced(shell: Shell) -> None:
    assert shell.refusal("migrate-incoming", uri="unix:/x")[1] == "'-incoming' was not specified on the command line"
    shell.machine.state = "inmigrate"
    shell.run("migrate-incoming", uri="unix:/x")
    assert shell.migration.calls == [("incoming", "unix:/x")]


def test_the_pause_before_the_switchover(shell: Shell) -> None:
    assert shell.refusal("migrate-continue", state="pre-switchover")[1] == "Migration not in expected state: none"
    shell.migration.answer = {"status": "pre-switchover"}
    shell.run("migrate-continue", state="pre-switchover")
    assert shell.migration.calls == ["continue"]


def test_capabilities_and_parameters(shell: Shell) -> None:
    shell.run("migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}])
    assert {"capability": "events", "state": True} in shell.run("query-migrate-capabilities")
    assert shell.refusal("migrate-set-capabilities", capabilities=[{"capability": "events", "state": "on"}])[1] == (
        "Invalid parameter type for 'capabilities[0].state', expected: boolean"
    )
    shell.run("migrate-set-parameters", max_bandwidth=5)
    assert shell.run("query-migrate-parameters")["max-bandwidth"] == 5
    shell.migration.answer = {"status": "active"}
    shell.run("migrate-set-parameters", max_bandwidth=6)
    assert shell.refusal("migrate-set-capabilities", capabilities=[])[1] == "There's a migration process in progress"


def test_a_machine_without_migration_says_so() -> None:
    shell = Shell(migration=False)
    assert shell.run("query-migrate") == {}
    assert shell.run("migrate_cancel") == {}
    assert shell.run("stop") == shell.run("cont") == {}
    assert shell.refusal("migrate", uri="unix:/x")[1] == "This machine cannot be migrated"


# -- the human monitor ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "has"),
    [
        ("info status", "VM status: running\r\n"),
        ("info memory-devices", 'Memory device [nvdimm]: "nv1"\r\n  addr: 0x100000000\r\n  slot: 0\r\n'),
        ("info memdev", "memory backend: m1\r\n  size:  67108864\r\n"),
        ("info persistence", "  MAP_SYNC: off (no DAX)\r\n  survives: guest crash, emulator kill\r\n"),
        ("info migrate", "status: active\r\ntotal ram: 5\r\n"),
        ("info version", "emu "),
        ("help", "info memdev\r\n"),
        ("frobnicate now", "unknown command: 'frobnicate now'\r\n"),
        ("", "unknown command: ''\r\n"),
    ],
)
def test_words_for_people(shell: Shell, line: str, has: str) -> None:
    shell.migration.answer = {"status": "active", "ram": {"total": 5}}
    assert has in shell.run("human-monitor-command", command_line=line)


def test_words_for_people_without_migration() -> None:
    shell = Shell(migration=False)
    assert shell.run("human-monitor-command", command_line="info migrate") == ""
    shell.machine.state = "paused"
    assert shell.run("human-monitor-command", command_line="info status") == "VM status: paused\r\n"


def test_refusals_are_one_line() -> None:
    with pytest.raises(QmpError) as refused:
        Shell().run("object-add", qom_type="memory-backend-ram", id="x", size=1 << 50)
    assert "\n" not in refused.value.description
