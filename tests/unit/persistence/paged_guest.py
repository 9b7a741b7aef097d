"""Small guests with page tables of their own, which show pages of the NVDIMM in any order."""

from __future__ import annotations

import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from emu.config import BackendConfig, BackendKind, MachineConfig, NvdimmConfig
from emu.units import GIB, MIB, PAGE

BASE, SIZE = 4 * GIB, 2 * MIB
# In the image: code, and page tables that show memory as it is, and in WINDOW the pages that are asked for.
CODE, TABLES, WINDOW = 0x100000, 0x104000, 1 << 30
SCRATCH, STACK = 0x200000, 0x300000
PRESENT, LARGE = 3, 0x80
SHOW = bytes.fromhex("66baf803ee")
"""Send AL to the serial port: mov dx, 0x3f8; out dx, al."""
START = b"\xb8" + struct.pack("<I", TABLES) + b"\x0f\x22\xd8"  # mov eax, TABLES; mov cr3, rax
AT, BEHIND = CODE + len(START), CODE + 0x1000
"""Where the code begins that is asked for, and where more of it can be, on a page of its own."""


def image(code: bytes, window: Sequence[int], *, rights: int = PRESENT, behind: bytes = b"") -> bytes:
    """A guest that executes ``code``, and halts, with WINDOW at these guest-physical pages. At BEHIND is what is
    ``behind`` it.
    """
    tables = [[0] * 512 for _ in range(5)]
    address = [TABLES + PAGE * number for number in range(5)]
    tables[0][0] = address[1] | rights
    tables[1][:5] = [address[2] | rights, address[3] | rights, 0, 0, BASE | rights | LARGE]
    tables[2][:8] = [number << 21 | rights | LARGE for number in range(8)]
    tables[3][0] = address[4] | rights
    tables[4][: len(window)] = [page | rights for page in window]
    code = START + code + b"\xf4"
    if behind:
        code = code.ljust(BEHIND - CODE, b"\x90") + behind
    return code.ljust(TABLES - CODE, b"\x90") + b"".join(struct.pack("<512Q", *table) for table in tables)


def set_registers(**values: int) -> bytes:
    numbers = {"rax": 0, "rcx": 1, "rdx": 2, "rbx": 3, "rsp": 4, "rbp": 5, "rsi": 6, "rdi": 7}
    return b"".join(bytes((0x48, 0xB8 | numbers[name])) + struct.pack("<Q", value) for name, value in values.items())


def machine(image: Path, backend: BackendConfig | None = None) -> MachineConfig:
    backend = backend or BackendConfig(id="m", kind=BackendKind.RAM, size=SIZE)
    return MachineConfig(image=str(image), slots=1, nvdimms=(NvdimmConfig(backend=backend),), ram_size=16 * MIB)


def assembled(text: str, at: int = AT) -> bytes:
    """Machine code for address ``at``, by GNU as, in Intel's syntax."""
    missing = [tool for tool in ("as", "ld") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"needs {' and '.join(missing)} (on Debian: apt-get install binutils)")
    with tempfile.TemporaryDirectory() as folder:
        source, made, code = (str(Path(folder) / name) for name in ("source.s", "object.o", "code.bin"))
        Path(source).write_text(f".intel_syntax noprefix\n.code64\n{text}\n")
        subprocess.run(["as", "--64", "-o", made, source], check=True)
        subprocess.run(["ld", f"-Ttext={at:#x}", "-e", "0", "--oformat", "binary", "-o", code, made], check=True)
        return Path(code).read_bytes()
