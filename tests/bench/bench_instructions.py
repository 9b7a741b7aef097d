"""What emu's own x87 and SSE instructions cost, against those of bare Unicorn: nanoseconds each, in a loop."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

from tests.bench.measure import interleaved, ratio, row

ROUNDS = 500_000
# Intel syntax, code; RBX points to the double 1.000001 (and then 0.5).
INSTRUCTIONS = {
    "addsd xmm0, [rbx]": "f20f5803",
    "mulpd xmm0, xmm1": "660f59c1",
    "sqrtsd xmm2, [rbx]": "f20f5113",
    "movaps xmm1, [rbx]": "0f280b",
    "paddb xmm1, [rbx]": "660ffc0b",
    "fadd st, st(1)": "d8c1",
    "fadd qword [rbx]": "dc03",
    "fsqrt": "d9fa",
    "fsin": "d9fe",
}
# Two processes run this; one loads the library through emu first, which brings emu's own instructions with it.
_PROGRAM = """
import struct, sys, time
code, rounds, owner = bytes.fromhex(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
if owner == "emu":
    from emu.cpu.engine import library
    library.load()
from unicorn import UC_ARCH_X86, UC_MODE_64, Uc, x86_const
uc = Uc(UC_ARCH_X86, UC_MODE_64)
uc.mem_map(0x1000, 0x2000)
loop = code + b"\\xff\\xc9\\x0f\\x85" + struct.pack("<i", -len(code) - 8)
program = b"\\xdb\\xe3\\xd9\\xe8\\xd9\\xe8" + loop  # fninit; fld1; fld1
uc.mem_write(0x1000, program)
uc.mem_write(0x2000, struct.pack("<dd", 1.000001, 0.5))
uc.reg_write(x86_const.UC_X86_REG_RBX, 0x2000)
uc.reg_write(x86_const.UC_X86_REG_RCX, rounds)
uc.reg_write(x86_const.UC_X86_REG_MXCSR, 0x1F80)
began = time.process_time()
uc.emu_start(0x1000, 0x1000 + len(program))
print((time.process_time() - began) / rounds * 1e9)
"""


def _cost(code: str, owner: str) -> float:
    command = [sys.executable, "-c", _PROGRAM, code, str(ROUNDS), owner]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main(rounds: int = 5) -> None:
    print("time of one instruction with its loop, emu / bare Unicorn")
    for text, code in INSTRUCTIONS.items():
        figures = interleaved({owner: partial(_cost, code, owner) for owner in ("emu", "unicorn")}, rounds)
        nanoseconds = "{:.0f} and {:.0f} ns".format(*(min(figures[owner]) for owner in ("emu", "unicorn")))
        print(row(text, ratio(figures["emu"], figures["unicorn"]), "-"), nanoseconds)


if __name__ == "__main__":
    main()
