"""The command that boots an exported memory describes the machine of recovery: what its guest sees is compared."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from emu.cli import options
from emu.config import MachineConfig
from emu.persistence.report.export import command
from tests.integration.run_emu import emu

MACHINES = {
    "plain": "--nvdimm file={},size=2M",
    "an identity": "--nvdimm file={},size=2M,label-size=128K,uuid=12345678-9abc-def0-1234-56789abcdef0,id=pool",
    "a place": "--nvdimm file={},size=2M,slot=3,addr=0x120000000 -m 256M",
    "unarmed": "--nvdimm file={},size=2M,unarmed=on",
    "unarmed as it must be": "--nvdimm file={},size=2M,unarmed=auto",
    "an alignment": "--nvdimm file={},size=6M --nvdimm file={}-two,size=2M,align=2M",
    "eADR": "--nvdimm file={},size=2M -machine nvdimm-persistence=cpu",
    "ADR said": "--nvdimm file={},size=2M -machine nvdimm-persistence=mem-ctrl",
    "nodes": "--nvdimm file={},size=2M,node=1 -numa node -numa node",
    "little memory": "--nvdimm file={},size=2M -m 33000K",
    "slots": "--nvdimm file={},size=2M -m 128M,slots=5,maxmem=2G",
    "several, odd names": "--nvdimm file={},size=2M,slot=1 --nvdimm 'file={},, two',size=4M,slot=0,id=a",
    "read only": "--nvdimm file={},readonly=on,unarmed=on",
    "QEMU's words": "-machine q35,nvdimm=on -m 128M,slots=2,maxmem=1G -object "
    "memory-backend-file,id=m,share=on,mem-path={},size=2M -device nvdimm,memdev=m,id=n,label-size=128K",
}


def parsed(words: list[str]) -> MachineConfig:
    parser = argparse.ArgumentParser()
    options.add_arguments(parser)
    return options.machine_config(parser.parse_args(words), "nfit")


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_the_command_boots_the_same_machine(machine: str, tmp_path: Path) -> None:
    pool = tmp_path / "pool.img"
    pool.write_bytes(bytes(2 << 20) if "readonly" in machine else b"")
    words = shlex.split(machine.format(pool, pool))
    config = parsed(words)

    def seen(words: list[str]) -> tuple[str, ...]:
        """What the guest finds in the NFIT, and the tables that tell it of memory, nodes and devices."""
        nfit = emu("run", *words)
        assert nfit.status == 0, nfit
        tables = []
        for table in ("SSDT", "SRAT"):
            dumped = emu("acpi", "show", "--table", table, *words[1:])
            tables.append(dumped.out)
        return (nfit.out, *tables)

    before = seen(["nfit", *words])
    printed = command(config, [str(dimm.backend.path) for dimm in config.nvdimms])
    assert printed[:3] == ["emu", "run", "nfit"]
    assert seen(printed[2:]) == before
    assert "NFIT: " in before[0]
    again = parsed(printed[3:])
    for dimm, copy in zip(config.nvdimms, again.nvdimms, strict=True):
        assert copy == replace(dimm, backend=copy.backend)
        assert copy.backend.path == dimm.backend.path


def test_the_exit_ports_and_the_command_line_are_those_of_recovery() -> None:
    machine = "-device isa-debug-exit,iobase=0x501,iosize=2 -device isa-debug-exit,iobase=0xf4,iosize=1 -append 'a  b'"
    config = parsed(shlex.split(machine))
    assert (config.exit_ports, config.cmdline) == (((0x501, 2), (0xF4, 1)), "a  b")
    assert parsed(command(config, [])[3:]) == config
