"""Every bundled lesson, as a student goes through it: wrong answers, hints, right answers; and its page in the docs."""

from __future__ import annotations

import io
import os
import runpy
from pathlib import Path

import pytest

from emu.cli.lesson_talk import Talk
from emu.learn.lesson import Check, Question, Task, lessons
from emu.learn.needs import missing
from emu.learn.workplace import Ran, Workplace

PAGES = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "lessons.py"))
LESSONS = lessons()


class Noting(Workplace):
    """A workplace that keeps what commands printed, in order."""

    def __init__(self, files: Path, folder: Path) -> None:
        super().__init__(files, folder)
        self.ran: list[Ran] = []

    def run(self, script: str) -> Ran:
        self.ran.append(super().run(script))
        return self.ran[-1]


class Replaying(Workplace):
    """What a ``Noting`` workplace has run, once more without running it; its checks were seen to hold."""

    def __init__(self, files: Path, folder: Path, ran: list[Ran]) -> None:
        super().__init__(files, folder)
        self._ran = iter(ran)

    def run(self, script: str) -> Ran:
        return next(self._ran)

    def check(self, check: Check) -> None:
        return None


class Student(io.StringIO):
    """Standard input of somebody who first is wrong, then asks for a hint, then knows; and mends files on the way."""

    def __init__(self, workplace: Workplace, parts: list[Question | Task]) -> None:
        super().__init__()
        self._lines = [line for part in parts for line in self._answers(part)]
        self._workplace = workplace

    @staticmethod
    def _answers(part: Question | Task) -> list[str | Task]:
        if isinstance(part, Task):
            return ["", "hint", part]
        right = str(part.answer) if isinstance(part.answer, int) else part.answer[0].upper()
        return ["0 no such thing", "hint", right]

    def readline(self, size: int | None = -1, /) -> str:  # type: ignore[override]  # typeshed: StringIO has bytes
        if not self._lines:
            return ""
        line = self._lines.pop(0)
        if isinstance(line, Task):
            self._workplace.solve(line)
            line = ""
        return f"{line}\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_from_wrong_to_right_and_its_page(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lesson = LESSONS[name]
    if lacks := missing(lesson):
        assert not os.environ.get("CI"), lacks
        pytest.skip("; ".join(map(str, lacks)))
    for key, value in PAGES["SURROUNDINGS"].items():
        monkeypatch.setenv(key, value)
    asked = [part for part in lesson.parts if isinstance(part, Question | Task)]
    workplace = Noting(lesson.folder, tmp_path / "work")
    with workplace:
        monkeypatch.setattr("sys.stdin", Student(workplace, asked))
        assert Talk(workplace, answers=False).teach(lesson)
    said = capsys.readouterr().out
    assert said.rstrip().endswith(f"{len(asked)} of {len(asked)} answered")
    refusals = said.count("\nno\n") + said.count("\nnot yet: ")
    assert refusals == len(asked), "each wrong answer is refused"
    assert said.count("\nhint: ") >= len(asked), "a wrong answer brings a hint"
    with Replaying(lesson.folder, tmp_path / "replay", workplace.ran) as replay:
        written = (PAGES["PAGES"] / f"{name}.md").read_text("utf-8")
        assert written == PAGES["page"](lesson, replay), "run: python docs/lessons.py"


def test_there_is_a_page_for_each_lesson_and_no_other() -> None:
    assert {path.stem for path in PAGES["PAGES"].iterdir()} == set(LESSONS)


OTHER_FIXES = {
    "a flush for each field": (
        "pmem_persist(entry, sizeof entry);",
        "pmem_flush(entry->text, sizeof entry->text); pmem_flush(&entry->length, 16); pmem_drain();",
    ),
    "made beside, then copied": (
        "pmem_persist(entry, sizeof entry);",
        "struct entry made = *entry; pmem_memcpy_persist(entry, &made, sizeof made);",
    ),
}
NO_FIXES = {
    "nothing is appended": ("logbook->count++;", "", "three entries are not there"),
    "the count stays in the cache": (
        "    pmem_persist(&logbook->count, sizeof logbook->count);",
        "    (void)0;",
        "some power failure still loses something",
    ),
    "it does not compile": ("uint64_t length", "uint64_t lenght", "it does not compile"),
}


def check_of(folder: Path, edits: list[tuple[str, str]]) -> str | None:
    """What the check of find-the-bug says about ``append.c`` with ``edits`` made; None when it is content."""
    from emu.cli.lesson_talk import failed_check

    lesson = LESSONS["find-the-bug"]
    if lacks := missing(lesson):
        pytest.skip("; ".join(map(str, lacks)))
    assert lesson.task is not None
    with Workplace(lesson.folder, folder) as workplace:
        (place,) = workplace.hand_out(lesson.task)
        text = place.read_text()
        for old, new in edits:
            assert old in text
            text = text.replace(old, new)
        place.write_text(text)
        return failed_check(workplace, lesson.task)


@pytest.mark.parametrize("fix", OTHER_FIXES)
def test_a_students_own_fix_is_accepted(fix: str, tmp_path: Path) -> None:
    assert check_of(tmp_path, [OTHER_FIXES[fix]]) is None


@pytest.mark.parametrize("wrong", NO_FIXES)
def test_what_only_silences_the_bug_is_not(wrong: str, tmp_path: Path) -> None:
    old, new, words = NO_FIXES[wrong]
    mended = ("sizeof entry)", "sizeof *entry)")
    problem = check_of(tmp_path, [mended, (old, new)])
    assert problem is not None
    assert words in problem
