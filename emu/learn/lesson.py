"""A lesson as it is written: one Markdown file, read from top to bottom, and the files that it hands out.

``lesson.md`` begins with a head between two lines ``+++`` (TOML: ``title``, ``minutes``, ``needs``). What follows is
prose, in which three kinds of fenced blocks have a meaning: ``sh`` is run (``sh status=3`` where it ends so), ``toml
question`` asks, ``toml task`` hands files out and checks what the student made of them. Other blocks are shown.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from emu.errors import UsageError

__all__ = ["BUNDLED", "Check", "Command", "Lesson", "Prose", "Question", "Task", "find", "lessons", "read"]

BUNDLED = Path(__file__).resolve().parent / "lessons"
"""The folder of the lessons that come with emu."""

_FILE = "lesson.md"
_HEAD = re.compile(r"\A\+\+\+\n(.*?\n)\+\+\+\n", re.DOTALL)
_FENCE = re.compile(r"^```(sh|toml)(?: +([^\n]*))?\n(.*?)^```\n?", re.MULTILINE | re.DOTALL)
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Prose:
    """Markdown to read."""

    text: str


@dataclass(frozen=True, slots=True)
class Command:
    """A shell script to show and to run; it must end with ``status``."""

    script: str
    status: int = 0


@dataclass(frozen=True, slots=True)
class Check:
    """A command whose exit status, and whose JSON document at dotted paths (``expect``), are known beforehand.

    ``otherwise`` says to the student what it means when they are not so.
    """

    run: str
    status: int = 0
    expect: dict[str, Any] = field(default_factory=dict)
    otherwise: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """``answer`` is the number of a choice, counted from 1, or, without choices, the texts that are right.

    ``proof`` is what emu itself says about it; it is run when the question is answered.
    """

    question: str
    answer: int | tuple[str, ...]
    why: str
    choices: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()
    proof: Check | None = None

    def accepts(self, given: str) -> bool:
        """Whether ``given``, as it was typed, is right: blanks and capitals do not count."""
        given = " ".join(given.lower().split())
        if isinstance(self.answer, int):
            return given in (str(self.answer), self.choices[self.answer - 1].lower())
        return given in (" ".join(each.lower().split()) for each in self.answer)

    @property
    def shown_answer(self) -> str:
        """The right answer, for whoever wants to read it."""
        return self.choices[self.answer - 1] if isinstance(self.answer, int) else self.answer[0]


@dataclass(frozen=True, slots=True)
class Task:
    """Something to do with ``files``; right is what passes all ``checks``. ``solution`` holds one way to do it."""

    task: str
    files: tuple[str, ...]
    checks: tuple[Check, ...]
    solution: dict[str, str]
    why: str
    hints: tuple[str, ...] = ()


Part = Prose | Command | Question | Task


@dataclass(frozen=True, slots=True)
class Lesson:
    """One lesson. ``name`` is its folder's, without the number that gives its place in the list."""

    name: str
    folder: Path
    title: str
    minutes: int
    needs: tuple[str, ...]
    parts: tuple[Part, ...]

    @property
    def task(self) -> Task | None:
        """Its task, where it has one."""
        return next((part for part in self.parts if isinstance(part, Task)), None)


def lessons(*more: Path) -> dict[str, Lesson]:
    """All lessons by name: the bundled ones, and those in the folders ``more``, of which the last of a name counts."""
    found: dict[str, Lesson] = {}
    for folder in (BUNDLED, *more):
        if not folder.is_dir():
            raise UsageError(f"{folder} is not a folder", "give --lessons a folder that holds a folder for each lesson")
        written = sorted(folder.glob(f"*/{_FILE}"))
        if not written:
            raise UsageError(f"there is no lesson in {folder}", f"a lesson is a folder there with a file {_FILE}")
        for file in written:
            lesson = read(file.parent)
            found[lesson.name] = lesson
    return found


def find(name: str, *more: Path) -> Lesson:
    """The lesson called ``name``. UsageError when there is none."""
    known = lessons(*more)
    if name not in known:
        raise UsageError(f"there is no lesson {name!r}", f"there are: {', '.join(known)}")
    return known[name]


def read(folder: Path) -> Lesson:
    """The lesson in ``folder``. UsageError with file and line when it is not written as one."""
    file = folder / _FILE
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        raise UsageError(f"{file} cannot be read: {why}", "a lesson is a text in UTF-8") from None
    head = _HEAD.match(text)
    if head is None:
        raise _wrong(file, 1, "it does not begin with +++, title and minutes, +++")
    table = _Table(file, 1, _toml(file, 1, head[1]))
    lesson = Lesson(
        name=re.sub(r"^\d+-", "", folder.name),
        folder=folder,
        title=table.take("title", str),
        minutes=table.take("minutes", int),
        needs=table.texts("needs"),
        parts=tuple(_parts(file, text, head.end())),
    )
    table.end()
    if sum(isinstance(part, Task) for part in lesson.parts) > 1:
        raise _wrong(file, 1, "it has more than one task")
    return lesson


def _parts(file: Path, text: str, start: int) -> Iterator[Part]:
    for fence in _FENCE.finditer(text, start):
        line = text.count("\n", 0, fence.start()) + 1
        part = _block(file, line, fence)
        if part is None:
            continue
        if before := text[start : fence.start()].strip():
            yield Prose(before)
        start = fence.end()
        yield part
    if rest := text[start:].strip():
        yield Prose(rest)


def _block(file: Path, line: int, fence: re.Match[str]) -> Part | None:
    """What a fenced block means; None for one that is only shown."""
    language, words, body = fence[1], fence[2] or "", fence[3]
    if language == "sh":
        status = re.fullmatch(r"(?:status=(\d+))?", words.strip())
        if status is None:
            raise _wrong(file, line, f"after 'sh' may stand 'status=NUMBER', not {words!r}")
        return Command(body.strip(), int(status[1] or 0))
    if words not in ("question", "task"):
        return None
    table = _Table(file, line, _toml(file, line, body))
    part = _question(table) if words == "question" else _task(table, file.parent)
    table.end()
    return part


def _question(table: _Table) -> Question:
    question = table.take("question", str)
    choices = table.texts("choices")
    answer: int | tuple[str, ...]
    if choices:
        answer = table.take("answer", int)
        if not 1 <= answer <= len(choices):
            raise table.wrong(f"answer is the number of a choice, 1 to {len(choices)}")
    else:
        answer = table.texts("answer")
        if not answer:
            raise table.wrong("answer is a list of texts, or there are choices")
    proof = table.take("proof", dict, None)
    return Question(
        question,
        answer,
        table.take("why", str),
        choices,
        table.texts("hints"),
        None if proof is None else _check(table, proof),
    )


def _task(table: _Table, folder: Path) -> Task:
    checks = table.take("check", list, [])
    if not checks or not all(isinstance(check, dict) for check in checks):
        raise table.wrong("a task has tables [[check]]")
    files = table.texts("files")
    solution = table.take("solution", dict, {})
    for name in (*files, *solution.values()):
        if not isinstance(name, str) or not (folder / name).is_file():
            raise table.wrong(f"the lesson's folder has no file {name!r}")
    if not files or not set(solution) <= set(files):
        raise table.wrong("files are what the student gets, and solution says which of them become what")
    return Task(
        table.take("task", str),
        files,
        tuple(_check(table, check) for check in checks),
        solution,
        table.take("why", str),
        table.texts("hints"),
    )


def _check(table: _Table, entries: dict[str, Any]) -> Check:
    inner = _Table(table.file, table.line, entries)
    check = Check(
        inner.take("run", str),
        inner.take("status", int, 0),
        inner.take("expect", dict, {}),
        inner.take("otherwise", str, ""),
    )
    inner.end()
    return check


class _Table:
    """A TOML table of a lesson, of which each key is taken once, and none may be left."""

    def __init__(self, file: Path, line: int, entries: dict[str, Any]) -> None:
        self.file = file
        self.line = line
        self._entries = dict(entries)

    def take(self, key: str, kind: type[_Value], *default: Any) -> _Value:
        if key not in self._entries and default:
            value: _Value = default[0]
            return value
        value = self._entries.pop(key, None)
        if not isinstance(value, kind) or isinstance(value, bool):
            names = {str: "a text", int: "a number", dict: "a table", list: "a list"}
            raise self.wrong(f"{key} must be {names[kind]}")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts, which may be missing."""
        values = self.take(key, list, [])
        if not all(isinstance(value, str) for value in values):
            raise self.wrong(f"{key} must be a list of texts")
        return tuple(values)

    def end(self) -> None:
        for key in self._entries:
            raise self.wrong(f"{key!r} is no key that a lesson knows here")

    def wrong(self, what: str) -> UsageError:
        return _wrong(self.file, self.line, what)


def _toml(file: Path, line: int, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _wrong(file, line, f"not TOML: {error}") from None
    except (ValueError, RecursionError):  # more than 4300 digits; hundreds of brackets
        raise _wrong(file, line, "a number is too long, or a value nested too deeply") from None


def _wrong(file: Path, line: int, what: str) -> UsageError:
    return UsageError(f"{file}:{line}: {what}", "docs/how-to/write-a-lesson.md says how a lesson is written")
