"""QMP on a running guest: what a client sees of it and does to it, in one process with a real socket."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.fuzzing import times
from tests.integration.qmp_machine import Client, Emu

MIB = 1 << 20
GIB = 1 << 30
# Counts for ever.
COUNT = ("count", "--append", "0 20000", "-serial", "none")
QEMU_WORDS = (
    "-machine", "q35,nvdimm=on", "-m", "16M,slots=3,maxmem=1G",
)  # fmt: skip


def counting(folder: Path, *more: str) -> tuple[str, ...]:
    backend = f"memory-backend-file,id=m1,share=on,mem-path={folder}/pmem.img,size=4M"
    device = "nvdimm,id=nv1,memdev=m1,label-size=128K"
    return (*COUNT, *QEMU_WORDS, "-object", backend, "-device", device, *more)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Emu]:
    with Emu(tmp_path, *counting(tmp_path)) as emu:
        yield emu


@pytest.fixture
def client(running: Emu) -> Client:
    """A client of the machine when its guest runs; a client may be there before."""
    return await_guest(running.client())


def await_guest(client: Client) -> Client:
    while not client.ask("query-status")["running"]:
        pass
    return client


def records(client: Client, folder: Path) -> bytes:
    """The NVDIMM's first 64 KiB, as the guest sees them now."""
    client.ask("pmemsave", val=4 * GIB, size=65536, filename=str(folder / "dump"))
    return (folder / "dump").read_bytes()


def await_records(client: Client, folder: Path) -> None:
    """Wait until the guest has stored something, and so has got far."""
    while not records(client, folder).strip(b"\0"):
        pass


def patch(path: Path, data: bytes) -> None:
    """Put ``data`` at the beginning of the file, which stays the same file."""
    with path.open("r+b") as file:
        file.write(data)


def test_stop_stops_and_cont_goes_on(client: Client, tmp_path: Path) -> None:
    assert client.ask("query-status")["running"] is True
    client.ask("stop")
    assert [event["event"] for event in client.events] == ["STOP"]
    assert client.ask("query-status") == {"status": "paused", "singlestep": False, "running": False}
    before = records(client, tmp_path)
    assert records(client, tmp_path) == before
    client.ask("cont")
    while records(client, tmp_path) == before:
        pass
    assert [event["event"] for event in client.events] == ["STOP", "RESUME"]


def test_quit_ends_the_process_and_removes_the_socket(running: Emu, client: Client) -> None:
    assert client.ask("quit") == {}
    assert [event["event"] for event in client.events] == ["SHUTDOWN"], "the answer came before what it caused"
    assert client.rest() == ["SHUTDOWN"]
    assert running.ended() == (0, "", "")
    assert not running.socket.exists()


def test_shutdown_says_whose_fault_it_was(tmp_path: Path) -> None:
    def shutdown(*words: str, provoke: signal.Signals | None = None) -> tuple[list[dict[str, object]], int]:
        with Emu(tmp_path, *words, "-S") as emu:
            client = emu.client()
            client.ask("cont")
            if provoke:
                await_records(client, tmp_path)
                emu.process.send_signal(provoke)
            data = [client.wait_for("SHUTDOWN")["data"]]
            data += [event["data"] for event in client.events if event["event"] == "GUEST_PANICKED"]
            return data, emu.ended()[0]

    assert shutdown("timer") == ([{"guest": True, "reason": "guest-shutdown"}], 0)
    assert shutdown(*counting(tmp_path), provoke=signal.SIGTERM) == ([{"guest": False, "reason": "host-signal"}], 130)
    crash = tmp_path / "crash.bin"
    crash.write_bytes(bytes.fromhex("0f0b"))  # ud2, and no handler for it
    events, status = shutdown(str(crash))
    assert status == 6
    assert events[0] == {"guest": True, "reason": "guest-panic"}
    assert events[1]["action"] == "poweroff"


def test_who_asked_for_a_reset_is_told_also_when_it_is_the_end(tmp_path: Path) -> None:
    with Emu(tmp_path, *counting(tmp_path), "-no-reboot") as emu:
        client = await_guest(emu.client())
        client.ask("system_reset")
        told = [(event["event"], event["data"]) for event in client.events]
        assert told == [("SHUTDOWN", {"guest": False, "reason": "host-qmp-system-reset"})]
        assert emu.ended() == (0, "", "")


def test_a_paused_start_and_a_fast_client(tmp_path: Path) -> None:
    """cont may come before the machine's thread has begun; the guest must boot all the same."""
    for _ in range(5):
        with Emu(tmp_path, "hello", "--nvdimm", f"file={tmp_path}/f,size=4M", "-S") as emu:
            client = emu.client()
            assert client.ask("query-status")["status"] == "prelaunch"
            client.ask("cont")
            client.wait_for("SHUTDOWN")
            assert "hello, persistent world" in emu.ended()[1]


def test_waiting_for_a_client(tmp_path: Path) -> None:
    with Emu(tmp_path, "timer", options="server=on") as emu:
        client = emu.client()
        client.wait_for("SHUTDOWN")
        assert emu.ended()[0] == 0


def test_reset_boots_again_and_keeps_the_nvdimm(tmp_path: Path) -> None:
    with Emu(tmp_path, "echo", "--nvdimm", f"file={tmp_path}/f,size=4M,id=nv1") as emu:
        client = emu.client()
        patch(tmp_path / "f", b"kept")
        client.ask("system_reset")
        assert client.wait_for("RESET")["data"] == {"guest": False, "reason": "host-qmp-system-reset"}
        assert client.ask("query-status")["running"] is True
        client.ask("pmemsave", val=4 * GIB, size=4, filename=str(tmp_path / "dump"))
        assert (tmp_path / "dump").read_bytes() == b"kept"


def test_the_power_button_reaches_the_acpi_hardware(client: Client) -> None:
    client.ask("stop")
    before = client.ask("qom-list", path="/machine/unattached/power")
    client.ask("system_powerdown")
    client.wait_for("POWERDOWN")
    assert client.ask("qom-get", path="/machine/unattached/power", property="pm1_status") & 1 << 8
    assert client.ask("qom-list", path="/machine/unattached/power") == before


def test_memory_by_virtual_and_physical_address(client: Client, tmp_path: Path) -> None:
    await_records(client, tmp_path)  # before the guest switches paging on, every virtual address is a physical one
    client.ask("stop")
    for command in ("memsave", "pmemsave"):
        client.ask(command, val=0x100000, size=3 * 4096 + 5, filename=str(tmp_path / command))
    saved = (tmp_path / "memsave").read_bytes()
    assert saved == (tmp_path / "pmemsave").read_bytes()  # the guests' library maps memory one to one
    assert len(saved) == 3 * 4096 + 5
    assert saved.strip(b"\0")
    for command, address in (("pmemsave", 16 * MIB - 1), ("pmemsave", 1 << 50), ("memsave", 1 << 46)):
        assert "Invalid addr" in client.refusal(command, val=address, size=16, filename=str(tmp_path / "x"))
    assert not (tmp_path / "x").exists()
    backing = str(tmp_path / "pmem.img")
    assert "is the same file as the NVDIMM's file" in client.refusal("pmemsave", val=0, size=16, filename=backing)


def test_what_the_nvdimm_is_and_guarantees(client: Client, tmp_path: Path) -> None:
    (device,) = client.ask("query-memory-devices")
    assert device["data"] == {
        "id": "nv1", "memdev": "/objects/m1", "addr": 4 * GIB, "size": 4 * MIB - 131072, "slot": 0, "node": 0,
        "hotplugged": False, "hotpluggable": True,
    }  # fmt: skip
    (facts,) = client.ask("x-emu-query-persistence")
    assert facts["file"] == str(tmp_path / "pmem.img")
    assert facts["sync"]["requested"] == "auto"
    assert facts["survives"]["emulator_kill"] is True
    assert [backend["id"] for backend in client.ask("query-memdev")] == ["pc.ram", "m1"]
    assert client.ask("qom-get", path="nv1", property="label-size") == 131072
    assert client.refusal("qom-set", path="/objects/m1", property="sync", value="on") == (
        "cannot change property 'sync' of memory-backend-file 'm1'"
    )
    client.ask("qom-set", path="/objects/m1", property="dump", value=False)
    assert client.ask("qom-get", path="/objects/m1", property="dump") is False
    (cpu,) = client.ask("query-cpus-fast")
    assert cpu["thread-id"] in [int(name) for name in os.listdir(f"/proc/{_pid(client)}/task")]  # noqa: PTH208


def _pid(client: Client) -> int:
    return int.from_bytes(client.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4], "little")


def test_an_nvdimm_is_plugged_while_the_guest_runs(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "second.img"
    client.ask("object-add", qom_type="memory-backend-file", id="m2", size=2 * MIB, mem_path=str(path), share=True)
    assert client.refusal("object-del", id="m1") == "object 'm1' is in use, can not be deleted"
    fit_size = client.ask("qom-get", path="dsm", property="fit_size")
    client.ask("device_add", driver="nvdimm", id="nv2", memdev="m2", label_size=131072)
    added = client.ask("query-memory-devices")[1]["data"]
    assert (added["id"], added["slot"], added["addr"], added["hotplugged"]) == (
        "nv2",
        1,
        4 * GIB + 4 * MIB - 131072,
        True,
    )
    # The guest is told by GPE 4, and reads the new FIT from its beginning.
    assert client.ask("qom-get", path="dsm", property="fit_changed") is True
    assert client.ask("qom-get", path="dsm", property="fit_size") > fit_size
    assert bytes.fromhex(client.ask("qom-get", path="power", property="gpe0_status"))[0] & 1 << 4
    patch(path, b"through the file")
    client.ask("pmemsave", val=added["addr"], size=16, filename=str(tmp_path / "dump"))
    assert (tmp_path / "dump").read_bytes() == b"through the file"
    assert len(client.ask("x-emu-query-persistence")) == 2
    assert client.refusal("device_del", id="nv2") == "nvdimm device hot unplug is not supported yet."
    assert client.ask("query-status")["running"] is True


def test_what_cannot_be_plugged_leaves_everything_as_it_was(client: Client, tmp_path: Path) -> None:
    def backend(name: str, size: int) -> None:
        client.ask("object-add", qom_type="memory-backend-ram", id=name, size=size)

    backend("m2", 2 * MIB)
    assert "too small to contain nvdimm label" in client.refusal(
        "device_add", driver="nvdimm", memdev="m2", label_size=2 * MIB
    )
    assert "slot 0 is busy" in client.refusal("device_add", driver="nvdimm", memdev="m2", slot=0)
    assert "invalid slot number 3" in client.refusal("device_add", driver="nvdimm", memdev="m2", slot=3)
    assert "exceeds the number of numa" in client.refusal("device_add", driver="nvdimm", memdev="m2", node=1)
    assert "usable range" in client.refusal("device_add", driver="nvdimm", memdev="m2", addr=2 * MIB)
    assert "must be at least 0x20000" in client.refusal("device_add", driver="nvdimm", memdev="m2", label_size=4096)
    backend("large", 2 * GIB)
    assert "not enough space" in client.refusal("device_add", driver="nvdimm", memdev="large")
    client.ask("object-del", id="large")
    missing = str(tmp_path / "no" / "file")
    words = {"qom_type": "memory-backend-file", "id": "m3", "size": MIB, "mem_path": missing}
    assert missing in client.refusal("object-add", **words)
    locked = words | {"mem_path": str(tmp_path / "pmem.img")}
    assert "in use" in client.refusal("object-add", **locked, share=True)
    assert "MAP_SYNC" in client.refusal("object-add", **(words | {"mem_path": f"{tmp_path}/f"}), sync="on")
    marked = tmp_path / "half.img"
    marked.write_bytes(bytes(MIB))
    (tmp_path / "half.img.emu-incomplete").write_text('{"why": "a migration broke"}')
    assert "a migration broke" in client.refusal("object-add", **(words | {"mem_path": str(marked)}))
    assert len(client.ask("query-memory-devices")) == 1
    backend("m4", 2 * MIB)
    for number in (2, 4):
        client.ask("device_add", driver="nvdimm", memdev=f"m{number}", id=f"nv{number}")
    backend("m5", 2 * MIB)
    assert "no free slots available" in client.refusal("device_add", driver="nvdimm", memdev="m5")


def test_a_migration_over_two_monitors(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    with Emu(tmp_path, *counting(tmp_path)) as source, Emu(there, *counting(there, "-incoming", "defer")) as target:
        here, far = source.client(), target.client()
        assert far.ask("query-status")["status"] == "inmigrate"
        assert far.refusal("cont") == "Guest is waiting for an incoming migration"
        for client in (here, far):
            client.ask("migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}])
        far.ask("migrate-incoming", uri=f"unix:{tmp_path}/stream")
        assert here.refusal("migrate-incoming", uri="unix:x") == "'-incoming' was not specified on the command line"
        here.ask("migrate-set-parameters", downtime_limit=100)
        assert here.ask("query-migrate-parameters")["downtime-limit"] == 100
        assert "xbzrle" in here.refusal(
            "migrate-set-capabilities", capabilities=[{"capability": "xbzrle", "state": True}]
        )
        here.ask("migrate", uri=f"unix:{tmp_path}/stream")
        statuses: list[str] = []
        while not statuses or statuses[-1] not in ("completed", "failed"):
            statuses.append(here.wait_for("MIGRATION")["data"]["status"])
        assert statuses[0] == "setup"
        assert statuses[-1] == "completed", here.ask("query-migrate")
        assert here.ask("query-migrate")["ram"]["total"] > 16 * MIB
        assert here.ask("query-status")["status"] == "postmigrate"
        assert "handed over" in here.refusal("cont")
        assert "handed over" in here.refusal("cont", x_emu_force=True)
        await_guest(far)
        here.ask("quit")
        far.ask("stop")
        assert source.ended()[0] == 0


@pytest.mark.fuzz
def test_bytes_from_hell(running: Emu) -> None:
    random = Random(3)
    nasty = [
        b"[" * 5000,
        b'{"a":' * 500,
        b'{"execute":"quit"',
        b'{"execute":"nosuch","id":' + b"9" * 500 + b"}",
        b"\0\xff",
    ]
    for _ in range(times(40)):
        raw = socket.socket(socket.AF_UNIX)
        client = running.client()
        raw.connect(str(running.socket))
        for _ in range(5):
            raw.sendall(random.choice([*nasty, random.randbytes(500)]))
        raw.close()
        client.close()
    await_guest(running.client())
    status = Path(f"/proc/{running.process.pid}/status").read_text()
    resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    assert resident < 400 * 1024
