"""An output of a command is never one of its inputs: every option that writes against everything that is read.

Which options name files is a table here, and an option that is not in it fails a test: so none can be forgotten.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from emu.cli import surface
from emu.cli.main import main

MIB = 1 << 20

# Kinds of values, by their names in the help, that are no names of files.
NO_FILES = frozenset((
    "SECONDS", "N", "MS", "SIZE", "TEXT", "NAME", "UUID", "VERB", "MODEL", "1", "tcg", "none", "PLACE", "EVENT",
    "OFFSET[:LENGTH]", "OFFSET=TYPE", "EVENT|random:SEED", "none|all|random:SEED|N", "SIZE[,slots=N,maxmem=SIZE]",
    "q35,nvdimm=on[,...]", "node[,nodeid=N]", "nvdimm,memdev=ID,...",
))  # fmt: skip
READ, WRITTEN, SOCKET, ELSEWHERE = "read", "written", "a socket", "elsewhere"
MACHINE = {"--nvdimm": READ, "-object": READ, "-kernel": READ, "-initrd": READ}
TABLE: dict[str, dict[str, str]] = {
    "run": {**MACHINE, "IMAGE": READ, "--config": READ, "--exec": READ, "--add": READ, "-incoming": READ,
            "-serial": WRITTEN, "-debugcon": WRITTEN, "-qmp": SOCKET, "-gdb": SOCKET},
    "crash": {**MACHINE, "IMAGE": READ, "--config": READ, "--recover": READ, "--exec": READ, "--setup": READ,
              "--add": READ, "--suppress": READ, "--baseline": READ, "--resume": WRITTEN, "--html": WRITTEN,
              "--sarif": WRITTEN, "--junit": WRITTEN, "--export": WRITTEN},
    "crash diff": {"A": READ, "B": READ},
    "debug": {**MACHINE, "IMAGE": READ, "--recover": READ, "-gdb": SOCKET},
    "probe": {"PATH": READ},
    "label init": {"FILE": READ},
    "label read": {"FILE": READ, "-o": WRITTEN},
    "label check": {"FILE": READ},
    "label write": {"FILE": READ, "-i": READ},
    "label zero": {"FILE": READ},
    "label create-namespace": {"FILE": READ},
    "label destroy-namespace": {"FILE": READ},
    "acpi show": dict(MACHINE),
    "acpi dump": {**MACHINE, "-o": WRITTEN},
    # The machine that is moved writes the snapshot: test_user_files.py.
    "migrate": {"URI": ELSEWHERE, "--qmp": SOCKET, "--config": READ},
    # They make folders of their own, and refuse one that is there.
    "new": {"NAME": ELSEWHERE},
    "learn": {"--lessons": ELSEWHERE, "--folder": ELSEWHERE},
}  # fmt: skip
"""By command, and option or word."""


def test_whatever_takes_a_value_is_in_the_table() -> None:
    for command in surface.commands():
        known = TABLE.get(command.name, {})
        named = [(option.names[0], option.value) for option in command.options if option.value and not option.choices]
        named += [(word, word) for word, _ in command.words if "|" not in word]
        for name, value in named:
            alone = "|" in value and not any(sign in value for sign in ":=") and "FILE" not in value
            assert name in known or value in NO_FILES or alone, (
                f"emu {command.name} {name}: does {value} name a file, and is it read or written? Say so in TABLE"
            )
        assert set(known) <= {name for option in command.options for name in option.names} | set(dict(command.words))


class Line(NamedTuple):
    """A command line of ``verb``: ``inputs`` are files that all of it reads, ``outputs`` what can be added to it."""

    verb: str
    words: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...] = ()


LINES = {
    "run": Line("run", "image --nvdimm file=nvdimm -initrd initrd --config config.toml",
                ("image", "nvdimm", "initrd", "config.toml"), ("-serial file:", "-debugcon file:")),
    "run, QEMU's words": Line(
        "run", "-kernel image -initrd initrd,initrd2 -object memory-backend-file,id=m,size=2M,share=on,mem-path=nvdimm "
        "-device nvdimm,memdev=m -machine q35,nvdimm=on -m 64M,slots=2,maxmem=1G",
        ("image", "nvdimm", "initrd", "initrd2"), ("-serial file:", "-debugcon file:")),
    "run --incoming": Line("run", "--nvdimm file=nvdimm --incoming file:snapshot", ("nvdimm", "snapshot"),
                           ("-serial file:", "-debugcon file:")),
    "run linux": Line("run", "linux --kernel image --nvdimm file=nvdimm --add added --add folder --exec ./program",
                      ("image", "nvdimm", "added", "folder/deep/member", "program"), ("-serial file:",)),
    "crash": Line(
        "crash", "image --recover recovery --nvdimm file=nvdimm -initrd initrd --suppress rules --baseline baseline "
        "--config config.toml",
        ("image", "recovery", "nvdimm", "initrd", "rules", "baseline", "config.toml", "source.c"),
        ("--resume ", "--html ", "--sarif ", "--junit ", "--export ")),
    "crash linux": Line(
        "crash", "linux --kernel image --nvdimm file=nvdimm --add added:/x --add folder --setup ./prepare "
        "--exec ./program --recover ./check",
        ("image", "nvdimm", "added", "folder/deep/member", "prepare", "program", "check"),
        ("--resume ", "--html ", "--sarif ", "--junit ", "--export ")),
    "crash diff": Line("crash", "diff baseline rules", ("baseline", "rules")),
    "probe": Line("probe", "nvdimm", ("nvdimm",)),
    "label read": Line("label", "read nvdimm", ("nvdimm",), ("-o ",)),
    "label write": Line("label", "write nvdimm -i dump", ("nvdimm", "dump")),
    **{f"label {action}": Line("label", f"{action} nvdimm", ("nvdimm",))
       for action in ("init", "check", "zero", "create-namespace")},
    "label destroy-namespace": Line("label", f"destroy-namespace nvdimm {'ab' * 16}", ("nvdimm",)),
    "acpi show": Line("acpi", "show --nvdimm file=nvdimm", ("nvdimm",)),
    "acpi dump": Line("acpi", "dump --table DSDT --nvdimm file=nvdimm -initrd initrd", ("nvdimm", "initrd"), ("-o ",)),
}  # fmt: skip


def test_every_option_that_writes_is_tried_against_all_that_are_read() -> None:
    """The lines above leave nothing of the table out."""
    short = {"-kernel": "--kernel", "-incoming": "--incoming"}
    for command, kinds in TABLE.items():
        lines = [line for name, line in LINES.items() if name.split(",")[0].startswith(command)]
        if command == "crash":
            lines = [line for line in lines if not line.words.startswith("diff")]
        words = " ".join(line.words for line in lines).split()
        outputs = {output.split()[0] for line in lines for output in line.outputs}
        if not lines:
            assert WRITTEN not in kinds.values(), command
            continue
        assert outputs == {name for name, kind in kinds.items() if kind == WRITTEN}, command
        for name, kind in kinds.items():
            if kind == READ and name.startswith("-") and command in ("run", "crash", "label read", "label write"):
                assert {name, short.get(name, name)} & {*words, "-object", "-kernel"}, (command, name)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A guest with debug information, beside its source."""
    folder = tmp_path_factory.mktemp("compiled")
    (folder / "source.c").write_text("int main(void)\n{\n    return 0;\n}\n")
    command = [sys.executable, "-m", "emu", "cc", "-g", f"-ffile-prefix-map={folder}=.", "source.c", "-o", "image"]
    subprocess.run(command, cwd=folder, check=True)
    return folder


@pytest.fixture
def folder(tmp_path: Path, compiled: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Everything that the lines name, in the working directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("image", "source.c"):
        (tmp_path / name).write_bytes((compiled / name).read_bytes())
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    (tmp_path / "nvdimm").write_bytes(bytes(range(256)) * (2 * MIB // 256))
    for name in ("initrd", "initrd2", "snapshot", "recovery", "rules", "added", "folder/deep/member", "dump"):
        (tmp_path / name).write_bytes(b"\xf4 " + name.encode())
    (tmp_path / "config.toml").write_text("")
    (tmp_path / "rules").write_text("")
    (tmp_path / "baseline").write_text("{}")
    for name in ("program", "prepare", "check"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


WAYS: dict[str, Callable[[Path, int], str]] = {
    "itself": lambda path, number: str(path),
    "another path": lambda path, number: os.path.relpath(f"{path.parent}/../{path.parent.name}/{path.name}"),
    "symbolic link": lambda path, number: link("symbolic", lambda name: Path(name).symlink_to(path)),
    "hard link": lambda path, number: link("hard", lambda name: Path(name).hardlink_to(path)),
    "link to a link": lambda path, number: link(
        "second", lambda name: Path(name).symlink_to(WAYS["symbolic link"](path, 0))
    ),
    "/proc/self/fd": lambda path, number: f"/proc/self/fd/{number}",
    "/dev/fd": lambda path, number: f"/dev/fd/{number}",
    "/proc/PID/fd": lambda path, number: f"/proc/{os.getpid()}/fd/{number}",
}


def link(name: str, make: Callable[[str], None]) -> str:
    Path(name).unlink(missing_ok=True)
    make(name)
    return name


def refused(words: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    """The one message of a command line that is refused before anything is done."""
    status = main(words)
    out, err = capfd.readouterr()
    assert (status, out) == (2, ""), (words, status, out, err)
    assert len(err.splitlines()) == 2, err
    return err


@pytest.mark.parametrize(
    ("name", "output"), [(name, output) for name, line in LINES.items() for output in line.outputs]
)
def test_an_output_is_no_input(folder: Path, name: str, output: str, capfd: pytest.CaptureFixture[str]) -> None:
    line = LINES[name]
    before = contents(folder)
    # All outputs of a command are looked at in one place, so one of them is tried in all ways.
    ways = WAYS if output in (line.outputs[0], "--export ") else ("itself", "symbolic link")
    for read, way in itertools.product(line.inputs, ways):
        if output == "--export " and way not in ("symbolic link", "hard link"):
            continue  # a member of the folder, which is written, can be these
        if read == "source.c" and way == "hard link":
            continue  # a report takes the place of a name; the source keeps its own
        with opened(folder / read) as number:
            written = WAYS[way](folder / read, number)
            if output == "--export ":
                (folder / "out").mkdir(exist_ok=True)
                Path(written).replace(folder / "out" / "failure-1-x.img")
                written = "out"
            said = refused([line.verb, *line.words.split(), *f"{output}{written}".split(" ")], capfd)
        assert output.split()[0] in said, said
        for made in ("symbolic", "hard", "second"):
            (folder / made).unlink(missing_ok=True)
        if (folder / "out").exists():
            (folder / "out" / "failure-1-x.img").unlink()
            (folder / "out").rmdir()
    assert contents(folder) == before


# Option values that name an NVDIMM's file, in the lines of commands whose guest stores to it.
STORED_TO = {name: word for name in LINES if name.startswith("run")
             for word in LINES[name].words.split(" ") if word.endswith("=nvdimm")}  # fmt: skip


@pytest.mark.parametrize("name", STORED_TO)
@pytest.mark.parametrize("way", WAYS)
def test_what_the_guest_stores_to_is_no_input(
    folder: Path, name: str, way: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """A guest that is its own NVDIMM would be gone with its first store."""
    line, word = LINES[name], STORED_TO[name]
    for read in set(line.inputs) - {"nvdimm", "config.toml"}:
        (folder / read).write_bytes((folder / read).read_bytes().ljust(2 * MIB, b"\0"))
    before = contents(folder)
    for read in before.keys() & set(line.inputs) - {"nvdimm"}:
        with opened(folder / read) as number:
            words = line.words.replace(word, word.removesuffix("nvdimm") + WAYS[way](folder / read, number))
            said = refused([line.verb, *words.split(), "-serial", "none"], capfd)
        assert "the NVDIMM's file" in said, said
        for made in ("symbolic", "hard", "second"):
            (folder / made).unlink(missing_ok=True)
    assert contents(folder) == before


def test_what_is_only_read_may_be_several_things(folder: Path) -> None:
    """A private or a read-only mapping, and the laboratory, change no file."""
    (folder / "image").write_bytes(b"\xf4".ljust(2 * MIB, b"\0"))
    before = contents(folder)
    for option in ("share=off", "readonly=on,unarmed=on"):
        assert main(["run", "image", "--quiet", "-serial", "none", "--nvdimm", f"file=image,{option}"]) == 0
    assert main(["crash", "image", "--nvdimm", "file=image"]) == 12
    assert contents(folder) == before


@pytest.mark.parametrize("output", ["--nvdimm file=", "-debugcon file:"])
def test_the_standard_input_is_no_output(folder: Path, output: str, capfd: pytest.CaptureFixture[str]) -> None:
    before = contents(folder)
    kept = os.dup(0)
    with opened(folder / "nvdimm") as number:
        os.dup2(number, 0)
    try:
        said = refused(["run", "recovery", *f"{output}nvdimm".split(" ")], capfd)
        assert "the standard input" in said
        # What COM1 does not receive is not read.
        said = "" if main(["run", "recovery", "-serial", "none", "--nvdimm", "file=nvdimm"]) == 0 else "refused"
        assert not said
    finally:
        os.dup2(kept, 0)
        os.close(kept)
    assert contents(folder) == before


@pytest.mark.parametrize("name", LINES)
def test_the_standard_output_is_no_input(folder: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    line = LINES[name]
    before = contents(folder)
    kept = os.dup(1)
    for read in line.inputs:
        if read == "source.c":
            continue  # a shell has opened it, and cut it short, before emu begins
        with opened(folder / read) as number:
            os.dup2(number, 1)
            try:
                said = refused([line.verb, *line.words.split()], capfd)
            finally:
                os.dup2(kept, 1)
        assert "the standard output" in said
    os.close(kept)
    assert contents(folder) == before


def test_what_is_compiled_is_no_guest(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = contents(folder)
    for way in WAYS:
        with opened(folder / "source.c") as number:
            written = WAYS[way](folder / "source.c", number)
            assert "-o" in refused(["cc", "source.c", "-o", written], capfd)
            assert "-o" in refused(["cc", f"-o{written}", "source.c"], capfd)
    for made in ("symbolic", "hard", "second"):
        (folder / made).unlink()
    assert contents(folder) == before


@pytest.mark.parametrize("option", ["-qmp unix:{},server=on,wait=off", "-gdb unix:{}", "-incoming unix:{}",
                                    "-serial unix:{},server=on,wait=off"])  # fmt: skip
def test_a_socket_takes_no_files_place(folder: Path, option: str, capfd: pytest.CaptureFixture[str]) -> None:
    before = contents(folder)
    words = ["run", *([] if "incoming" in option else ["recovery"]), "--nvdimm", "file=nvdimm", "--timeout", "5"]
    for read, way in itertools.product(("recovery", "nvdimm"), ("itself", "symbolic link", "hard link")):
        name = WAYS[way](folder / read, -1)
        status = main([*words, *option.format(name).split(" ")])
        assert status in (2, 4), (option, way)
        assert name in capfd.readouterr().err
    for made in ("symbolic", "hard"):
        (folder / made).unlink()
    assert contents(folder) == before
