"""Guest speed: emu against bare Unicorn and against QEMU's TCG, on the same images.

The figure is the time that N more rounds of a loop take (long run minus short run), so that start-up does not count.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from emu import guest
from tests.bench.measure import interleaved, ratio, row, run

HERE = Path(__file__).parent
# (guest, rounds of the short run, rounds of the long run)
LOOPS = (
    ("bench-store", "10000000", "150000000"),
    ("bench-copy", "50000", "1200000"),
    ("bench-alu", "50000000", "600000000"),
    ("bench-call", "27", "37"),
)


def commands(image: str, nvdimm: str, rounds: str) -> dict[str, list[str]]:
    """The same guest with the same NVDIMM on each of the three."""
    found = {
        "emu": [
            sys.executable,
            "-m",
            "emu.cli.main",
            "run",
            image,
            "--quiet",
            "--nvdimm",
            f"file={nvdimm}",
            "--append",
            rounds,
        ],
        "unicorn": [sys.executable, "-m", "tests.bench.bare_unicorn", image, nvdimm, rounds],
    }
    if qemu := shutil.which("qemu-system-x86_64"):
        found["qemu"] = [
            qemu, "-machine", "q35,nvdimm=on,accel=tcg", "-m", "128M,slots=1,maxmem=1G", "-nodefaults",
            "-display", "none", "-no-reboot", "-serial", "stdio",
            "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04", "-kernel", image,
            "-append", rounds, "-object", f"memory-backend-file,id=m,share=on,mem-path={nvdimm},size=16M",
            "-device", "nvdimm,memdev=m",
        ]  # fmt: skip
    return found


def main(rounds: int = 5) -> None:
    print("guest speed, as peer's time / emu's time (above 1: emu is faster)")
    with tempfile.TemporaryDirectory() as folder:
        nvdimm = Path(folder) / "nvdimm"
        nvdimm.write_bytes(bytes(16 << 20))
        for name, short, long in LOOPS:
            image = guest.find(name)
            assert image is not None
            pairs = {
                peer: (commands(str(image.path), str(nvdimm), short)[peer], command)
                for peer, command in commands(str(image.path), str(nvdimm), long).items()
            }
            makers: dict[str, Callable[[], float]] = {
                peer: lambda pair=pair: run(pair[1]).wall - run(pair[0]).wall  # type: ignore[misc]  # bound per peer
                for peer, pair in pairs.items()
            }
            figures = interleaved(makers, rounds)
            print(row(f"{name}: bare Unicorn", ratio(figures["unicorn"], figures["emu"]), ">= 0.95"))
            if "qemu" in figures:
                print(row(f"{name}: QEMU TCG", ratio(figures["qemu"], figures["emu"]), ">= 0.75"))


if __name__ == "__main__":
    main()
