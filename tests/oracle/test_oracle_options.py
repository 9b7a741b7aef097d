"""QEMU's own word on how options are written: which words are booleans, where one may stand alone."""

from __future__ import annotations

import subprocess

import pytest

from emu.cli import keyval
from emu.cli.options import DEVICE_KEYS, MACHINE_KEYS, OBJECT_KEYS
from emu.errors import UsageError
from tests.oracle.requirements import require

WORDS = ["on", "off", "yes", "no", "true", "false", "y", "n", "On", "YES", "True", "N", "1", "0", "", "auto", "onn"]
MACHINE = "q35,nvdimm=on"
OBJECT = "memory-backend-ram,id=m,size=8M"
DEVICE = "nvdimm,memdev=m"


def qemu_takes(machine: str, backend: str, device: str) -> bool:
    """Whether QEMU sets such a machine up. It is told to quit at once."""
    command = [
        require("qemu-system-x86_64", "qemu-system-x86"),
        "-display",
        "none",
        "-nodefaults",
        "-S",
        "-monitor",
        "stdio",
        "-m",
        "64M,slots=2,maxmem=1G",
    ]
    command += ["-machine", machine, "-object", backend, "-device", device]
    ran = subprocess.run(command, input=b"quit\n", capture_output=True, timeout=60)
    return ran.returncode == 0


def emu_takes(machine: str, backend: str, device: str) -> bool:
    try:
        keyval.parse(machine, MACHINE_KEYS, option="-machine", implied="type")
        keyval.parse(backend, OBJECT_KEYS, option="-object", implied="qom-type", short=True)
        keyval.parse(device, DEVICE_KEYS, option="-device", implied="driver", short=True)
    except UsageError:
        return False
    return True


@pytest.mark.parametrize("word", WORDS)
def test_words_for_a_boolean(word: str) -> None:
    for machine, backend, device in (
        (f"q35,nvdimm={word}", OBJECT, DEVICE),
        (MACHINE, f"{OBJECT},share={word}", DEVICE),
        (MACHINE, OBJECT, f"{DEVICE},unarmed={word}"),
    ):
        # nvdimm=off: both take the words, and then refuse the device; unarmed=auto is emu's own.
        if machine == f"q35,nvdimm={word}":
            machine += ",nvdimm=on"
        if word == "auto" and "unarmed" in device:
            continue
        assert emu_takes(machine, backend, device) == qemu_takes(machine, backend, device), (machine, backend, device)


@pytest.mark.parametrize(
    ("machine", "backend", "device"),
    [
        (MACHINE, f"{OBJECT},share", DEVICE),
        (MACHINE, f"{OBJECT},noshare", DEVICE),
        (MACHINE, f"{OBJECT},nosuch", DEVICE),
        (MACHINE, OBJECT, f"{DEVICE},unarmed"),
        (MACHINE, OBJECT, f"{DEVICE},nounarmed"),
        (MACHINE, OBJECT, f"{DEVICE},slot"),
        ("q35,nvdimm", OBJECT, DEVICE),
        ("q35,nonvdimm", OBJECT, DEVICE),
    ],
)
def test_a_boolean_alone(machine: str, backend: str, device: str) -> None:
    assert emu_takes(machine, backend, device) == qemu_takes(machine, backend, device)
