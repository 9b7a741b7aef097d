"""Programs of users become guests: ``emu cc``, judged by the host's own compiler, C library and QEMU's verdicts."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.integration.run_emu import emu

PROGRAMS = Path(__file__).parents[1] / "programs"
needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc (on Debian: apt-get install gcc)")
needs_gxx = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ (on Debian: apt-get install g++)")
pytestmark = needs_gcc


def built(tmp_path: Path, *words: str | Path) -> Path:
    image = tmp_path / "guest.elf"
    result = emu("cc", *words, "-o", image)
    assert result.status == 0, result.errors
    assert result.errors == ()
    return image


def natively(tmp_path: Path, compiler: str, source: Path, *arguments: str) -> str:
    """What the program prints on the host."""
    program = tmp_path / "native"
    subprocess.run([compiler, "-w", "-O1", str(source), "-o", str(program)], check=True)
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=True, timeout=30).stdout


@pytest.mark.parametrize("level", ["-O0", "-O2"])
def test_the_c_library_does_what_the_hosts_does(tmp_path: Path, level: str) -> None:
    source = PROGRAMS / "library.c"
    result = emu("run", built(tmp_path, "-w", level, source), "--append", "one two", "--timeout", "60")
    assert result.status == 0
    assert result.out.splitlines() == natively(tmp_path, "gcc", source, "one", "two").splitlines()


@needs_gxx
def test_cplusplus_objects_and_containers(tmp_path: Path) -> None:
    source = PROGRAMS / "objects.cpp"
    result = emu("run", built(tmp_path, "-O1", "-Wall", source), "--timeout", "60")
    assert result.status == 0
    assert result.out.splitlines() == natively(tmp_path, "g++", source).splitlines()


def test_a_log_over_libpmem_is_judged(tmp_path: Path) -> None:
    dimm = f"file={tmp_path / 'log.img'},size=2M"
    right = built(tmp_path, "-O2", "-Wall", "-Werror", PROGRAMS / "log.c")
    assert emu("run", right, "--nvdimm", dimm, "--append", "three").status == 0
    again = emu("run", right, "--nvdimm", dimm)
    assert again.status == 0
    assert again.out == "1 entries: three\n"
    for name, status in (("", 0), ("-DNO_PERSIST", 3)):
        image = built(tmp_path, "-O2", *([name] if name else []), PROGRAMS / "log.c")
        fresh = f"file={tmp_path / 'fresh.img'},size=2M"
        result = emu("crash", image, "--nvdimm", fresh, "--append", "three", "--json")
        assert result.status == status, result
        document = result.document
        assert document["complete"] is True
        assert (document["failures"] == []) == (status == 0)
        if status:
            lost = document["failures"][0]["lost"]
            assert "log.c" in lost[0]["source"], lost


@pytest.mark.parametrize(
    ("code", "status", "says"),
    [
        ("return 3;", 7, ""),
        ("exit(2);", 5, ""),
        ("abort();", 11, "panic: aborted"),
        ("assert(argc == 5);", 11, "assertion 'argc == 5' failed"),
        ("free(malloc(8)); char *p = malloc(8); free(p); free(p);", 11, "is free already"),
        ("pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER; pthread_mutex_lock(&m); pthread_mutex_lock(&m);", 11, "mutex"),
        ("*(volatile int *)0 = 1;", 11, "#PF"),
    ],
)
def test_ends_of_programs(tmp_path: Path, code: str, status: int, says: str) -> None:
    source = tmp_path / "ends.c"
    source.write_text(
        "#include <assert.h>\n#include <pthread.h>\n#include <stdlib.h>\n"
        f"int main(int argc, char **argv) {{ (void)argc, (void)argv; {code} }}\n"
    )
    result = emu("run", built(tmp_path, "-w", source), "--timeout", "30")
    assert result.status == status
    assert says in result.out


def test_input_reaches_the_program(tmp_path: Path) -> None:
    source = tmp_path / "input.c"
    source.write_text(
        "#include <stdio.h>\nint main(void) { char line[80]; int n = 0;\n"
        'while (fgets(line, sizeof line, stdin)) printf("%d: %s", ++n, line); return 0; }\n'
    )
    result = emu("run", built(tmp_path, source), "--timeout", "30", stdin=b"one\ntwo\n\x04")
    assert result.status == 0
    assert result.out == "1: one\n2: two\n"


def test_flags_for_make(tmp_path: Path) -> None:
    source, thing, image = PROGRAMS / "log.c", tmp_path / "log.o", tmp_path / "log.elf"
    flags, libs = emu("cc", "--cflags").out, emu("cc", "--libs").out
    command = f"gcc {flags.strip()} -O1 -c {source} -o {thing} && gcc {thing} {libs.strip()} -o {image}"
    subprocess.run(["sh", "-c", command], check=True)
    assert emu("run", image, "--nvdimm", f"file={tmp_path / 'p.img'},size=2M", "--append", "x").status == 0


def test_assembly_and_objects(tmp_path: Path) -> None:
    part, thing = tmp_path / "part.S", tmp_path / "part.o"
    part.write_text('.globl answer\nanswer: movl $21, %eax\n ret\n.section .note.GNU-stack, "", @progbits\n')
    assert emu("cc", "-c", part, "-o", thing).status == 0
    main = tmp_path / "main.c"
    main.write_text("int answer(void);\nint main(void) { return answer(); }\n")
    assert emu("run", built(tmp_path, main, thing)).status == 43


def test_refusals_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert emu("cc").status == 2
    wrong = tmp_path / "wrong.c"
    wrong.write_text("#include <sys/mman.h>\nint main(void) { return 0; }\n")
    image = tmp_path / "wrong.elf"
    result = emu("cc", wrong, "-o", image)
    assert result.status == 2
    assert "sys/mman.h" in "\n".join(result.errors)
    assert result.errors[-2] == "emu: gcc refuses (status 1)"
    assert not image.exists()
    monkeypatch.setenv("PATH", str(tmp_path))
    missing = emu("cc", wrong, "-o", image)
    assert missing.status == 4
    assert "apt-get install gcc" in missing.errors[1]
    monkeypatch.setenv("CC", "nope")
    assert emu("cc", wrong, "-o", image).status == 2


def test_every_word_of_the_command_line_arrives(tmp_path: Path) -> None:
    source = tmp_path / "words.c"
    source.write_text(
        "#include <stdio.h>\n"
        "int main(int argc, char **argv)\n"
        '{ printf("%d %s %d\\n", argc, argv[argc - 1], argv[argc] == NULL); return 0; }\n'
    )
    image = built(tmp_path, source)
    for text, answer in (
        ("", f"1 {image} 1\n"),
        (" one  two ", "3 two 1\n"),
        ("x " * 1900 + "last", "1902 last 1\n"),  # close to the 4095 bytes that all of it may have
    ):
        result = emu("run", image, "--append", text, "--timeout", "30")
        assert (result.status, result.out) == (0, answer)
    longer = emu("run", image, "--append", "x" * 4095)
    assert longer.status == 2
    assert "keep it under 4095" in longer.errors[1]


FLAT = """\
        .globl  _start, store
_start: movabsq $0x100000000, %rdi      # the first NVDIMM
        cmpq    $0, 64(%rdi)            # the mark
        je      store
        cmpq    $7, (%rdi)
        jne     bad
        jmp     off
store:  movq    $7, (%rdi)
        movq    $1, 64(%rdi)            # nothing orders it behind the value
        clflush 64(%rdi)
off:    movw    $0x604, %dx
        movw    $0x2000, %ax
        outw    %ax, %dx
bad:    movb    $1, %al
        outb    %al, $0xf4
        .section .note.GNU-stack, "", @progbits
"""


@pytest.mark.parametrize(
    "where", ["-Wl,-Ttext=0x100000", "-Wl,-Ttext-segment=0x100000", "-Wl,-N,--no-warn-rwx-segments"]
)
def test_a_static_elf_without_a_boot_header_has_its_symbols(tmp_path: Path, where: str) -> None:
    source, image = tmp_path / "flat.S", tmp_path / "flat.elf"
    source.write_text(FLAT)
    subprocess.run(["gcc", "-g", "-nostdlib", "-static", where, str(source), "-o", str(image)], check=True)
    result = emu("crash", image, "--nvdimm", "size=2M", "--json")
    assert result.status == 3, result
    (lost,) = result.document["failures"][0]["lost"]
    assert lost["symbol"].startswith("store")
    assert lost["source"] == "flat.S:8"


def test_a_program_for_linux_is_no_guest(tmp_path: Path) -> None:
    source, image = tmp_path / "main.c", tmp_path / "main"
    source.write_text("int main(void) { return 0; }\n")
    for kind in ("-static", "-no-pie", "-static-pie"):
        subprocess.run(["gcc", kind, str(source), "-o", str(image)], check=True)
        result = emu("run", image)
        assert result.status == 2
        assert "emu run linux --exec" in result.errors[1]


MARKED = """\
#include <libpmem.h>
#include <operation.h>
#include <stdint.h>
int main(void)
{
    uint64_t *at = (uint64_t *)pmem_map_file("/dev/pmem0", 0, 0, 0, 0, 0);
    if (at[8] && !at[0])
        return 1;
    emu_begin(7);
    at[0] = 1;
    at[8] = 1;
    pmem_persist(&at[8], 8);
    emu_done(7);
    return 0;
}
"""


@pytest.mark.parametrize(
    ("compiler", "name", "package"),
    [("gcc", "m.c", "gcc"), ("g++", "m.cpp", "g++"), ("clang", "m.c", "clang"), ("clang", "m.cpp", "clang")],
)
def test_each_compiler_builds_a_guest_that_marks_its_operations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiler: str, name: str, package: str
) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"needs {compiler} (on Debian: apt-get install {package})")
    monkeypatch.setenv("CC", compiler)
    source = tmp_path / name
    source.write_text(MARKED)
    result = emu("crash", built(tmp_path, "-O1", "-g", "-Wall", source), "--nvdimm", "size=2M", "--json")
    assert result.status == 3, result
    failure = result.document["failures"][0]
    assert failure["lost"][0]["source"].rpartition("/")[2] == f"{name}:10"  # clang tells the path that it was given
    assert 7 in failure["operations"], failure


@pytest.mark.timeout(60)
def test_what_never_ends_is_not_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler would wait for ever, and leave its half of a guest when it is ended."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    Path("main.c").write_text("int main(void) { return 0; }\n")
    before = sorted(tmp_path.iterdir())
    for words in (
        ["fifo"],
        ["@fifo"],
        ["main.c", "-include", "fifo"],
        ["-x", "c", "/dev/zero"],
        ["main.c", "/dev/tty"],
    ):
        result = emu("cc", *words, "-o", "guest.elf", timeout=30)
        assert result.status == 2, words
        assert len(result.errors) == 2
        assert words[-1].removeprefix("@") in result.errors[0]
    assert sorted(tmp_path.iterdir()) == before
    # What a shell has opened has somebody at its other end; /dev/null has an end.
    shell = ("bash", "-c", 'exec "$0" "$@" -x c <(cat main.c) -o guest.elf')
    assert emu("cc", "-include", "/dev/null", under=shell).status == 0
    assert emu("run", "guest.elf", "--quiet").status == 0
