"""``guest/lib`` is a library by itself: it builds with a plain compiler, that one's own headers, and without SSE."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from emu import guest
from emu.testing.commands import EMU

LIB = Path(guest.__file__).parent / "lib"
FLAGS = "-ffreestanding -fno-pic -fno-pie -fno-stack-protector -fcf-protection=none -mno-red-zone -mgeneral-regs-only"
LINK = "-nostdlib -static -no-pie -Wl,--build-id=none -Wl,-z,noexecstack -Wl,-z,max-page-size=4096"
MAIN = 'int main(int argc, char **argv) { printf("%s %05d|%f\\n", "n", 42, 1); return EXIT_FAILED; }'
PROGRAM = f'#include "guest.h"\n{MAIN}\n'


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc (on Debian: apt-get install gcc)")
def test_it_builds_with_the_hosts_headers_and_without_sse(tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text(PROGRAM)
    sources = [*sorted(LIB.glob("*.[cS]")), tmp_path / "main.c"]
    command = ["gcc", *FLAGS.split(), "-w", f"-I{LIB}", *LINK.split(), f"-Wl,-T,{LIB / 'link.ld'}", *map(str, sources)]
    subprocess.run([*command, "-o", str(tmp_path / "main.elf")], check=True, timeout=60)
    run = [*EMU, "run", "--quiet", str(tmp_path / "main.elf")]
    done = subprocess.run(run, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3
    assert done.stdout.splitlines() == ["n 00042|%f"]
