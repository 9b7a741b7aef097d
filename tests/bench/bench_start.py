"""Start to exit of the smallest useful guest with an NVDIMM, and peak memory: emu against QEMU's q35."""

from __future__ import annotations

import compileall
import shutil
import tempfile
from pathlib import Path

from emu import guest
from tests.bench.bench_guest import commands
from tests.bench.measure import interleaved, ratio, row, run

PROJECT = Path(__file__).parents[2]


def main(rounds: int = 11) -> None:
    # An installation comes with its byte code; a clone may have none, and the figure would be the compiler's.
    for package in ("emu", "devices", "guest"):
        compileall.compile_dir(PROJECT / package, quiet=2)
    image = guest.find("hello")
    assert image is not None
    with tempfile.TemporaryDirectory() as folder:
        nvdimm = Path(folder) / "nvdimm"
        nvdimm.write_bytes(bytes(16 << 20))
        found = commands(str(image.path), str(nvdimm), "")
        if shutil.which("qemu-system-x86_64") is None:
            print("start to exit: QEMU is not installed, so there is no peer (Debian: apt-get install qemu-system-x86)")
            return
        peaks: dict[str, list[float]] = {"emu": [], "qemu": []}

        def once(peer: str) -> float:
            ended = run(found[peer])
            peaks[peer].append(ended.peak)
            return ended.wall

        walls = interleaved({"emu": lambda: once("emu"), "qemu": lambda: once("qemu")}, rounds)
        seconds = {peer: sorted(values)[len(values) // 2] for peer, values in walls.items()}
        emu, qemu = seconds["emu"] * 1000, seconds["qemu"] * 1000
        print(f"hello with an NVDIMM, start to exit: emu {emu:.0f} ms, QEMU {qemu:.0f} ms")
        print(row("start to exit: emu / QEMU", ratio(walls["emu"], walls["qemu"]), "<= 2"))
        print(row("peak memory: emu / QEMU", ratio(peaks["emu"], peaks["qemu"]), "<= 1"))


if __name__ == "__main__":
    main()
