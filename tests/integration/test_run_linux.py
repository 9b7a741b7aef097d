"""What `emu run linux` refuses: one clear message, the right status, and not a byte written."""

from __future__ import annotations

from pathlib import Path

import pytest

from emu.linux import kernel
from tests.integration.run_emu import emu, refused

EXEC = ("--exec", "cat /pmem/a")


@pytest.fixture(autouse=True)
def _kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with a kernel's setup header and no modules: enough for everything before the start."""
    head = bytearray(0x600)
    head[0x202:0x206] = b"HdrS"
    (tmp_path / "kernel").write_bytes(head)
    monkeypatch.setenv(kernel.VARIABLE, str(tmp_path / "kernel"))


def refusal(status: int, tmp_path: Path, *words: str | Path) -> str:
    """The message of a run that leaves no new file behind."""
    before = sorted(path.name for path in tmp_path.iterdir())
    message = refused(status, "linux", *words)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    return message


def test_what_is_no_kernel(tmp_path: Path) -> None:
    message = refusal(2, tmp_path, "--kernel", "/etc/passwd", *EXEC, "--nvdimm", f"file={tmp_path / 'p'},size=64M")
    assert "/etc/passwd is not a Linux kernel" in message


def test_kernel_that_is_not_there(tmp_path: Path) -> None:
    assert "/no/kernel: cannot read the kernel" in refusal(2, tmp_path, "--kernel", "/no/kernel", *EXEC)


def test_damaged_kernel_leaves_no_file(tmp_path: Path) -> None:
    message = refusal(2, tmp_path, "--nvdimm", f"file={tmp_path / 'p'},size=64M", *EXEC)
    assert "kernel of boot protocol 0.00" in message


def test_nvdimm_too_small(tmp_path: Path) -> None:
    for words in (("--fs", "xfs"), ()):
        message = refusal(2, tmp_path, *words, "--nvdimm", f"file={tmp_path / 'p'},size=4M", *EXEC)
        assert "p: 4 MiB are too small for" in message


def test_no_mkfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr("emu.linux.namespaces._MKFS_FOLDERS", ())
    from emu.cli.main import main

    status = main(["run", "linux", "--nvdimm", f"file={tmp_path / 'p'},size=64M", "--exec", "/bin/cat"])
    assert status == 4
    assert not (tmp_path / "p").exists()


def test_data_of_others_is_kept(tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(b"precious" * (1 << 20))
    assert "holds data" in refusal(2, tmp_path, "--nvdimm", f"file={tmp_path / 'p'}", *EXEC)
    assert (tmp_path / "p").read_bytes() == b"precious" * (1 << 20)


def test_programs_that_cannot_run(tmp_path: Path) -> None:
    head = bytearray(Path("/bin/cat").read_bytes()[:64])
    head[18:20] = (183).to_bytes(2, "little")
    (tmp_path / "arm").write_bytes(head)
    (tmp_path / "arm").chmod(0o755)
    assert "another architecture: AArch64" in refusal(2, tmp_path, "--exec", str(tmp_path / "arm"))
    assert "no program 'no-such-program'" in refusal(2, tmp_path, "--exec", "no-such-program -x")
    assert "cannot read /no/file" in refusal(2, tmp_path, *EXEC, "--add", "/no/file")
    assert "not an absolute path" in refusal(2, tmp_path, *EXEC, "--add", "/etc/passwd:here")


@pytest.mark.parametrize(
    "words", [("-initrd", "x"), ("--incoming", "tcp:127.0.0.1:0"), ("--power-fail-at", "3"), ("--debugcon", "stdio")]
)
def test_options_of_other_guests(tmp_path: Path, words: tuple[str, ...]) -> None:
    assert "does not go with the image 'linux'" in refusal(2, tmp_path, *words, *EXEC)


def test_options_of_linux_with_other_guests() -> None:
    for words in (EXEC, ("--fs", "ext4"), ("--add", "/etc/passwd")):
        assert "are for a Linux guest" in refused(2, "hello", *words)


def test_path_called_linux_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "linux").write_bytes(b"\xf4")  # hlt: a flat image
    assert emu("run", "linux", "--quiet").status == 0
