"""Command lines become the machine they describe, in either spelling."""

import argparse
import shlex

import pytest

from emu.cli import options
from emu.config import BackendKind, MachineConfig, OnOffAuto, PersistenceDomain
from emu.errors import UsageError


def parse(line: str) -> MachineConfig:
    parser = argparse.ArgumentParser()
    options.add_arguments(parser)
    return options.machine_config(parser.parse_args(shlex.split(line)), "guest.elf")


def test_short_form() -> None:
    machine = parse("--nvdimm file=f,size=64M,sync=on,label-size=128K,unarmed=auto,id=n -m 256M")
    (dimm,) = machine.nvdimms
    assert (dimm.backend.path, dimm.backend.size, dimm.backend.sync, dimm.backend.share) == (
        "f",
        64 << 20,
        OnOffAuto.ON,
        True,
    )
    assert (dimm.label_size, dimm.unarmed, dimm.id, machine.ram_size) == (128 << 10, OnOffAuto.AUTO, "n", 256 << 20)
    assert machine.nvdimm_enabled
    assert machine.slots == 1


def test_pasted_qemu_line_means_the_same() -> None:
    machine = parse(
        "-machine q35,nvdimm=on,nvdimm-persistence=cpu -m 4G,slots=4,maxmem=32G -kernel x -nodefaults -display none "
        "-object memory-backend-file,id=mem1,share=on,mem-path=/dev/dax0.0,size=4G,align=2M,pmem=on "
        "-object memory-backend-ram,id=mem2,size=1G "
        "-device nvdimm,id=nv1,memdev=mem1,slot=2 -device nvdimm,memdev=mem2 "
        "-device isa-debug-exit,iobase=0xf4,iosize=0x04"
    )
    first, second = machine.nvdimms
    assert (first.backend.id, first.backend.path, first.backend.align, first.backend.pmem) == (
        "mem1",
        "/dev/dax0.0",
        2 << 20,
        True,
    )
    assert (second.backend.kind, second.backend.share) == (BackendKind.RAM, False)
    assert (machine.slots, machine.max_memory, machine.persistence) == (4, 32 << 30, PersistenceDomain.EADR)
    assert machine.exit_ports == ((0xF4, 4),)


def test_share_defaults_differ_as_documented() -> None:
    assert parse("--nvdimm f").nvdimms[0].backend.share
    long = parse("-object memory-backend-file,id=a,mem-path=f,size=1M -device nvdimm,memdev=a -m 64M,slots=1,maxmem=1G")
    assert not long.nvdimms[0].backend.share


def test_a_bare_number_after_m_is_mebibytes() -> None:
    assert parse("-m 64").ram_size == 64 << 20
    assert parse("-m size=64,slots=1,maxmem=1G").ram_size == 64 << 20


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--nvdimm size=1M", "no file given"),
        ("-device nvdimm,memdev=a", "no memory backend 'a'"),
        ("-device nvdimm", "'memdev' property must be set"),
        ("-device e1000", "'e1000' is not a device"),
        ("-object memory-backend-ram,id=a,size=1M,sync=on", "invalid parameter 'sync'"),
        ("-object memory-backend-file,id=a,size=1M", "'mem-path' is missing"),
        ("-object memory-backend-file,size=1M", "'id' is missing"),
        ("-object memory-backend-file,id=a,mem-path=f", "parameter 'size'"),
        ("-object thread-context,id=a", "qom-type takes"),
        ("-m 64M,slots=2", "slots specified but no maxmem"),
        ("-m 2G,slots=1,maxmem=1G", "smaller than the RAM"),
        ("-m 1K", "out of range"),
        ("-m 999G", "out of range"),
        ("-smp 4", "one CPU"),
        ("-machine microvm", "unsupported machine type"),
        ("-machine q35,nvdimm-persistence=all", "takes cpu, mem-ctrl"),
        ("--nvdimm f,uuid=x", "not a UUID"),
        ("-object memory-backend-ram,id=a,size=1M -object memory-backend-ram,id=a,size=1M", "duplicate id"),
        ("-object memory-backend-ram,id=a,size=1M -device nvdimm,memdev=a -device nvdimm,memdev=a", "busy memdev"),
    ],
)
def test_what_does_not_fit_together_is_said(line: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(line)
