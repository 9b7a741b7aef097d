"""Writes a page for each lesson of `emu learn`, with what its commands really print: python docs/lessons.py [NAME]...

A test fails when a page is behind.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from emu.learn.lesson import Command, Lesson, Prose, Question, Task, lessons
from emu.learn.workplace import Workplace

PAGES = Path(__file__).parent / "tutorial" / "lessons"
SURROUNDINGS = {"COLUMNS": "100", "NO_COLOR": "1"}
"""The environment in which commands print what the pages show."""


def page(lesson: Lesson, workplace: Workplace) -> str:
    """docs/tutorial/lessons/NAME.md: the lesson as something to read, its answers folded away."""
    parts = [*_head(lesson), *(text for part in lesson.parts for text in _part(part, lesson, workplace))]
    return "\n\n".join(parts) + "\n"


def _head(lesson: Lesson) -> Iterator[str]:
    yield f"# {lesson.title}"
    yield "This page is written by `python docs/lessons.py` from the lesson itself, and what it shows was run."
    where = (
        "; `$LESSON` there is the folder of its files" if any("$LESSON" in str(part) for part in lesson.parts) else ""
    )
    yield f"In your terminal, where it asks first ({lesson.minutes} minutes): `emu learn {lesson.name}`{where}."


def _part(part: Prose | Command | Question | Task, lesson: Lesson, workplace: Workplace) -> Iterator[str]:
    match part:
        case Prose():
            yield part.text
        case Command():
            yield f"```sh\n{part.script}\n```"
            ran = workplace.run(part.script)
            if ran.status != part.status:
                raise SystemExit(f"{lesson.name}: {part.script}: status {ran.status}, not {part.status}\n{ran.output}")
            if ran.output:
                yield f"```text\n{ran.output.rstrip()}\n```"
        case Question():
            yield f"**Question:** {part.question}"
            yield "\n".join(f"{number}. {choice}" for number, choice in enumerate(part.choices, 1)) or _TYPED
            yield from _folded("The answer", _answer(part, workplace))
        case Task():
            yield from _task(part, lesson, workplace)


_TYPED = "*(The answer is to be typed.)*"


def _answer(question: Question, workplace: Workplace) -> Iterator[str]:
    yield f"{question.shown_answer.rstrip('.')}. {question.why.strip()}"
    if question.proof is not None:
        problem = workplace.check(question.proof)
        if problem is not None:
            raise SystemExit(problem)
        found = "\n".join(f"{path}: {value!r}" for path, value in question.proof.expect.items())
        yield f"```sh\n{question.proof.run}\n```"
        yield f"```text\n{found}\n```"


def _task(task: Task, lesson: Lesson, workplace: Workplace) -> Iterator[str]:
    yield f"**Task:** {task.task.strip()}"
    workplace.hand_out(task)
    for name in task.files:
        yield f"`{name}`, as you get it:"
        yield f"```c\n{(lesson.folder / name).read_text('utf-8').rstrip()}\n```"
    for number, hint in enumerate(task.hints, 1):
        yield from _folded(f"Hint {number}", iter([hint]))
    workplace.solve(task)
    for check in task.checks:
        problem = workplace.check(check)
        if problem is not None:
            raise SystemExit(problem)
    yield from _folded("The answer", _solution(task, workplace))


def _solution(task: Task, workplace: Workplace) -> Iterator[str]:
    yield task.why.strip()
    for name in task.solution:
        yield f"One way to do it, `{name}`:"
        yield f"```c\n{workplace.solution_of(task, name).rstrip()}\n```"


def _folded(title: str, texts: Iterator[str]) -> Iterator[str]:
    yield f"<details><summary>{title}</summary>"
    yield from texts
    yield "</details>"


def main(names: list[str]) -> None:
    PAGES.mkdir(exist_ok=True)
    os.environ.update(SURROUNDINGS)
    known = lessons()
    for name in names or known:
        with Workplace(known[name].folder) as workplace:
            (PAGES / f"{name}.md").write_text(page(known[name], workplace), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
