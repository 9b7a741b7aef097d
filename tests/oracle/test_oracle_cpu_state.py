"""QEMU judges the CPU's state at power-on and after a reset, and its debug registers.

One guest prints what it can read, changes it and resets; another prints each debug exception.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from emu import guest
from emu.guest.toolchain import Compiler
from emu.testing.commands import EMU
from tests.oracle.qemu_run import Nvdimm, machine_options, run_emu, run_qemu
from tests.oracle.requirements import require

SOURCES = Path(__file__).parent / "cpu_state"
LIBRARY = Path(guest.__file__).parent / "lib"
_FLAGS = [
    *("-std=gnu11", "-Os", "-ffreestanding", "-fno-pic", "-fno-stack-protector", "-fno-asynchronous-unwind-tables"),
    *("-fcf-protection=none", "-mno-red-zone", "-mgeneral-regs-only", "-nostdlib", "-static", "-no-pie"),
    *("-Wl,--build-id=none", "-Wl,-z,noexecstack", "-Wl,-z,max-page-size=4096"),
]
_TIMEOUT_S = 120
_SURVIVES_A_RESET_THERE = ("MCG_CTL", "MC9_MISC")
"""Intel SDM volume 3, table 10-1: the machine-check registers are undefined at power-on and unchanged by a warm reset,
which QEMU obeys. A reset of emu is a power-on."""


def built(name: str, folder: Path) -> Path:
    """The guest of that name, with the library of the bundled ones."""
    compiler = require("gcc", "gcc")
    image = folder / f"{name}.elf"
    headers = Compiler(compiler).header_flags()
    command = [compiler, *headers, *_FLAGS, f"-I{LIBRARY}", f"-Wl,-T,{LIBRARY / 'link.ld'}", "-o", str(image)]
    subprocess.run([*command, str(SOURCES / f"{name}.c"), str(LIBRARY / "libguest.a")], check=True, timeout=_TIMEOUT_S)
    return image


def boots(command: list[str], image: Path, backing: Path) -> dict[str, list[str]]:
    """What the guest printed in boot 0, after its changes ("9"), and in boot 1: lines of names and values."""
    options = [word for word in machine_options(image, (Nvdimm(backing, "16M", ""),)) if word != "-no-reboot"]
    backing.write_bytes(bytes(16 << 20))
    result = subprocess.run([*command, *options], capture_output=True, text=True, timeout=_TIMEOUT_S)
    assert result.returncode == 0, result.stderr
    printed = re.findall(r"boot (\d): (.*?)\r?\n", result.stdout)
    return {boot: [line for number, line in printed if number == boot] for boot in "091"}


def without(lines: list[str], *names: str) -> list[str]:
    return [line for line in lines if not line.startswith(tuple(f"{name} " for name in names))]


def test_power_on_and_reset_as_in_qemu(tmp_path: Path) -> None:
    qemu, image = require("qemu-system-x86_64", "qemu-system-x86"), built("reset", tmp_path)
    theirs = boots([qemu, "-cpu", "Icelake-Server"], image, tmp_path / "qemu.img")
    ours = boots([*EMU, "run", "--quiet"], image, tmp_path / "emu.img")
    assert len(theirs["0"]) == 19
    assert ours["0"] == theirs["0"]
    # QEMU records no address of x87 instructions.
    assert [re.sub("FIP [0-9a-f]+", "FIP 0", line) for line in ours["9"]] == theirs["9"]
    assert all(before != after for before, after in zip(ours["0"], ours["9"], strict=True) if "MC0_" not in before)
    assert ours["1"] == ours["0"]
    assert without(ours["1"], *_SURVIVES_A_RESET_THERE) == without(theirs["1"], *_SURVIVES_A_RESET_THERE)


def test_debug_registers_as_in_qemu(tmp_path: Path) -> None:
    image = built("debug", tmp_path)
    theirs = run_qemu(image, cpu="Icelake-Server").serial.replace("\r", "")
    assert theirs.count("#DB") == 13
    assert theirs.endswith("end\n")
    assert run_emu(image).serial.replace("\r", "") == theirs
