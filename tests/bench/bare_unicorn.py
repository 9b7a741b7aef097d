"""The same guest image on Unicorn's own Python binding and nothing else: the peer for guest speed.

usage: bare_unicorn.py IMAGE NVDIMM_FILE COMMAND_LINE

The image, the ACPI tables and the NVDIMM lie where emu puts them; ports are callbacks that print COM1 and
end at the exit port or at power-off. No memory hook, no time slices.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from pathlib import Path

from unicorn import UC_ARCH_X86, UC_HOOK_INSN, UC_MODE_32, UC_PROT_ALL, Uc, x86_const

from emu import board
from emu.cli import run as run_verb
from emu.cli.parser import build_parser
from emu.entry import Protected32

_RAM = 128 << 20
_NVDIMM = 0x1_0000_0000


def main() -> None:
    image, nvdimm, cmdline = sys.argv[1:]
    words = ["run", image, "--nvdimm", f"file={nvdimm},share-lock=on", "--append", cmdline]
    config = run_verb.configuration(build_parser("run").parse_args(words))
    with board.build(config, board.Outputs()) as machine:
        entry = machine.firmware.start()
        assert isinstance(entry, Protected32)
        memory = mmap.mmap(-1, _RAM)
        memory.write(machine.memory.read(0, _RAM))
    with Path(nvdimm).open("r+b") as file:
        pmem = mmap.mmap(file.fileno(), 0)
    uc = Uc(UC_ARCH_X86, UC_MODE_32, x86_const.UC_CPU_X86_ICELAKE_SERVER)
    for gpa, mapping in ((0, memory), (_NVDIMM, pmem)):
        address = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
        uc.mem_map_ptr(gpa, len(mapping), UC_PROT_ALL, address)

    def out(engine: Uc, port: int, size: int, value: int, data: object) -> None:
        if port == 0x3F8:
            sys.stdout.write(chr(value & 0xFF))
        elif port in (0xF4, 0x604):
            engine.emu_stop()

    def read(engine: Uc, port: int, size: int, data: object) -> int:
        return 0x60 if port == 0x3FD else 0

    uc.hook_add(UC_HOOK_INSN, out, aux1=x86_const.UC_X86_INS_OUT)
    uc.hook_add(UC_HOOK_INSN, read, aux1=x86_const.UC_X86_INS_IN)
    gdt = 0x500
    flat = b"".join(value.to_bytes(8, "little") for value in (0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF))
    uc.mem_write(gdt, flat)
    uc.reg_write(x86_const.UC_X86_REG_GDTR, (0, gdt, len(flat) - 1, 0))
    uc.reg_write(x86_const.UC_X86_REG_CR0, 0x11)
    for register in ("DS", "ES", "SS", "FS", "GS"):
        uc.reg_write(getattr(x86_const, f"UC_X86_REG_{register}"), 0x10)
    uc.reg_write(x86_const.UC_X86_REG_CS, 0x08)
    uc.reg_write(x86_const.UC_X86_REG_EAX, entry.eax)
    uc.reg_write(x86_const.UC_X86_REG_EBX, entry.ebx)
    uc.emu_start(entry.eip, 0)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
