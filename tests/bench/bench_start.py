"""Start to exit of the smallest useful guest with an NVDIMM, and peak memory: emu against QEMU's q35.

By the clock and by the processors' time: on a busy machine the latter says more.
"""

from __future__ import annotations

import compileall
import shutil
import sys
import tempfile
from pathlib import Path
from statistics import median

from emu import guest
from tests.bench.bench_guest import commands
from tests.bench.measure import Run, interleaved, ratio, row, run

PROJECT = Path(__file__).parents[2]


def main(rounds: int = 21) -> None:
    # An installation comes with its byte code; a clone may have none, and the figure would be the compiler's.
    for package in ("emu", "devices", "guest"):
        compileall.compile_dir(PROJECT / package, quiet=2)
    image = guest.find("hello")
    assert image is not None
    with tempfile.TemporaryDirectory() as folder:
        nvdimm = Path(folder) / "nvdimm"
        nvdimm.write_bytes(bytes(16 << 20))
        found = commands(str(image.path), str(nvdimm), "")
        # The command as it is installed; ``python -m`` imports what that does not.
        found["emu"][:3] = [str(Path(sys.executable).with_name("emu"))]
        if shutil.which("qemu-system-x86_64") is None:
            print("start to exit: QEMU is not installed, so there is no peer (Debian: apt-get install qemu-system-x86)")
            return
        ended: dict[str, list[Run]] = {"emu": [], "qemu": []}

        def once(peer: str) -> float:
            ended[peer].append(run(found[peer]))
            return ended[peer][-1].wall

        walls = interleaved({"emu": lambda: once("emu"), "qemu": lambda: once("qemu")}, rounds)
        counted = {peer: runs[-rounds:] for peer, runs in ended.items()}
        processor = {peer: [one.cpu for one in runs] for peer, runs in counted.items()}
        peaks = {peer: [float(one.peak) for one in runs] for peer, runs in counted.items()}
        for what, seconds in (("start to exit", walls), ("processor time", processor)):
            emu, qemu = (median(seconds[peer]) * 1000 for peer in ("emu", "qemu"))
            print(f"hello with an NVDIMM, {what}: emu {emu:.0f} ms, QEMU {qemu:.0f} ms")
        print(row("start to exit: emu / QEMU", ratio(walls["emu"], walls["qemu"]), "<= 0.95"))
        print(row("processor time: emu / QEMU", ratio(processor["emu"], processor["qemu"]), "<= 0.95"))
        print(row("peak memory: emu / QEMU", ratio(peaks["emu"], peaks["qemu"]), "<= 1"))


if __name__ == "__main__":
    main()
