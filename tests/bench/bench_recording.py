"""What recording costs: CPU time of recorded runs against plain runs of the same guest, and of the conversion.

Each figure is of a whole run up to HLT, the log in memory included, less that of one with a single round.
"""

from __future__ import annotations

import resource
import struct
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

from emu import board
from emu.config import MachineConfig
from emu.persistence.lab import recorder
from emu.persistence.model.rules import Rules
from emu.persistence.model.timeline import build
from tests.bench.bench_crash import BASE, machine
from tests.bench.measure import interleaved, ratio, row

RAM = 0x405000  # not in the same place of the TLB as the NVDIMM
PAIRS = 7
EVENTS = 10**6


@dataclass(frozen=True)
class Loop:
    """A guest of so many rounds (RCX): RBX is the NVDIMM, R8 64 KiB of RAM. Rounds of a recorded and of a plain run."""

    name: str
    code: str
    rounds: int
    plain_rounds: int
    target: str

    def image(self, folder: Path, rounds: int) -> MachineConfig:
        registers = ((b"\x48\xbb", BASE), (b"\x49\xb8", RAM), (b"\x48\xbc", RAM - 4096), (b"\x48\xb9", rounds))
        start = b"".join(opcode + struct.pack("<Q", value) for opcode, value in registers)
        path = folder / "loop.bin"
        path.write_bytes(start + bytes.fromhex(self.code))
        return machine(path)


LOOPS = (
    # 1: mov [rbx], rcx; mov [rbx+8], rcx ... mov [rbx+56], rcx; dec rcx; jnz 1b; hlt
    Loop(
        "8 stores of 8 bytes",
        "48890b48894b0848894b1048894b1848894b2048894b2848894b3048894b3848ffc975dcf4",
        100_000, 5_000_000, "5",
    ),
    # 1: mov rsi, r8; mov rdi, rbx; mov edx, 128
    # 2: mov rax, [rsi]; mov [rdi], rax ... mov rax, [rsi+24]; mov [rdi+24], rax; add rsi, 32; add rdi, 32
    #    dec edx; jnz 2b; dec rcx; jnz 1b; hlt
    Loop(
        "copy of 4 KiB from RAM by 8-byte moves",
        "4c89c64889dfba80000000488b06488907488b460848894708488b461048894710488b4618488947184883c6204883c720ffca75d648ff"
        "c975c6f4",
        1_500, 50_000, "4",
    ),
    # 1: mov rdi, rbx; mov rsi, r8; mov rdx, rcx; mov ecx, 512; rep movsq; mov rcx, rdx; dec rcx; jnz 1b; hlt
    Loop(
        "copy of 4 KiB from RAM by REP MOVSQ",
        "4889df4c89c64889cab900020000f348a54889d148ffc975e7f4",
        1_500, 50_000, "4",
    ),
    # r10 = rbx
    # 1: twelve times 16 instructions that hash a table in RAM, with two stores there; 8 stores to [r10]; clwb [r10]
    #    sfence; r10 goes round in 1 MiB; dec rcx; jnz 1b; hlt. 202 instructions in a round.
    Loop(
        "8 stores, CLWB and SFENCE among 202 instructions",
        "4989daba0c0000004989c94d69c995e9d15b4c89c848c1e80f4931c14c89ce81e6f8ff0000498b04304c01c848c1c00d498904304d034c"
        "30404931c1498d3c4148897c24c0ffca75c249890a4d894a084989421049897a18498972204d894a284989423049894a3866410fae320f"
        "aef84983c2404181e2ffff0f004901da48ffc97580f4",
        80_000, 400_000, "1.7",
    ),
)  # fmt: skip


def seconds(config: MachineConfig, *, recorded: bool, by_hooks: bool = False) -> float:
    """CPU seconds of one run."""
    with board.build(config, board.Outputs()) as built:
        recording = recorder.Recording(built, log_limit=1 << 26) if recorded else None
        if recording is not None:
            recording.start(by_hooks=by_hooks)
        began = time.process_time()
        ended = built.run()
        spent = time.process_time() - began
        assert ended.reason == "halt", ended
        if recording is not None:
            assert recording.tracer.count >= 8
            built.cpu.close()
            recording.tracer.close()
        return spent


def per_round(loop: Loop, folder: Path, *, recorded: bool, by_hooks: bool = False) -> float:
    rounds = loop.rounds if recorded else loop.plain_rounds
    if by_hooks:
        rounds //= 10
    whole, start = (
        seconds(loop.image(folder, count), recorded=recorded, by_hooks=by_hooks) for count in (rounds + 1, 1)
    )
    return (whole - start) / rounds


def conversion(folder: Path) -> None:
    """A million stores: recorded, as events, as a timeline."""
    config = LOOPS[0].image(folder, EVENTS // 8)
    with board.build(config, board.Outputs()) as built:
        recording = recorder.Recording(built, log_limit=1 << 26)
        recording.start()
        times = [time.process_time()]
        built.run()
        times.append(time.process_time())
        events, _ = recording.columns()
        times.append(time.process_time())
        build(events, Rules())
        times.append(time.process_time())
        built.cpu.close()
        recording.tracer.close()
    run, convert, model = (after - before for before, after in pairwise(times))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"  {EVENTS} stores: recorded in {run:.2f} s, converted in {convert:.2f} s, timeline built in {model:.2f} s, "
          f"peak {peak} MiB   target 5 s, 500 MB")  # fmt: skip


def main() -> None:
    print("recorded run / plain run, CPU time")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for loop in LOOPS:
            figures = interleaved(
                {
                    "plain": partial(per_round, loop, folder, recorded=False),
                    "recorded": partial(per_round, loop, folder, recorded=True),
                    "hooks": partial(per_round, loop, folder, recorded=True, by_hooks=True),
                },
                PAIRS,
            )  # fmt: skip
            print("  " + row(loop.name, ratio(figures["recorded"], figures["plain"]), loop.target))
            print("  " + row("  by hooks", ratio(figures["hooks"], figures["plain"]), "none"))
        conversion(folder)


if __name__ == "__main__":
    main()
