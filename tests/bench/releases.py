"""Which release of Unicorn runs guests fastest: python -m tests.bench.releases [RELEASE ...]; needs pip.

Each release gets an environment of its own; the guest loops of ``bench_guest`` run on all of them in turn, under emu.
The first release named is the one that ratios refer to.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable
from pathlib import Path

from emu import guest
from tests.bench.bench_guest import LOOPS
from tests.bench.measure import interleaved, ratio, row, run

ROOT = Path(__file__).parents[2]


def environment(folder: Path, release: str) -> str:
    """The interpreter of a new environment with ``release`` and this checkout's emu."""
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    wanted = [f"unicorn=={release}", "cffi", "capstone>=5.0.3,<6"]
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "checkout.pth").write_text(f"{ROOT}\n")
    return python


def main() -> None:
    releases = sys.argv[1:] or ["2.1.3", "2.1.4"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pythons = {release: environment(folder / release, release) for release in releases}
        nvdimm = folder / "nvdimm"
        nvdimm.write_bytes(bytes(16 << 20))
        for loop, short, long in LOOPS:
            image = guest.find(loop)
            assert image is not None

            def command(python: str, rounds: str, name: str = loop) -> list[str]:
                words = [python, "-m", "emu.cli.main", "run", name, "--quiet"]
                return [*words, "--nvdimm", f"file={nvdimm}", "--append", rounds]

            makers: dict[str, Callable[[], float]] = {}
            for release, python in pythons.items():
                pair = command(python, long), command(python, short)
                makers[release] = lambda pair=pair: (  # type: ignore[misc]  # bound per release
                    run(pair[0]).wall - run(pair[1]).wall
                )
            figures = interleaved(makers, 5)
            for release in list(figures)[1:]:
                values = ratio(figures[release], figures[releases[0]])
                print(row(f"{loop}: time of {release} / time of {releases[0]}", values, "-"))


if __name__ == "__main__":
    main()
