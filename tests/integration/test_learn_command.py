"""`emu learn` as a command: the list, a teacher's folder, a pipe, a terminal, and what is written wrongly."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.run_emu import EMU, emu

ROOT = Path(__file__).parents[2]
TINY = """\
+++
title = "Tiny"
minutes = 1
+++
Some *text*, with a [link](there.md), and **weight**.

```sh
echo shown
```

```toml question
question = "How many bits has a byte?"
answer = ["8", "eight"]
hints = ["more than seven"]
why = "By convention."
proof = { run = "echo '{\\"a\\": [{\\"b\\": 8}]}'", expect = { "a.0.b" = 8 } }
```
"""
TASK = """\

```toml task
task = "Say yes."
files = ["said.txt"]
why = "Because."
solution = { "said.txt" = "yes.txt" }

[[check]]
run = "grep -q yes said.txt"
otherwise = "it does not say yes"
```
"""


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """A folder of lessons with one, tiny."""
    lesson = tmp_path / "lessons" / "07-tiny"
    lesson.mkdir(parents=True)
    (lesson / "lesson.md").write_text(TINY)
    return lesson.parent


@pytest.fixture
def with_task(teacher: Path) -> Path:
    lesson = teacher / "07-tiny"
    (lesson / "lesson.md").write_text(TINY + TASK)
    (lesson / "said.txt").write_text("no\n")
    (lesson / "yes.txt").write_text("yes\n")
    return teacher


def test_the_list_names_every_lesson_and_a_teachers(teacher: Path) -> None:
    rows = emu("learn", "--json", "--lessons", teacher).document["lessons"]
    assert {"name": "tiny", "title": "Tiny", "minutes": 1, "missing": []} in rows
    listed = emu("learn", "--lessons", teacher)
    assert listed.status == 0
    for row in rows:
        assert row["name"] in listed.out
    assert len(rows) == 13


def test_lines_of_a_pipe_are_answers(teacher: Path) -> None:
    right = emu("learn", "tiny", "--lessons", teacher, stdin=b"7\n Eight \n")
    assert right.status == 0, right
    assert "Some *text*, with a link, and weight." in right.out
    assert "\nshown\n" in right.out
    assert "\nno\n\nhint: more than seven\n" in right.out
    assert "a.0.b: 8" in right.out
    assert right.out.endswith("1 of 1 answered\n")
    for given in (b"7\n", b"", b"quit\n", b"answer\n"):
        result = emu("learn", "tiny", "--lessons", teacher, stdin=given)
        assert (result.status, result.out.splitlines()[-1]) == (3, "0 of 1 answered"), given
        assert ("By convention." in result.out) == (given == b"answer\n")


def test_answers_can_be_read_without_being_asked(with_task: Path, tmp_path: Path) -> None:
    result = emu("learn", "tiny", "--lessons", with_task, "--answers")
    assert result.status == 0
    assert "the answer: 8" in result.out
    assert "    yes" in result.out
    assert not Path("tiny").exists()


def test_a_task_is_a_file_that_stays_the_students(with_task: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    words = ("learn", "tiny", "--lessons", with_task, "--folder", mine)
    assert emu(*words, "--check").status == 2, "nothing is there to check"
    assert emu(*words, stdin=b"8\n\n").status == 3
    said = mine / "said.txt"
    assert said.read_text() == "no\n"
    unchecked = emu(*words, "--check")
    assert (unchecked.status, unchecked.out.splitlines()[:2]) == (3, ["not yet", "  it does not say yes"])
    said.write_text("yes, of course\n")
    assert emu(*words, "--check").status == 0
    assert emu(*words, stdin=b"8\n\n").status == 0
    assert said.read_text() == "yes, of course\n"


def test_of_a_document_a_student_reads_only_the_headline(with_task: Path, tmp_path: Path) -> None:
    lesson, mine = with_task / "07-tiny" / "lesson.md", tmp_path / "mine"
    lesson.write_text(lesson.read_text().replace("grep -q yes said.txt", "cat said.txt; grep -q yes said.txt # --json"))
    mine.mkdir()
    (mine / "said.txt").write_text('{"headline": "It tears", "events": [1, 2, 3]}\n')
    told = emu("learn", "tiny", "--lessons", with_task, "--folder", mine, "--check").out
    assert f"It tears; to read what is wrong, in {mine}: cat said.txt; grep -q yes said.txt #\n" in told
    assert "events" not in told


def test_at_a_terminal_it_waits_and_prompts(teacher: Path) -> None:
    controller, terminal = pty.openpty()
    words = [*EMU, "learn", "tiny", "--lessons", str(teacher)]
    with subprocess.Popen(words, stdin=terminal, stdout=terminal, stderr=terminal, close_fds=True) as process:
        os.close(terminal)
        heard = ""

        def until(words: str) -> None:
            nonlocal heard
            while words not in heard:
                heard += os.read(controller, 1024).decode()

        until("$ echo shown\r\n[Enter] ")
        assert "\nshown\r" not in heard
        os.write(controller, b"\n")
        until("> ")
        assert "\nshown\r" in heard
        os.write(controller, b"8\n")
        until("1 of 1 answered")
        assert process.wait(60) == 0
    os.close(controller)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc (on Debian: apt-get install gcc)")
def test_the_lesson_of_the_how_to_works(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "how-to" / "write-a-lesson.md").read_text("utf-8")
    written = re.search(r"^````markdown\n(.*?)^````$", page, re.MULTILINE | re.DOTALL)
    assert written
    lesson = tmp_path / "my-lessons" / "01-two-logs"
    lesson.mkdir(parents=True)
    (lesson / "lesson.md").write_text(written[1])
    log = (ROOT / "tests" / "programs" / "log.c").read_text()
    (lesson / "log.c").write_text(f"#define NO_PERSIST\n{log}")
    (lesson / "solution.c").write_text(log)
    words = ("learn", "two-logs", "--lessons", lesson.parent)
    assert emu(*words, "--answers").status == 0
    student = emu(*words, "--folder", tmp_path / "mine", stdin=b"2\n\nquit\n")
    assert student.status == 3
    assert "some power failure still loses an entry" in student.out


def test_what_a_lesson_needs_is_said_before_it_begins(teacher: Path) -> None:
    file = teacher / "07-tiny" / "lesson.md"
    package = "its-package"
    file.write_text(TINY.replace("minutes = 1", f'minutes = 1\nneeds = ["no-such-program:{package}"]'))
    result = emu("learn", "tiny", "--lessons", teacher)
    assert (result.status, result.out) == (4, "")
    assert result.errors == (
        "emu: the lesson tiny cannot run here: there is no program no-such-program",
        f"     on Debian: apt-get install {package}",
    )
    assert "no-such-program" in emu("learn", "--lessons", teacher).out


def test_a_compiler_that_is_not_there_is_named() -> None:
    path = str(Path(sys.executable).parent)
    result = emu("learn", "find-the-bug", under=("/usr/bin/env", "-u", "CC", f"PATH={path}"))
    assert result.status == 4
    assert "there is no C compiler" in result.errors[0]
    assert "apt-get install gcc" in result.errors[1]
    result = emu("learn", "find-the-bug", under=("/usr/bin/env", "CC=/no/compiler"))
    assert result.errors == (
        "emu: the lesson find-the-bug cannot run here: CC=/no/compiler: there is no such program",
        "     name a compiler for x86-64, or unset CC",
    )


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("+++\ntitle", "title", "lesson.md:1: it does not begin with +++"),
        ("minutes = 1", 'minutes = "1"', "lesson.md:1: minutes must be a number"),
        ("minutes = 1", "minutes = 1\nhours = 2", "lesson.md:1: 'hours' is no key"),
        ('answer = ["8", "eight"]', "answer = 8", "lesson.md:11: answer must be a list"),
        ('answer = ["8", "eight"]', 'choices = ["a"]\nanswer = 2', "lesson.md:11: answer is the number of a choice"),
        ("answer =", "anwser =", "lesson.md:11: answer is a list of texts"),
        ("why =", "why", "lesson.md:11: not TOML"),
        ("```sh", "```sh loud", "lesson.md:7: after 'sh' may stand"),
    ],
)
def test_a_lesson_that_is_written_wrongly_is_named_with_its_line(teacher: Path, old: str, new: str, words: str) -> None:
    file = teacher / "07-tiny" / "lesson.md"
    assert old in TINY
    file.write_text(TINY.replace(old, new, 1))
    result = emu("learn", "tiny", "--lessons", teacher)
    assert (result.status, result.out) == (2, "")
    assert words in result.errors[0]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("echo shown", "echo shown; exit 5", "ended with status 5, not 0"),
        ("echo shown", "false; echo shown", "ended with status 1, not 0"),
        ('"a.0.b" = 8', '"a.0.b" = 9', "a.0.b is 8, expected 9"),
        ('"a.0.b" = 8', '"a.1.b" = 8', "a.1.b is null, expected 8"),
        ("run = \"echo '{", "run = \"echo '", "it printed no JSON document"),
    ],
)
def test_a_lesson_that_does_not_do_what_it_says_ends(teacher: Path, old: str, new: str, words: str) -> None:
    file = teacher / "07-tiny" / "lesson.md"
    assert old in TINY
    file.write_text(TINY.replace(old, new, 1))
    result = emu("learn", "tiny", "--lessons", teacher, "--answers")
    assert result.status == 4
    assert words in result.errors[0]


def test_requests_that_make_no_sense() -> None:
    for words in (("nothing",), ("first-boot", "--check"), ("--check",), ("first-boot", "--json"), ("--lessons", "/")):
        result = emu("learn", *words)
        assert (result.status, result.out) == (2, ""), words


def test_the_source_of_a_bundled_guest() -> None:
    from emu import guest

    for image in guest.images():
        assert image.source.is_file(), image.name
    shown = emu("guests", "--source", "torn-broken")
    assert (shown.status, shown.out) == (0, Path(guest.__file__).with_name("crash").joinpath("torn.c").read_text())
    assert emu("guests", "--source", "nobody").status == 2
