"""QMP before outside examiners: the client that QEMU's tests use, its shell, and QEMU's answers to the same words."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from emu import guest
from emu.monitor.commands import COMMANDS, introspection
from emu.testing.commands import EMU
from tests.oracle.requirements import missing, require

TIMEOUT_S = 60
MIB, GIB = 1 << 20, 1 << 30
RUN = (*EMU, "run", "--quiet", "--timeout", "120")


def machine(folder: Path) -> list[str]:
    """Options that QEMU and ``emu run`` both take: a paused machine with one NVDIMM and room for more."""
    image = guest.find("count")
    assert image is not None
    backend = f"memory-backend-file,id=m1,share=on,mem-path={folder}/pmem.img,size=4M"
    return [
        "-machine", "q35,nvdimm=on", "-m", "128M,slots=3,maxmem=1G", "-object", backend,
        "-device", "nvdimm,id=nv1,memdev=m1,label-size=128K", "-kernel", str(image.path), "-append", "0 20000",
        "-serial", "none", "-display", "none", "-nodefaults", "-S", "-qmp", f"unix:{folder}/qmp,server=on,wait=off",
    ]  # fmt: skip


class Machine:
    """A process with a QMP socket at ``socket``."""

    def __init__(self, folder: Path, command: tuple[str, ...], *more: str) -> None:
        folder.mkdir()
        self.socket = folder / "qmp"
        words = [*command, *machine(folder), *more]
        self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        end = time.monotonic() + TIMEOUT_S
        while not self.socket.exists():
            assert self.process.poll() is None, "the machine ended instead of offering QMP"
            assert time.monotonic() < end, "the machine does not offer QMP"
            time.sleep(0.02)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


Start = Callable[..., Machine]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    made: list[Machine] = []

    def start(name: str, *more: str) -> Machine:
        command = RUN if name != "qemu" else (require("qemu-system-x86_64", "qemu-system-x86"), "-accel", "tcg")
        made.append(Machine(tmp_path / name, command, *more))
        return made[-1]

    yield start
    for each in made:
        each.close()


# -- the client of QEMU's own tests -----------------------------------------------------------------------------------


def qemu_qmp() -> Any:
    """The examiner's package; the test is skipped when it is missing."""
    try:
        return importlib.import_module("qemu.qmp")
    except ImportError:
        missing("the Python package qemu.qmp", "pip install qemu.qmp")


def run(work: Callable[..., Coroutine[Any, Any, None]], *machines: Machine) -> None:
    """Do ``work`` with a real client for each of the machines."""
    qmp = qemu_qmp()

    async def leave(client: Any) -> None:
        with contextlib.suppress(EOFError):  # the machine has gone first: that is how the client says it
            await client.disconnect()

    async def connected() -> None:
        async with contextlib.AsyncExitStack() as stack:
            clients = []
            for machine in machines:
                clients.append(qmp.QMPClient("judge"))
                await clients[-1].connect(str(machine.socket))
                stack.push_async_callback(leave, clients[-1])
            await work(*clients)

    asyncio.run(asyncio.wait_for(connected(), TIMEOUT_S))


def test_the_real_client(start: Start) -> None:
    qmp, emu = qemu_qmp(), start("emu")

    async def talk(client: Any) -> None:
        assert client.greeting.QMP.version["package"].startswith("emu ")
        assert (await client.execute("query-status"))["status"] == "prelaunch"
        with client.listener(("RESUME", "STOP")) as listener:
            await client.execute("cont")
            assert (await listener.get())["event"] == "RESUME"
            await client.execute("stop")
            assert (await listener.get())["event"] == "STOP"
        with pytest.raises(qmp.ExecuteError) as refused:
            await client.execute("qom-set", {"path": "/objects/m1", "property": "sync", "value": "on"})
        assert refused.value.error_class == "GenericError"
        assert str(refused.value) == "cannot change property 'sync' of memory-backend-file 'm1'"
        with pytest.raises(qmp.ExecuteError):
            await client.execute("no-such-command")
        many = await asyncio.gather(*(client.execute("query-memory-devices") for _ in range(20)))
        assert all(answer == many[0] for answer in many)
        assert len(await client.execute("query-qmp-schema")) == len(introspection())

    async def end_it(client: Any) -> None:
        with client.listener("SHUTDOWN") as listener:
            await client.execute("quit")
            assert (await listener.get())["data"] == {"guest": False, "reason": "host-qmp-quit"}

    run(talk, emu)
    run(end_it, emu)
    assert emu.process.wait(TIMEOUT_S) == 0


def test_the_real_client_drives_a_migration(start: Start, tmp_path: Path) -> None:
    source, target = start("source"), start("target", "-incoming", "defer")

    async def talk(here: Any, there: Any) -> None:
        for client in (here, there):
            wanted = {"capabilities": [{"capability": "events", "state": True}]}
            await client.execute("migrate-set-capabilities", wanted)
        await here.execute("cont")
        uri = {"uri": f"unix:{tmp_path}/stream"}
        await there.execute("migrate-incoming", uri)
        with here.listener("MIGRATION") as listener:
            await here.execute("migrate", uri)
            status = ""
            while status not in ("completed", "failed", "cancelled"):
                status = (await listener.get())["data"]["status"]
        answer = await here.execute("query-migrate")
        assert status == "completed", answer
        assert answer["ram"]["total"] >= 128 * MIB + 4 * MIB
        assert (await here.execute("query-status"))["status"] == "postmigrate"
        await here.execute("quit")
        await there.execute("cont")
        assert (await there.execute("query-status"))["running"] is True

    run(talk, source, target)


@pytest.mark.parametrize("options", [[], ["-p"], ["-H"]])
def test_the_shell(start: Start, options: list[str]) -> None:
    qemu_qmp()
    shell, emu = Path(sys.executable).with_name("qmp-shell"), start("emu")
    typed = "info status\nhelp\n" if options == ["-H"] else (
        "query-status\nstop\nqom-get path=/objects/m1 property=size\n"
        "object-add qom-type=memory-backend-ram id=m9 size=1048576\nno-such-command\n"
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, shell, *options, str(emu.socket)],
        input=typed, text=True, capture_output=True, timeout=TIMEOUT_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    if options == ["-H"]:
        assert "VM status: paused (prelaunch)" in done.stdout
        assert "info memory-devices" in done.stdout
        return
    assert "prelaunch" in done.stdout
    assert str(4 * MIB) in done.stdout
    assert "CommandNotFound" in done.stdout


# -- QEMU itself ------------------------------------------------------------------------------------------------------


class Wire:
    """Sends bytes as they are and gives what comes back."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(TIMEOUT_S)
        self.socket.connect(str(path))
        self.file = self.socket.makefile("rb")
        self.file.readline()
        self.answer(b'{"execute":"qmp_capabilities"}')

    def answer(self, data: bytes) -> Any:
        """The first answer to ``data``; events are dropped."""
        self.socket.sendall(data)
        while True:
            line = self.file.readline()
            assert line.endswith(b"\r\n"), "the connection ended"
            assert line.isascii()
            message = json.loads(line)
            if "event" not in message:
                return message

    def answers(self, data: bytes) -> list[Any]:
        """Every answer to ``data``: those that come before that to a mark sent behind it."""
        found = [self.answer(data + b'{"execute":"query-version","id":"mark"}')]
        while found[-1].get("id") != "mark":
            found.append(self.answer(b""))
        return found[:-1]

    def close(self) -> None:
        self.file.close()
        self.socket.close()


def command(name: str, **arguments: Any) -> bytes:
    words = {key.replace("_", "-"): value for key, value in arguments.items()}
    return json.dumps({"execute": name, "arguments": words}).encode()


def device(**more: Any) -> bytes:
    return command("device_add", driver="nvdimm", **more)


# What both must answer alike, in this order: the machine changes on the way.
CONVERSATION: list[bytes] = [
    # Envelope and syntax
    b'{"execute":"query-status"}', b'{"execute":"query-status","id":{"a":[1,null,"\\u00e9"]}}',
    b'{"execute":"stop","id":null}', b"{'execute':'query-status'}", b"{}", b"[1,2]", b"5 ", b'"abc" ', b"null ",
    b'{"execute":1}', b'{"exec":1}', b'{"execute":"stop","arguments":[]}', b'{"execute":"stop","control":{}}',
    b'{"execute":"query-status","arguments":{"x":1},"id":"z"}', b"@#", b'{"a" 1}\n', b'{"a":1,"a":2}', b"}",
    b'{"id":"\xed\xa0\x80"}', b'{"execute":"query-status","id":"\\ud83d"}', b"01 ", b'"unfinished\n', b"\x01",
    b'{"execute":"query-status","id":truex}', b"\xff", b'{"execute":"query-status","id":18446744073709551616}',
    command("no-such-command"), command("qmp_capabilities"),
    # Objects
    command("query-memory-devices"), command("qom-list", path="/machine/peripheral"),
    command("qom-list", path="/nosuch"), command("qom-list", path="nosuch"),
    *(command("qom-get", path="/machine/peripheral/nv1", property=name)
      for name in ("type", "size", "addr", "slot", "node", "memdev", "label-size", "uuid", "unarmed", "hotplugged",
                   "hotpluggable", "realized", "id", "nosuch")),
    *(command("qom-get", path="/objects/m1", property=name)
      for name in ("type", "size", "share", "pmem", "align", "dump", "prealloc", "host-nodes", "policy",
                   "discard-data", "readonly", "reserve", "nosuch", "id")),
    command("qom-get", path="m1", property="size"),
    *(command("qom-set", path="/machine/peripheral/nv1", property=name, value=value)
      for name, value in (("label-size", 4096), ("unarmed", True), ("addr", 5), ("slot", 2), ("node", 1),
                          ("memdev", "/objects/m1"), ("hotplugged", True), ("size", 5), ("nosuch", 1))),
    *(command("qom-set", path="/objects/m1", property=name, value=value)
      for name, value in (("dump", False), ("dump", True), ("type", "x"), ("id", "x"), ("nosuch", 1),
                          ("prealloc-threads", 2), ("prealloc-threads", 0), ("host-nodes", [200]))),
    # Memory
    command("memsave", val="0", size=1, filename="x"), command("memsave", size=1, filename="x"),
    command("memsave", val=0, size=1, filename="x", cpu_index=3),
    command("pmemsave", val=0, size=16, filename="/nosuch/a"),
    # Plugging
    *(command("object-add", **words)
      for words in ({"qom_type": "memory-backend-ram"}, {"qom_type": "memory-backend-ram", "id": "m2"},
                    {"qom_type": "nosuch", "id": "m3"}, {"qom_type": "memory-backend-ram", "id": "m3", "size": "64M"},
                    {"qom_type": "memory-backend-ram", "id": "m3", "size": MIB, "foo": 1},
                    {"qom_type": "memory-backend-file", "id": "m3", "size": MIB},
                    {"qom_type": "memory-backend-ram", "id": "1!", "size": MIB},
                    {"qom_type": "memory-backend-ram", "id": "m3", "size": 0},
                    {"qom_type": "memory-backend-ram", "id": "m3", "size": MIB, "prealloc_threads": 0},
                    {"qom_type": "memory-backend-ram", "id": "m3", "size": MIB, "host_nodes": [200], "policy": "bind"},
                    {"qom_type": "memory-backend-ram", "id": "m2", "size": 4 * MIB},
                    {"qom_type": "memory-backend-ram", "id": "m2", "size": 4 * MIB})),
    device(id="nv1", memdev="m2"), device(id="nv2", memdev="zz"), device(id="nv2"), device(id="nv2", memdev="m1"),
    device(id="nv2", memdev="m2", foo=1), command("device_add", id="x"), command("device_add", driver="nosuch"),
    device(id="nv2", memdev="m2"), command("query-memory-devices"), device(id="nv2", memdev="m2"),
    command("object-del", id="m2"), command("object-del", id="zz"), command("device_del", id="zz"),
    command("device_del", id="nv1"), command("qom-get", path="nv2", property="hotplugged"),
    # Migration
    command("query-migrate"), command("migrate-incoming", uri="unix:/x"), command("migrate_cancel"),
    command("migrate-continue", state="pre-switchover"), command("migrate-set-parameters", foo=1),
    command("migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}]),
    command("migrate-set-capabilities", capabilities=[{"capability": "xbzrle", "state": "on"}]),
    command("migrate-set-parameters", downtime_limit=100),
    # The run
    *(command(name) for name in ("cont", "query-status", "cont", "stop", "query-status", "stop")),
    command("human-monitor-command", command_line="info status"),
    command("human-monitor-command", command_line="foo"),
    command("system_reset"), command("system_powerdown")
]  # fmt: skip


def test_qemu_says_the_same(start: Start) -> None:
    different = []
    with closing(Wire(start("emu").socket)) as ours, closing(Wire(start("qemu").socket)) as theirs:
        for data in CONVERSATION:
            here, there = ours.answers(data), theirs.answers(data)
            if here != there:
                different.append(f"{data!r}\n  emu:  {here}\n  QEMU: {there}")
    assert not different, "\n".join(different)


def test_qemu_describes_the_same(start: Start) -> None:
    """Our commands are QEMU's: an argument that it does not know says so by its name; no answer lacks a member."""
    with closing(Wire(start("qemu").socket)) as wire:
        theirs = {entry["name"]: entry for entry in wire.answer(command("query-qmp-schema"))["return"]}
    ours = {entry["name"]: entry for entry in introspection()}
    for name in COMMANDS:
        if not name.startswith("x-emu-"):
            mine, his = ours[ours[name]["arg-type"]], theirs[theirs[name]["arg-type"]]
            compare(members(mine), members(his), name)
            mine, his = result(ours, name), result(theirs, name)
            if name not in ("query-qmp-schema", "query-migrate", "query-migrate-parameters"):
                lacking = {key for key, member in members(his).items() if "default" not in member} - members(
                    mine
                ).keys()
                assert not lacking, f"the answer of {name} lacks {lacking}"
    for name in [name for name, entry in ours.items() if entry["meta-type"] == "event"]:
        compare(members(ours[ours[name]["arg-type"]]), members(theirs[theirs[name]["arg-type"]]), name)


def result(schema: dict[str, Any], name: str) -> dict[str, Any]:
    entry = schema[schema[name]["ret-type"]]
    found: dict[str, Any] = schema[entry["element-type"]] if entry["meta-type"] == "array" else entry
    return found


def members(entry: dict[str, Any]) -> dict[str, Any]:
    return {member["name"]: member for member in entry.get("members", [])}


def compare(mine: dict[str, Any], his: dict[str, Any], where: str) -> None:
    for name, member in mine.items():
        assert name in his or re.match("x-emu-", name), f"{where}: QEMU has no '{name}'"
        assert name not in his or ("default" in member) == ("default" in his[name]), (
            f"{where}: '{name}' optional or not"
        )
    needed = {name for name, member in his.items() if "default" not in member}
    assert needed <= mine.keys(), f"{where}: needs {needed - mine.keys()}"
