"""What the guest finds at its start: the host's programs where the host has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from emu.linux import programs
from emu.linux.cpio import files
from emu.linux.initramfs import Plan, build
from emu.linux.kernel import Kernel, Modules
from emu.linux.protocol import Role


def disk(command: str) -> bytes:
    plan = Plan((), {Role.EXEC: programs.command(command, "--exec")})
    return build(plan, Modules(Kernel("k", "6.1", None)))


def environment(archive: bytes) -> dict[str, str]:
    plan = dict(files(archive))["/emu/plan"].decode().split("\0")
    return dict(record[1:].split("=", 1) for record in plan if record.startswith("e"))


@pytest.mark.skipif(not Path("/bin").is_symlink(), reason="this host has not merged /bin into /usr/bin")
def test_folders_that_the_host_has_merged_are_merged() -> None:
    archive = disk("/bin/cat /bin/true")
    assert b"\0bin\0\0\0usr/bin\0" in archive.replace(b"00000000bin", b"\0bin")  # the name, its padding, where to
    assert "/usr/bin/cat" in dict(files(archive))
    assert "/bin/cat" not in dict(files(archive))


def test_a_program_is_found_in_the_guest_by_the_name_that_it_has_in_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A virtual environment's python, say: the shell looks for it in the guest's PATH."""
    (tmp_path / "tool").write_text("#!/bin/sh\n")
    (tmp_path / "tool").chmod(0o755)
    monkeypatch.setenv("PATH", f"/no/such:{tmp_path}:{programs.DEFAULT_PATH}")
    archive = disk("tool | cat")
    assert str(tmp_path / "tool") in dict(files(archive))
    assert environment(archive)["PATH"] == f"{tmp_path}:{programs.DEFAULT_PATH}"
    assert environment(disk("cat | cat"))["PATH"] == programs.DEFAULT_PATH
