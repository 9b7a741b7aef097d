"""A real Linux judges us: MAP_SYNC mappings on ext4, xfs and device DAX, and label areas both ways."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from emu.testing.commands import EMU
from tests.oracle import dax_vm
from tests.oracle.requirements import require

ROOT = Path(__file__).parents[2]
LABELS = "2M"
UUID = "00112233-4455-6677-8899-aabbccddeeff"
UPDATING = 8


def emu(*words: str) -> Any:
    ran = subprocess.run([*EMU, *words], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout) if "--json" in words else ran.stdout


def as_read_by_emu(label: dict[str, Any]) -> dict[str, Any]:
    """A label in ndctl's JSON as emu prints it.

    ndctl prints every slot, also those that the index calls free: Linux leaves the first half of an update there,
    marked UPDATING. And it prints a GUID's bytes in the order of the medium, which swaps the first three fields.
    """
    swapped = {key: str(uuid.UUID(bytes_le=uuid.UUID(label[key]).bytes)) for key in label if key.endswith("_guid")}
    return label | swapped


@pytest.fixture(scope="module")
def linux(tmp_path_factory: pytest.TempPathFactory) -> dax_vm.Result:
    """One boot for everything in this file: the emu checks, and what ndctl says of our labels in slot 3."""
    require("ndctl", "ndctl")
    work = tmp_path_factory.mktemp("linux")
    ours = work / "ours"
    with ours.open("wb") as file:
        file.truncate(514 << 20)
    emu("label", "init", str(ours), "--label-size", LABELS, "-V", "1.2")
    emu("label", "create-namespace", str(ours), "--label-size", LABELS, "--slot", "3", "-m", "raw", "-n", "emu-space",
        "-u", UUID, "-s", "64M")  # fmt: skip
    command = f"""
{sys.executable} {ROOT}/tests/oracle/inside_dax.py /mnt/results/report.json /mnt/ext4 /mnt/xfs $DAX
D=$(dimm 3)
ndctl check-labels $D > /mnt/results/check 2>&1 || true
ndctl read-labels -j $D > /mnt/results/read.json
ndctl read-labels $D -o /mnt/results/raw
ndctl read-labels -j $(dimm 0) > /mnt/results/linux-1.1.json
ndctl read-labels -j $(dimm 1) > /mnt/results/linux-1.2.json
ndctl list -N -i > /mnt/results/namespaces.json
dmesg > /mnt/results/dmesg
"""
    result = dax_vm.run(command, work, labels=ours)
    assert result.status == 0, result.output + result.console[-2000:]
    return result


@pytest.fixture(scope="module")
def report(linux: dax_vm.Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((linux.results / "report.json").read_text())
    return found


@pytest.mark.parametrize("kind", ["ext4", "xfs", "device"])
def test_sync_on_succeeds_and_the_kernel_confirms_it(report: dict[str, Any], kind: str) -> None:
    found = report[kind]
    assert found["first"]["status"] == 0, found["first"]["err"]
    (dimm,) = found["first"]["json"]["nvdimms"]
    assert dimm["sync"]["effective"] is True
    assert dimm["granularity"] == "cache-line"
    assert dimm["survives"] == {"guest_crash": True, "emulator_kill": True, "host_power_loss": True}
    assert "sf" in found["flags"]
    assert "sf" not in found.get("plain_flags", [])
    assert found["second"]["json"]["serial"] != found["first"]["json"]["serial"], "the second boot saw no first one"


@pytest.mark.parametrize("kind", ["ext4", "xfs", "device"])
def test_probe_says_so(report: dict[str, Any], kind: str) -> None:
    probe = report[kind]["probe"]["json"]
    assert (probe["schema"], probe["map_sync"], probe["granularity"]) == ("emu.probe/1", True, "cache-line")


@pytest.mark.parametrize("kind", ["ext4", "xfs", "device"])
def test_sync_off_never_asks(report: dict[str, Any], kind: str) -> None:
    (dimm,) = report[kind]["off"]["json"]["nvdimms"]
    assert dimm["sync"]["requested"] == "off"
    assert dimm["sync"]["effective"] is False


@pytest.mark.parametrize("kind", ["ext4", "xfs", "device"])
def test_label_writes_reach_the_medium(report: dict[str, Any], kind: str) -> None:
    assert report[kind]["labels"]["status"] == 0, report[kind]["labels"]


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_on_a_full_file_system_no_store_after_the_lost_one_is_kept(report: dict[str, Any], kind: str) -> None:
    found = report["order"][kind]
    assert found["run"]["status"] == 4, found
    assert "offset 0x200000, guest address 0x100200000" in found["run"]["err"]
    assert found["kept"] == [0, 7, 0, 0]


def test_outside_dax_sync_on_fails_and_auto_says_so(report: dict[str, Any]) -> None:
    refused = report["tmpfs"]
    assert (refused["status"], refused["json"]) == (4, None)
    assert len(refused["err"].splitlines()) == 2
    (dimm,) = report["tmpfs_auto"]["json"]["nvdimms"]
    assert dimm["sync"]["effective"] is False
    assert dimm["survives"]["host_power_loss"] is False


def test_ndctl_accepts_the_labels_that_emu_wrote(linux: dax_vm.Result) -> None:
    assert "successfully verified 1 nmem label" in (linux.results / "check").read_text()
    (dimm,) = json.loads((linux.results / "read.json").read_text())
    ours = [label for label in dimm["label"] if label["uuid"] == UUID and not label["flags"]]
    assert [(label["name"], label["rawsize"]) for label in ours] == [("emu-space", 64 << 20)]


def test_linux_shows_the_namespace_that_emu_wrote(linux: dax_vm.Result) -> None:
    namespaces = json.loads((linux.results / "namespaces.json").read_text())
    (ours,) = [space for space in namespaces if space["uuid"] == UUID]
    assert (ours["mode"], ours["name"], ours["size"]) == ("raw", "emu-space", 64 << 20)
    assert "label" not in "".join(
        line for line in (linux.results / "dmesg").read_text().splitlines() if "nmem3" in line
    )


@pytest.mark.parametrize(("slot", "version"), [(0, "1.1"), (1, "1.2")])
def test_emu_reads_the_labels_that_linux_wrote(linux: dax_vm.Result, slot: int, version: str) -> None:
    theirs = json.loads((linux.results / f"linux-{version}.json").read_text())[0]
    ours = emu("label", "read", str(linux.backings[slot]), "--label-size", LABELS, "--json")["dimms"][0]
    assert ours["index"] == theirs["index"]
    assert ours["label"] == [as_read_by_emu(label) for label in theirs["label"] if not label["flags"] & UPDATING]
    assert len(ours["label"]) == 1
    assert emu("label", "check", str(linux.backings[slot]), "--label-size", LABELS)


def test_a_raw_dump_of_ndctl_loads(linux: dax_vm.Result) -> None:
    assert emu("label", "check", str(linux.results / "raw"), "--label-size", LABELS)
