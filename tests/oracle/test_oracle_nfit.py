"""The NFIT and the places of NVDIMMs, compared with a running QEMU's for a matrix of configurations."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from emu.config import BackendConfig, BackendKind, MachineConfig, NvdimmConfig, OnOffAuto, PersistenceDomain
from emu.devices.nvdimm.nfit import NfitEntry, nfit_table
from emu.devices.nvdimm.options import pmem_size
from emu.devices.nvdimm.placement import DeviceMemory
from emu.units import GIB, KIB, MIB
from tests.oracle.qemu_tables import qemu_tables, running_qemu, table_of
from tests.oracle.requirements import require

RAM_ALIGNMENT = 2 * MIB
PAGE = 4096


@dataclass(frozen=True)
class Dimm:
    size: int = 16 * MIB
    id: str | None = None
    slot: int | None = None
    addr: int | None = None
    node: int = 0
    label_size: int = 0
    unarmed: bool = False
    align: int = 0
    kind: BackendKind = BackendKind.RAM

    @property
    def alignment(self) -> int:
        return RAM_ALIGNMENT if self.kind is BackendKind.RAM else max(self.align, PAGE)


@dataclass(frozen=True)
class Board:
    dimms: tuple[Dimm, ...] = (Dimm(),)
    ram: int = 64 * MIB
    slots: int = 4
    maxmem: int = 8 * GIB
    persistence: PersistenceDomain | None = None
    nodes: int = 0


def qemu_options(board: Board, scratch: Path) -> list[str]:
    persistence = f",nvdimm-persistence={board.persistence}" if board.persistence else ""
    options = ["-machine", f"q35,nvdimm=on{persistence}"]
    options += ["-m", f"size={board.ram}B,slots={board.slots},maxmem={board.maxmem}B"]
    for node in range(board.nodes):
        memory = f",memdev=node{node}" if node == 0 else ""
        if node == 0:
            options += ["-object", f"memory-backend-ram,id=node0,size={board.ram}B"]
        options += ["-numa", f"node,nodeid={node}{memory}"]
    for number, dimm in enumerate(board.dimms):
        backend = f"{dimm.kind},id=m{number},size={dimm.size}B"
        if dimm.kind is BackendKind.FILE:
            path = scratch / f"pmem{number}"
            with path.open("wb") as file:
                file.truncate(dimm.size)
            backend += f",share=on,mem-path={path}" + (f",align={dimm.align}B" if dimm.align else "")
        words = [f"nvdimm,memdev=m{number}"]
        words += [
            f"{key}={value}"
            for key, value in (("id", dimm.id), ("slot", dimm.slot), ("addr", dimm.addr))
            if value is not None
        ]
        words += [f"node={dimm.node}"] if dimm.node else []
        words += [f"label-size={dimm.label_size}B"] if dimm.label_size else []
        words += ["unarmed=on"] if dimm.unarmed else []
        options += ["-object", backend, "-device", ",".join(words)]
    return options


def our_entries(board: Board) -> list[NfitEntry]:
    machine = MachineConfig(ram_size=board.ram, slots=board.slots, max_memory=board.maxmem, numa_nodes=board.nodes)
    window = DeviceMemory(machine)
    entries = []
    for number, dimm in enumerate(board.dimms):
        config = NvdimmConfig(
            backend=BackendConfig(id=f"m{number}", kind=dimm.kind, size=dimm.size),
            id=dimm.id,
            slot=dimm.slot,
            addr=dimm.addr,
            node=dimm.node,
            label_size=dimm.label_size,
            unarmed=OnOffAuto.ON if dimm.unarmed else OnOffAuto.OFF,
        )
        placed = window.plug(config, dimm.size, dimm.alignment)
        assert placed.size == pmem_size(config, dimm.size, dimm.alignment)
        entries.append(NfitEntry(dimm.id, placed.slot, placed.gpa, placed.size, dimm.node, dimm.unarmed))
    return entries


def many(ids: Sequence[str | None]) -> tuple[Dimm, ...]:
    return tuple(Dimm(size=2 * MIB, id=name) for name in ids)


FILE = Dimm(kind=BackendKind.FILE)
BOARDS = {
    "one": Board(),
    "one-file": Board((FILE,)),
    "labels": Board((replace(FILE, label_size=128 * KIB),)),
    "odd-label-size": Board((replace(FILE, label_size=131073),)),
    "aligned-file-with-labels": Board((replace(FILE, align=2 * MIB, label_size=128 * KIB),)),
    "labels-on-ram": Board((Dimm(label_size=128 * KIB),)),
    "unarmed": Board((Dimm(unarmed=True),)),
    "cpu": Board(persistence=PersistenceDomain.EADR),
    "mem-ctrl": Board(persistence=PersistenceDomain.ADR),
    "slot": Board((Dimm(slot=3),)),
    "address": Board((Dimm(addr=0x1_4000_0000),)),
    "address-before-others": Board((Dimm(addr=0x1_0100_0000), Dimm(), Dimm(size=32 * MIB))),
    "node": Board((Dimm(node=1),), nodes=2),
    "large-ram": Board(ram=5 * GIB, maxmem=16 * GIB),
    "ram-at-the-split": Board(ram=0xB000_0000, maxmem=16 * GIB),
    "ram-below-the-split": Board(ram=0xAFF0_0000, maxmem=16 * GIB),
    "first-fit-behind-labels": Board((replace(FILE, label_size=128 * KIB), FILE, replace(FILE, align=2 * MIB))),
    "ids-and-slots": Board(
        (Dimm(id="zz", slot=2), Dimm(id="aa", slot=0), Dimm(slot=1)), persistence=PersistenceDomain.EADR
    ),
    "unnamed": Board(many([None] * 12), slots=16),
    "named": Board(many([f"nv{number}" for number in range(20)]), slots=32),
    "mixed": Board(many([None, "pmem-a", None, "b.2", "c_3", None, "Zebra", "nvdimm0"]), slots=8),
    "several-kinds": Board(
        (Dimm(id="a", unarmed=True), replace(FILE, id="b", label_size=2 * MIB, align=2 * MIB), Dimm(slot=7, node=1)),
        slots=8, nodes=2, persistence=PersistenceDomain.ADR,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BOARDS)
def test_nfit_equals_qemus(name: str, tmp_path: Path) -> None:
    board = BOARDS[name]
    theirs = table_of(qemu_tables(qemu_options(board, tmp_path), tmp_path), b"NFIT")
    assert theirs is not None
    assert nfit_table(our_entries(board), board.persistence).hex() == theirs.hex()


@pytest.mark.parametrize("seed", range(8))
def test_nfit_of_random_boards(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    count = chance.randint(1, 24)
    slots = chance.sample(range(32), count)
    dimms = tuple(
        Dimm(
            size=chance.randint(1, 8) * 2 * MIB,
            id=chance.choice((None, f"{chance.choice('abcXYZ')}{chance.randint(0, 10**6)}-{number}")),
            slot=slots[number],
            label_size=chance.choice((0, 0, 128 * KIB)) if chance.random() < 0.5 else 0,
            unarmed=chance.random() < 0.3,
            kind=chance.choice((BackendKind.RAM, BackendKind.FILE)),
        )
        for number in range(count)
    )
    dimms = tuple(replace(dimm, size=dimm.size + 2 * MIB) for dimm in dimms)
    board = Board(dimms, slots=32, persistence=chance.choice((None, *PersistenceDomain)))
    theirs = table_of(qemu_tables(qemu_options(board, tmp_path), tmp_path), b"NFIT")
    assert theirs is not None
    assert nfit_table(our_entries(board), board.persistence).hex() == theirs.hex()


def test_no_nvdimm_no_nfit(tmp_path: Path) -> None:
    tables = qemu_tables(qemu_options(Board(()), tmp_path), tmp_path)
    assert table_of(tables, b"NFIT") is None
    assert table_of(tables, b"SSDT", b"NVDIMM") is not None


def test_addresses_equal_query_memory_devices(tmp_path: Path) -> None:
    board = BOARDS["several-kinds"]
    with running_qemu([*qemu_options(board, tmp_path), "-S"], tmp_path) as qemu:
        theirs = {
            item["data"]["slot"]: (item["data"]["addr"], item["data"]["size"])
            for item in qemu.command("query-memory-devices")
        }
    assert {entry.slot: (entry.gpa, entry.size) for entry in our_entries(board)} == theirs


def test_iasl_reads_our_nfit(tmp_path: Path) -> None:
    iasl = require("iasl", "acpica-tools")
    board = BOARDS["several-kinds"]
    (tmp_path / "nfit.dat").write_bytes(nfit_table(our_entries(board), board.persistence))
    done = subprocess.run([iasl, "-d", "nfit.dat"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stderr.splitlines() if "error" in line.lower() or "warning" in line.lower()]
    text = (tmp_path / "nfit.dsl").read_text()
    assert text.count("[System Physical Address Range]") == 3
    assert "Platform Capabilities" in text
