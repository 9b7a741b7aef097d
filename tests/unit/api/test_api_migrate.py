"""``emu.migrate``: from one machine of a script to another, to a file and back, and through QMP."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

import pytest

import emu
from emu.cli.services import offer


@pytest.fixture
def source(tmp_path: Path) -> emu.Machine:
    """A guest that has counted for a while and stands still; the test closes it."""
    machine = emu.Machine("count", nvdimms=[emu.Nvdimm(tmp_path / "a.img", size="16M", label_size="128K")])
    while not machine.serial:
        assert machine.run(timeout=0.1).reason == "timeout"
    return machine


def destination(uri: str, folder: Path) -> emu.Machine:
    return emu.Machine(incoming=uri, nvdimms=[emu.Nvdimm(folder / "b.img", size="16M", label_size="128K")])


def verify(path: Path) -> None:
    with emu.Machine("verify", nvdimms=[emu.Nvdimm(path, label_size="128K")]) as judge:
        assert judge.run(timeout=60).status == 0, judge.serial


def test_a_move_ends_the_source_and_the_guest_goes_on_at_the_destination(source: emu.Machine, tmp_path: Path) -> None:
    uri = f"unix:{tmp_path}/m"
    with source, destination(uri, tmp_path) as arrived:
        document = emu.migrate(source, uri)
        assert (document["schema"], document["status"], document["error"]) == ("emu.migrate/1", "completed", None)
        assert [item["means"] for item in document["persistence"]] == [
            "msync" if arrived.nvdimms[0].facts["granularity"] == "page" else "cache-line flush"
        ]
        assert source.run().reason == "migrated"
        assert arrived.nvdimms[0].read(0, 16 << 19) == source.nvdimms[0].read(0, 16 << 19)
        assert [arrived.run(timeout=0.1).reason for _ in range(2)] == ["timeout", "timeout"]
        while arrived.nvdimms[0].read(0, 16 << 19) == source.nvdimms[0].read(0, 16 << 19):
            assert arrived.run(timeout=0.1).reason == "timeout"
        with pytest.raises(emu.UsageError, match="handed over"):
            emu.migrate(source, uri)
    verify(tmp_path / "b.img")


def test_a_machine_that_runs_is_moved_under_way(source: emu.Machine, tmp_path: Path) -> None:
    uri = f"unix:{tmp_path}/m"
    ended: list[str] = []
    with source, destination(uri, tmp_path) as arrived:
        threads = [
            threading.Thread(target=lambda: ended.append(source.run(timeout=60).reason)),
            threading.Thread(target=lambda: ended.append(arrived.run(timeout=60).reason)),
        ]
        for thread in threads:
            thread.start()
        emu.migrate(source, uri, max_bandwidth="1G", downtime_limit=1000)
        while not arrived.serial:  # it runs
            time.sleep(0.01)
        arrived.stop()
        for thread in threads:
            thread.join()
        assert sorted(ended) == ["migrated", "quit"]
    verify(tmp_path / "b.img")


def test_a_snapshot_leaves_the_source_going_and_starts_again_from_its_file(source: emu.Machine, tmp_path: Path) -> None:
    uri = f"file:{tmp_path}/snapshot"
    with source:
        assert emu.migrate(source, uri)["status"] == "completed"
        kept = source.nvdimms[0].read(0, 16 << 19)
        assert source.run(timeout=0.1).reason == "timeout"
        with pytest.raises(emu.UsageError, match="is the same file as"):
            emu.migrate(source, f"file:{tmp_path}/a.img")
    with destination(uri, tmp_path) as arrived:
        deadline = time.monotonic() + 60
        while arrived.migration_control().status != "completed":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert arrived.nvdimms[0].read(0, 16 << 19) == kept


def test_a_refused_move_leaves_the_guest_at_the_source(source: emu.Machine, tmp_path: Path) -> None:
    uri = f"unix:{tmp_path}/m"
    with source:
        with pytest.raises(emu.EmuError, match="No such file") as nobody:
            emu.migrate(source, uri)
        assert nobody.value.status == 4
        larger = emu.Nvdimm(tmp_path / "b.img", size="32M", label_size="128K")
        with emu.Machine(incoming=uri, nvdimms=[larger]) as arrived:
            with pytest.raises(emu.EmuError, match="migration refused") as refused:
                emu.migrate(source, uri)
            assert refused.value.status == 4
            assert arrived.run(timeout=60).reason == "migration-failed"
        assert source.run(timeout=0.2).reason == "timeout"
    verify(tmp_path / "a.img")


def test_a_machine_behind_qmp(source: emu.Machine, tmp_path: Path) -> None:
    """As ``emu migrate --qmp``; the machine is one of ours, which the command's services offer on a socket."""
    engine = source.engine
    source.migration_control()
    with source, contextlib.ExitStack() as stack:
        offer(stack, engine, qmp=[f"unix:{tmp_path}/q,server=on,wait=off"], quiet=True)
        runner = threading.Thread(target=source.run)
        runner.start()
        stack.callback(runner.join)
        stack.callback(source.stop)
        document = emu.migrate(f"{tmp_path}/q", f"file:{tmp_path}/snapshot")
        assert document["status"] == "completed"
        with pytest.raises(emu.EmuError, match="same file"):
            emu.migrate(f"{tmp_path}/q", f"file:{tmp_path}/a.img")
    with pytest.raises(emu.HostError, match="no QMP at"):
        emu.migrate(f"{tmp_path}/nobody", "file:x")
    assert (tmp_path / "snapshot").stat().st_size > 0
