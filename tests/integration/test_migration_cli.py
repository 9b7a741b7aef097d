"""``emu migrate`` and the real QMP client drive migrations between ``emu run`` processes."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from emu.memory import incomplete
from tests import documents
from tests.integration.migration_processes import EMU, Emu, verify, wait_until
from tests.integration.run_emu import PATIENCE_S


@pytest.fixture
def emus() -> Iterator[list[Emu]]:
    made: list[Emu] = []
    yield made
    for one in made:
        one.end()


def counting(emus: list[Emu], folder: Path, *words: str) -> Emu:
    emus.append(Emu(folder, "a", ["count", "--append", "0 20000", *words]))
    wait_until(emus[-1].counted, "counting guest")
    return emus[-1]


def waiting(emus: list[Emu], folder: Path, uri: str, *words: str) -> Emu:
    emus.append(Emu(folder, "b", ["--incoming", uri, *words]))
    return emus[-1]


def migrate(source: Emu, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*EMU, "migrate", "--qmp", str(source.qmp), *words], capture_output=True, text=True, timeout=PATIENCE_S
    )


def test_a_move_from_the_shell_ends_the_source(emus: list[Emu], tmp_path: Path) -> None:
    destination = waiting(emus, tmp_path, f"unix:{tmp_path}/m")
    source = counting(emus, tmp_path)
    done = migrate(source, "--json", f"unix:{tmp_path}/m")
    assert done.returncode == 0, done.stderr
    document = documents.check(json.loads(done.stdout))
    assert document["schema"] == "emu.migrate/1"
    assert document["status"] == "completed"
    assert 0 <= document["downtime_ms"] <= document["total_ms"]
    assert document["persistence"][0]["means"] == "msync"
    assert source.process.wait(PATIENCE_S) == 0
    wait_until(destination.counted, "count at the destination")
    assert destination.ask("query-status")["status"] == "running"
    destination.kill()
    verify(tmp_path / "b.img")


def test_a_move_over_several_connections(emus: list[Emu], tmp_path: Path) -> None:
    """Set as QEMU's users set it; the address must be free of the door's socket afterwards."""
    destination = waiting(emus, tmp_path, f"unix:{tmp_path}/m")
    source = counting(emus, tmp_path)
    capability = {"capability": "multifd", "state": True}
    assert source.ask("migrate-set-capabilities", capabilities=[capability]) == {}
    assert source.ask("migrate-set-parameters", **{"multifd-channels": 3, "multifd-compression": "zlib"}) == {}
    assert source.ask("query-migrate-parameters")["multifd-compression"] == "zlib"
    error = source.ask("migrate", uri=f"file:{tmp_path}/snapshot")["error"]
    assert "takes one connection only, and multifd opens several" in error["desc"]
    assert source.ask("migrate", uri=f"unix:{tmp_path}/m") == {}
    wait_until(lambda: source.ask("query-migrate")["status"] not in ("setup", "active", "device"), "end")
    answer = source.ask("query-migrate")
    assert answer["status"] == "completed", answer
    assert answer["ram"]["multifd-bytes"] > 0
    wait_until(destination.counted, "count at the destination")
    assert not (tmp_path / "m").exists()
    destination.kill()
    verify(tmp_path / "b.img")


def test_a_refusal_names_both_values_and_ends_with_4(emus: list[Emu], tmp_path: Path) -> None:
    destination = waiting(emus, tmp_path, f"unix:{tmp_path}/m", "-machine", "q35,nvdimm=on,nvdimm-persistence=cpu")
    source = counting(emus, tmp_path)
    done = migrate(source, f"unix:{tmp_path}/m")
    assert done.returncode == 4
    assert "persistence domain is none at the source and cpu at the destination" in done.stderr
    assert destination.process.wait(PATIENCE_S) == 4
    assert source.ask("query-status")["status"] == "running"
    assert migrate(source, "exec:cat").returncode == 4
    assert migrate(source, f"unix:{tmp_path}/nobody").returncode == 4
    assert migrate(source).returncode == 2


def test_no_file_of_the_machine_becomes_its_snapshot(emus: list[Emu], tmp_path: Path) -> None:
    source = counting(emus, tmp_path)
    source.ask("stop")
    for name in ("a.serial", "a.img"):  # the guest's output, and its NVDIMM
        before = (tmp_path / name).read_bytes()
        refused = migrate(source, f"file:{tmp_path}/{name}")
        assert refused.returncode != 0
        assert name in refused.stderr
        assert (tmp_path / name).read_bytes() == before


def test_a_snapshot_goes_on_and_resumes(emus: list[Emu], tmp_path: Path) -> None:
    source = counting(emus, tmp_path)
    assert migrate(source, f"file:{tmp_path}/snapshot").returncode == 0
    at = source.counted()[-1]
    wait_until(lambda: source.counted()[-1] > at, "count after the snapshot")
    restored = waiting(emus, tmp_path, f"file:{tmp_path}/snapshot")
    wait_until(restored.counted, "count of the restored machine")
    restored.kill()
    verify(tmp_path / "b.img")


def test_a_broken_snapshot_is_refused_and_leaves_a_mark(emus: list[Emu], tmp_path: Path) -> None:
    source = counting(emus, tmp_path)
    assert migrate(source, f"file:{tmp_path}/snapshot").returncode == 0
    source.kill()
    data = bytearray((tmp_path / "snapshot").read_bytes())
    data[-200] ^= 1
    (tmp_path / "snapshot").write_bytes(data)
    done = subprocess.run(
        [*EMU, "run", "--quiet", "-m", "16M", "--nvdimm", f"file={tmp_path}/b.img,size=8M,label-size=128K,id=nv1",
         "--incoming", f"file:{tmp_path}/snapshot"],
        capture_output=True, text=True, timeout=PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == 4
    assert "corrupted" in done.stderr
    assert "Traceback" not in done.stderr
    assert incomplete.reason(tmp_path / "b.img") is not None


def test_the_real_qmp_client_sees_the_events(emus: list[Emu], tmp_path: Path) -> None:
    qmp = pytest.importorskip("qemu.qmp", reason="pip install qemu.qmp")
    waiting(emus, tmp_path, "defer")
    source = counting(emus, tmp_path)

    async def drive() -> list[str]:
        first, second = qmp.QMPClient("source"), qmp.QMPClient("destination")
        await first.connect(str(source.qmp))
        await second.connect(f"{tmp_path}/b.qmp")
        events: list[Any] = []
        with first.listener("MIGRATION") as listener:
            states = [{"capability": "events", "state": True}]
            await first.execute("migrate-set-capabilities", {"capabilities": states})
            await second.execute("migrate-incoming", {"uri": f"unix:{tmp_path}/m"})
            await first.execute("migrate", {"uri": f"unix:{tmp_path}/m"})
            async for event in listener:
                events.append(event["data"]["status"])
                if events[-1] in ("completed", "failed"):
                    break
        with pytest.raises(qmp.ExecuteError, match="handed over"):
            await first.execute("cont")
        assert (await first.execute("query-status"))["status"] == "postmigrate"
        assert (await second.execute("query-status"))["status"] == "running"
        await first.disconnect()
        await second.disconnect()
        return events

    assert asyncio.run(asyncio.wait_for(drive(), PATIENCE_S)) == ["setup", "active", "device", "completed"]
