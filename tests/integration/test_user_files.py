"""The files that a command writes: no input among them, nothing that is no file replaced, none left by a refusal."""

from __future__ import annotations

import os
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from emu.memory import incomplete
from tests.integration.qmp_machine import Emu
from tests.integration.run_emu import EMU, PATIENCE_S, emu

HALT = b"\xf4"
SAY_A = bytes.fromhex("66baf803b041eef4")  # 'A' to COM1; hlt
SPIN = b"\xeb\xfe"
MIB = 1 << 20


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "guest.bin"
    path.write_bytes(SAY_A)
    return path


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """An NVDIMM of 2 MiB that is not all zeros."""
    path = tmp_path / "pool.img"
    path.write_bytes(bytes(range(256)) * (2 * MIB // 256))
    return path


def entries(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def node(path: Path) -> Path:
    """A null device of our own at ``path``; never the system's."""
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except OSError:
        pytest.skip("only root may make device nodes; run the tests as root")
    return path


# -- an output is no input -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pool.img", "./sub/../pool.img", "symbolic", "hard", "/dev/fd/9", "guest.bin"])
@pytest.mark.parametrize("option", ["-serial", "-debugcon"])
def test_the_guests_output_is_no_input(option: str, name: str, image: Path, pool: Path) -> None:
    folder = pool.parent
    (folder / "sub").mkdir()
    (folder / "symbolic").symlink_to(pool)
    (folder / "hard").hardlink_to(pool)
    before = pool.read_bytes()
    inside = ("sh", "-c", f'cd "{folder}" && exec 9<>pool.img && exec "$0" "$@"')
    result = emu("run", image, "--nvdimm", "file=pool.img", option, f"file:{name}", under=inside)
    assert (result.status, result.out) == (2, "")
    assert name in result.errors[0]
    assert ("guest.bin" if name == "guest.bin" else "pool.img") in result.errors[0]
    assert pool.read_bytes() == before
    assert image.read_bytes() == SAY_A


def test_the_standard_output_is_no_nvdimm_and_two_outputs_are_two_files(image: Path, pool: Path) -> None:
    before = pool.read_bytes()
    into_it = ("sh", "-c", f'exec "$0" "$@" 1<>"{pool}"')
    result = emu("run", image, "--quiet", "--nvdimm", f"file={pool}", under=into_it)
    assert result.status == 2
    assert "the standard output is the same file as" in result.errors[0]
    assert pool.read_bytes() == before
    log = pool.parent / "log"
    result = emu("run", image, "-serial", f"file:{log}", "-debugcon", f"file:{log}")
    assert result.status == 2
    assert not log.exists()
    into_log = ("sh", "-c", f'exec "$0" "$@" > "{log}" 2>&1')
    assert emu("run", image, "-serial", "file:/dev/stdout", under=into_log).status == 0
    assert log.read_bytes() == b"A"


@pytest.mark.parametrize("how", ["pool", "symbolic", "image", "other image"])
def test_the_report_of_a_crash_is_no_input(how: str, image: Path, pool: Path) -> None:
    recovery = pool.parent / "recovery.bin"
    recovery.write_bytes(HALT)
    (pool.parent / "link").symlink_to(pool)
    target = {"pool": pool, "symbolic": pool.parent / "link", "image": image, "other image": recovery}[how]
    before = target.read_bytes()
    result = emu("crash", image, "--recover", recovery, "--nvdimm", f"file={pool}", "--html", target)
    assert (result.status, result.out) == (2, "")
    assert "--html" in result.errors[0]
    assert target.read_bytes() == before


@pytest.mark.parametrize("link", [False, True])
def test_the_exported_memories_are_no_input(link: bool, pool: Path) -> None:
    member = pool.parent / "out" / "failure-01-nvdimm0.img"
    member.parent.mkdir()
    if link:
        member.hardlink_to(pool)
    else:
        pool.rename(member)
    before = member.read_bytes()
    nvdimm = pool if link else member
    result = emu("crash", "commit-noflush", "--nvdimm", f"file={nvdimm}", "--export", member.parent)
    assert (result.status, result.out) == (2, "")
    assert "--export" in result.errors[0]
    assert member.read_bytes() == before


def test_the_outputs_of_label_and_acpi_are_no_input(pool: Path) -> None:
    assert emu("label", "init", pool).status == 0
    before = pool.read_bytes()
    for words in (
        ("label", "read", pool, "-o", pool),
        ("label", "read", pool, "-j", "-o", pool),
        ("label", "write", pool, "-i", pool, "-s", "128K"),
        ("acpi", "dump", "--table", "NFIT", "-o", pool, "--nvdimm", f"file={pool}"),
    ):
        result = emu(*words)
        assert (result.status, result.out) == (2, ""), words
        assert len(result.errors) == 2
        assert pool.read_bytes() == before
    onto_it = ("sh", "-c", f'exec "$0" "$@" 1<>"{pool}"')
    for reading in (
        ("label", "read", pool),
        ("acpi", "show", "--nvdimm", f"file={pool}"),
        ("crash", "commit-fixed", "--nvdimm", f"file={pool}"),
    ):
        assert emu(*reading, under=onto_it).status == 2
        assert pool.read_bytes() == before
    from_it = ("sh", "-c", f'exec "$0" "$@" < "{pool}"')
    assert emu("label", "write", pool, "-s", "128K", under=from_it).status == 2
    assert pool.read_bytes() == before


def test_a_running_machines_nvdimm_is_nobodys_output(image: Path, pool: Path) -> None:
    before = pool.read_bytes()
    spin = pool.parent / "spin.bin"
    spin.write_bytes(SPIN)
    log = pool.parent / "log"
    words = (str(spin), "--nvdimm", f"file={pool}", "-serial", f"file:{log}", "-m", "64M,slots=4,maxmem=1G")
    with Emu(pool.parent, *words) as running:
        client = running.client()
        for writing in (
            ("run", image, "-serial", f"file:{pool}"),
            ("acpi", "dump", "--table", "DSDT", "-o", pool),
            ("crash", "commit-fixed", "--nvdimm", f"file={pool.parent}/x,size=2M", "--html", pool),
        ):
            result = emu(*writing)
            assert (result.status, result.out) == (4, ""), writing
            assert "in use" in result.errors[0]
        (pool.parent / "link").symlink_to(pool)
        (pool.parent / "hard").hardlink_to(pool)
        for name in ("pool.img", "link", "hard", "spin.bin", "log"):
            path = str(pool.parent / name)
            assert "is the same file as" in client.refusal("migrate", uri=f"file:{path}")
            assert "is the same file as" in client.refusal("pmemsave", val=0, size=4096, filename=path)
        memory = {"id": "m", "qom_type": "memory-backend-file", "mem_path": str(log), "size": MIB, "share": True}
        assert "is the same file as the guest's output" in client.refusal("object-add", **memory)
        spare = str(pool.parent / "spare.img")
        client.ask("object-add", **memory | {"mem_path": spare})
        for way in ({"uri": f"file:{spare}"}, {"val": 0, "size": 4096, "filename": spare}):
            command = "migrate" if "uri" in way else "pmemsave"
            assert "is the same file as the file of memory" in client.refusal(command, **way)
        assert client.ask("query-status")["status"] == "running"
    assert pool.read_bytes() == before
    assert spin.read_bytes() == SPIN


# -- a run that fails --------------------------------------------------------------------------------------------------


BAD_STARTS = {
    "no image": ("nosuch", "--nvdimm", "file={new},size=4M"),
    "no guest": ("{bad}", "--nvdimm", "file={new},size=4M"),
    "bad guest": ("{elf}", "--nvdimm", "file={new},size=4M"),
    "bad guest, paused": ("{elf}", "-S", "--nvdimm", "file={new},size=4M"),
    "too little RAM": ("{large}", "-m", "1M", "--nvdimm", "file={new},size=4M"),
    "bad -m": ("{image}", "--nvdimm", "file={new},size=4M", "-m", "1M,slots=x"),
    "bad option behind": ("{image}", "--nvdimm", "file={new},size=4M", "--nosuch"),
    "bad label-size": ("{image}", "--nvdimm", "file={new},size=4M,label-size=64K"),
    "label larger than the file": ("{image}", "--nvdimm", "file={new},size=4M,label-size=8M"),
    "second NVDIMM": ("{image}", "--nvdimm", "file={new},size=4M", "--nvdimm", "file={folder}/no/such,size=4M"),
    "second NVDIMM's size": ("{image}", "--nvdimm", "file={new},size=4M", "--nvdimm", "file={pool},size=1P"),
    "second NVDIMM's place": (
        "{image}", "--nvdimm", "file={new},size=4M,slot=0", "--nvdimm", "file={empty},size=4M,slot=0",
    ),
    "bad -qmp": ("{image}", "--nvdimm", "file={new},size=4M", "-qmp", "unix:{folder}/no/such,server=on,wait=off"),
    "bad --incoming": ("--nvdimm", "file={new},size=4M", "--incoming", "unix:{folder}/no/such"),
    "no snapshot": ("--nvdimm", "file={new},size=4M", "--incoming", "file:{folder}/nosuch"),
    "no snapshot but something else": ("--nvdimm", "file={new},size=4M", "--incoming", "file:{bad}"),
    "bad power cut": ("{image}", "--nvdimm", "file={new},size=4M", "--power-fail-at", "x"),
    "power cut of a bad guest": ("{elf}", "--nvdimm", "file={new},size=4M", "--power-fail-at", "0"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_STARTS)
def test_a_start_that_fails_leaves_no_file_and_changes_none(case: str, image: Path, pool: Path) -> None:
    folder = pool.parent
    (folder / "bad").write_bytes(b"")
    (folder / "elf").write_bytes(b"\x7fELF\x02\x01")
    (folder / "large").write_bytes(bytes(2 * MIB))
    (folder / "empty").touch()
    (folder / "log").write_bytes(b"the log of yesterday")
    before = {entry.name: entry.read_bytes() for entry in folder.iterdir()}
    names = {name: folder / name for name in ("new", "bad", "elf", "large", "empty")}
    words = [word.format(**names, folder=folder, pool=pool, image=image) for word in BAD_STARTS[case]]
    for serial in ("log", "new log"):
        result = emu("run", *words, "-serial", f"file:{folder / serial}", "--quiet", "--timeout", "60")
        assert result.status in (2, 4), result
        assert result.errors
        assert {entry.name: entry.read_bytes() for entry in folder.iterdir()} == before


@pytest.mark.parametrize(
    "words",
    [
        ("acpi", "show"),
        ("acpi", "show", "--table", "NONE"),
        ("acpi", "dump", "--table", "NFIT"),
        ("acpi", "dump", "--table", "NFIT", "-o", "no/such"),
        ("crash", "commit-fixed", "--depth", "0"),
        ("crash", "commit-fixed", "--nosuch"),
        ("crash", "commit-fixed", "--html", "no/such"),
        ("crash", "commit-fixed"),
        ("run", "hello", "-S", "--timeout", "0.3"),
    ],
)
@pytest.mark.parametrize("empty", [False, True])
def test_what_does_not_run_the_guest_makes_no_nvdimm_file(words: tuple[str, ...], empty: bool, tmp_path: Path) -> None:
    if empty:
        (tmp_path / "new").touch()
    emu(*words, "--nvdimm", f"file={tmp_path}/new,size=2M")
    assert entries(tmp_path) == (["new"] if empty else [])
    assert not empty or (tmp_path / "new").stat().st_size == 0


@pytest.mark.parametrize("words", [(), ("--power-fail-at", "0"), ("--power-fail-at", "x")])
def test_a_start_that_fails_keeps_the_mark_of_an_unfinished_migration(
    words: tuple[str, ...], image: Path, pool: Path
) -> None:
    incomplete.mark(pool, "a test")
    common = ("--quiet", "--nvdimm", f"file={pool}", "--accept-incomplete", *words)
    if words != ("--power-fail-at", "x"):
        (pool.parent / "elf").write_bytes(b"\x7fELF\x02\x01")
        assert emu("run", pool.parent / "elf", *common).status == 2
    else:
        assert emu("run", image, *common).status == 2
    assert incomplete.reason(pool) == "a test"
    assert emu("run", image, *common[:4], *words[:1], *("0" for _ in words[1:])).status == 0
    assert incomplete.reason(pool) is None


def test_a_run_keeps_the_file_it_made(image: Path, tmp_path: Path) -> None:
    assert emu("run", image, "--quiet", "--nvdimm", f"file={tmp_path}/new,size=2M").status == 0
    assert (tmp_path / "new").stat().st_size == 2 * MIB


@pytest.mark.parametrize("path", ["/dev/emu-test-9.9", "/proc/emu-test", "/sys/kernel/emu-test"])
def test_no_nvdimm_file_is_made_among_devices(path: str, image: Path) -> None:
    try:
        result = emu("run", image, "--nvdimm", f"file={path},size=2M")
        assert not Path(path).exists()
    finally:
        Path(path).unlink(missing_ok=True)
    assert (result.status, len(result.errors)) == (4, 2)
    assert path in result.errors[0]


@pytest.mark.parametrize("words", [("--html", "{}/no/such"), ("--html", "{}"), ("--export", "{}/file"),
                                   ("--export", "{}/file/x"), ("--html", "/proc/report.html")])  # fmt: skip
def test_the_targets_of_a_crash_are_looked_at_before_the_work(words: tuple[str, ...], image: Path) -> None:
    """The workload would run for ever."""
    image.write_bytes(SPIN)
    (image.parent / "file").touch()
    words = tuple(word.format(image.parent) for word in words)
    result = emu("crash", image, "--nvdimm", f"file={image.parent}/pool,size=2M", "--timeout", "600", *words)
    assert (result.status, result.out) == (4, "")
    assert words[1] in result.errors[0]


# -- what is no file -----------------------------------------------------------------------------------------------


def test_a_device_node_is_written_into_by_every_verb(image: Path, pool: Path) -> None:
    device = node(pool.parent / "null")
    assert emu("label", "init", pool).status == 0
    for words in (
        ("run", image, "-serial", f"file:{device}"),
        ("label", "read", pool, "-o", device),
        ("acpi", "dump", "--table", "DSDT", "-o", device),
        ("crash", "commit-fixed", "--nvdimm", f"file={pool.parent}/x,size=2M", "--html", device),
    ):
        assert emu(*words).status == 0, words
        assert stat.S_ISCHR(device.stat().st_mode), words
    image.write_bytes(SPIN)
    with Emu(pool.parent, str(image), "--nvdimm", f"file={pool}") as running:
        running.client()
        migrated = subprocess.run(
            [*EMU, "migrate", "--qmp", running.socket, f"file:{device}"], capture_output=True, timeout=PATIENCE_S
        )
        assert migrated.returncode == 0, migrated.stderr
    assert stat.S_ISCHR(device.stat().st_mode)


def test_a_fifo_takes_a_snapshot(image: Path, pool: Path) -> None:
    fifo = pool.parent / "fifo"
    os.mkfifo(fifo)
    image.write_bytes(SPIN)
    with Emu(pool.parent, str(image), "--nvdimm", f"file={pool}") as running:
        client = running.client()
        assert "reader" in client.refusal("migrate", uri=f"file:{fifo}")
        got: list[bytes] = []
        reader = threading.Thread(target=lambda: got.append(fifo.read_bytes()))
        reader.start()
        migrated = subprocess.run(
            [*EMU, "migrate", "--qmp", running.socket, f"file:{fifo}"], capture_output=True, timeout=PATIENCE_S
        )
        reader.join()
        assert migrated.returncode == 0, migrated.stderr
        client.ask("migrate", uri=f"file:{pool.parent}/snapshot")
        while client.ask("query-migrate")["status"] != "completed":
            pass
    assert len(got[0]) > 2 * MIB
    assert stat.S_ISFIFO(fifo.stat().st_mode)


def test_a_fifo_takes_the_guests_output(image: Path) -> None:
    fifo = image.parent / "fifo"
    os.mkfifo(fifo)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(fifo.read_bytes()))
    reader.start()
    assert emu("run", image, "-serial", f"file:{fifo}").status == 0
    reader.join()
    assert got == [b"A"]


def test_links_lead_to_the_file_and_stay(pool: Path) -> None:
    assert emu("label", "init", pool).status == 0
    (pool.parent / "link").symlink_to("dump.bin")
    assert emu("label", "read", pool, "-o", pool.parent / "link").status == 0
    assert (pool.parent / "link").is_symlink()
    assert (pool.parent / "dump.bin").stat().st_size == 128 << 10
