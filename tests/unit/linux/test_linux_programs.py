"""What a program needs: found without executing it, refused with a reason."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.errors import UsageError
from emu.linux import programs
from emu.linux.cpio import Tree

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed: apt-get install gcc")


def build(folder: Path, name: str, source: str, *options: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["gcc", "-o", path, "-x", "c", "-", "-x", "none", *options], input=source.encode(), check=True)
    return path


def test_dynamic_program_comes_with_what_ldd_says() -> None:
    tree = Tree()
    programs.Closure(tree).add("/bin/cat")
    listed = subprocess.run(["ldd", "/bin/cat"], capture_output=True, text=True, check=True).stdout
    wanted = [word for word in listed.split() if word.startswith("/")]
    assert wanted
    assert all(os.path.realpath(path) in tree for path in [*wanted, "/bin/cat"])
    assert all(path in tree for path in wanted)  # by the names that ld.so uses, too


@needs_gcc
@pytest.mark.parametrize("option", ["--disable-new-dtags", "--enable-new-dtags"])
def test_libraries_beside_the_program(tmp_path: Path, option: str) -> None:
    inner = build(tmp_path, "lib/libinner.so", "int inner;", "-shared", "-fPIC")
    build(tmp_path, "lib/libouter.so", "extern int inner; int *outer(void) { return &inner; }", "-shared", "-fPIC",
          str(inner), "-Wl,-soname,libouter.so", "-Wl,-rpath,$ORIGIN")  # fmt: skip
    search = f"-Wl,-rpath,$ORIGIN/../lib,{option},--allow-shlib-undefined"
    source = "int *outer(void); int main(void) { return !outer(); }"
    program = build(tmp_path, "bin/program", source, "-L", str(tmp_path / "lib"), "-louter", search)
    tree = Tree()
    programs.Closure(tree).add(str(program))
    assert str(tmp_path / "lib/libouter.so") in tree
    assert str(inner) in tree


@needs_gcc
def test_missing_library_is_named(tmp_path: Path) -> None:
    library = build(
        tmp_path, "libgone.so", "int gone(void) { return 0; }", "-shared", "-fPIC", "-Wl,-soname,libgone.so.7"
    )
    program = build(tmp_path, "program", "int gone(void); int main(void) { return gone(); }", str(library))
    library.unlink()
    with pytest.raises(UsageError, match=r"program needs the library libgone\.so\.7, which is not on this host"):
        programs.Closure(Tree()).add(str(program))


def test_script_brings_its_interpreters(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/usr/bin/env -S cat\n")
    script.chmod(0o755)
    tree = Tree()
    programs.Closure(tree).add(str(script))
    assert os.path.realpath("/usr/bin/env") in tree
    assert os.path.realpath(shutil.which("cat") or "") in tree


def test_shell_script_brings_the_programs_that_it_names(tmp_path: Path) -> None:
    for name, text in (
        ("outer", f"#!/bin/sh\nset -e\ncp a b; sync # and not head\n{tmp_path}/inner | ./no-such\n"),
        ("inner", f"#!/usr/bin/env bash\ntail -1 x && {tmp_path}/outer\n"),
        ("other", "#!/bin/cat\nsort x\n"),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    tree = Tree()
    closure = programs.Closure(tree)
    closure.program(str(tmp_path / "outer"))
    closure.program(str(tmp_path / "other"))
    for program in ("cp", "sync", "bash", "tail"):
        assert os.path.realpath(shutil.which(program) or "") in tree
    assert str(tmp_path / "inner") in tree
    for program in ("head", "sort"):
        assert os.path.realpath(shutil.which(program) or "") not in tree


def test_script_without_its_interpreter(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    with pytest.raises(UsageError, match="script needs its interpreter: cannot read /no/such/interpreter"):
        programs.Closure(Tree()).add(str(script))


@pytest.mark.parametrize(("machine", "name"), [(183, "AArch64"), (3, "i386"), (999, "ELF machine 999")])
def test_other_architecture_is_named(tmp_path: Path, machine: int, name: str) -> None:
    program = tmp_path / "program"
    head = bytearray(Path("/bin/cat").read_bytes()[:64])
    head[18:20] = machine.to_bytes(2, "little")
    program.write_bytes(head)
    with pytest.raises(UsageError, match=f"program for another architecture: {name}"):
        programs.Closure(Tree()).add(str(program))


@given(st.integers(0, 1023), st.binary(min_size=1, max_size=8), st.integers(0, 4096))
def test_hostile_elf_is_refused_or_read(place: int, junk: bytes, cut: int) -> None:
    data = bytearray(Path("/bin/cat").read_bytes())
    data[place : place + len(junk)] = junk
    for hostile in (bytes(data), bytes(data[:cut])):
        try:
            found = programs.dynamic(hostile, "x")
        except UsageError:
            continue
        assert found is None or all(isinstance(name, str) for name in found.needed)


def test_command_of_one_program_is_executed_without_a_shell() -> None:
    found = programs.command("cat -n 'a file' /pmem/x", "--exec")
    assert found.arguments == (shutil.which("cat"), "-n", "a file", "/pmem/x")
    assert found.programs == (shutil.which("cat"),)


@pytest.mark.parametrize(
    "text", ["cat /pmem/a | sort > /pmem/b", "cat x; sort y", "echo $(cat x) `sort y`", "if cat x; then sort y; fi"]
)
def test_line_of_a_shell_takes_the_programs_that_it_names(text: str) -> None:
    found = programs.command(text, "--exec")
    assert found.arguments == (shutil.which("sh"), "-c", text)
    assert {shutil.which("cat"), shutil.which("sort")} <= set(found.programs)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the command is empty"),
        ("'a", "No closing quotation"),
        ("a\0b", "zero byte"),
        ("no-such-program", "no program 'no-such-program'"),
        ("./no/such", "no program ./no/such"),
    ],
)
def test_commands_that_cannot_be(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        programs.command(text, "--exec")


def test_ld_so_conf_with_includes(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a.conf").write_text("/opt/a  # comment\n")
    (tmp_path / "ld.so.conf").write_text(f"include d/*.conf\n# nothing\n/opt/b\ninclude {tmp_path}/none\n")
    assert list(programs.configured_folders(str(tmp_path / "ld.so.conf"))) == ["/opt/a", "/opt/b"]


def test_shell_to_work_in_is_busybox_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("busybox", "sh"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(programs, "DEFAULT_PATH", "")
    assert programs.shell().arguments == (str(tmp_path / "busybox"), "sh")
    (tmp_path / "busybox").unlink()
    assert programs.shell().arguments == (str(tmp_path / "sh"),)
