"""Short lessons on persistent memory, in this terminal: read, watch, answer, mend.

A lesson shows what it does and runs it; before that it asks what you expect. Type the number of a choice or the
answer itself, or one of: hint, answer, quit. Where the standard input is no terminal, each of its lines is an answer.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from emu.cli import output
from emu.errors import HostError, Status, UsageError

if TYPE_CHECKING:
    from emu.learn.lesson import Lesson

EPILOG = """\
Status 0: every question was answered and every check holds; 3: not so.

examples:
  emu learn                                the list
  emu learn first-boot --answers           read it as a page
  emu learn find-the-bug --check           is my file in ./find-the-bug right now?
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="the lesson; without, all are listed")
    parser.add_argument(
        "--lessons", action="append", default=[], type=Path, metavar="DIR",
        help="lessons of your own: a folder with a folder for each; repeatable",
    )  # fmt: skip
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--answers", action="store_true", help="ask nothing; show questions with their answers")
    how.add_argument("--check", action="store_true", help="only check what you made of the lesson's task")
    parser.add_argument(
        "--folder", type=Path, metavar="DIR", help="where the files of a task are, or go (default: ./NAME)"
    )
    parser.add_argument(
        "--json", action="store_true", help="print the list as one JSON document (schema emu.lessons/1)"
    )


def run(options: argparse.Namespace) -> int:
    from emu.learn.lesson import find

    if options.name is None:
        if options.check or options.answers or options.folder:
            raise UsageError("which lesson?", "'emu learn' lists them; then: emu learn NAME")
        return _list(options)
    if options.json:
        raise UsageError("--json goes with the list of all lessons only", "leave NAME away")
    lesson = find(options.name, *options.lessons)
    if options.check and lesson.task is None:
        raise UsageError(f"the lesson {lesson.name} has no task to check", f"emu learn {lesson.name}")
    _demand(lesson)
    folder = None if lesson.task is None else options.folder or Path(lesson.name)
    return _check(lesson, folder) if options.check else _teach(lesson, folder, options)


def _list(options: argparse.Namespace) -> int:
    from emu.learn.lesson import lessons
    from emu.learn.needs import missing

    found = lessons(*options.lessons)
    if options.json:
        rows = [
            {
                "name": each.name,
                "title": each.title,
                "minutes": each.minutes,
                "missing": [f"{lack.what}: {lack.remedy}" for lack in missing(each)],
            }
            for each in found.values()
        ]
        output.document({"schema": "emu.lessons/1", "lessons": rows})
        return Status.OK
    width = max(len(name) for name in found)
    title = width + len("  10 min  ")
    for lesson in found.values():
        output.row(f"{lesson.name:<{width}}  {lesson.minutes:>2} min  {lesson.title}")
        for lack in missing(lesson):
            output.row(f"{'':<{title}}{lack.what}: {lack.remedy}")
    output.say("")
    output.say("begin one with: emu learn NAME")
    return Status.OK


def _demand(lesson: Lesson) -> None:
    from emu.learn.needs import missing

    for lack in missing(lesson):
        raise HostError(f"the lesson {lesson.name} cannot run here: {lack.what}", lack.remedy)


def _check(lesson: Lesson, folder: Path | None) -> int:
    from emu.cli.lesson_talk import failed_check
    from emu.learn.workplace import Workplace

    assert lesson.task is not None
    assert folder is not None
    missing = [name for name in lesson.task.files if not (folder / name).is_file()]
    if missing:
        raise UsageError(f"there is no {folder / missing[0]} to check", f"begin with: emu learn {lesson.name}")
    with Workplace(lesson.folder, folder) as workplace:
        problem = failed_check(workplace, lesson.task)
    output.say("right: every check holds" if problem is None else "not yet")
    if problem is not None:
        for line in problem.splitlines():
            output.say(f"  {line}")
    return Status.OK if problem is None else Status.CRASH_STATES_FAIL


def _teach(lesson: Lesson, folder: Path | None, options: argparse.Namespace) -> int:
    from emu.cli.lesson_talk import Talk
    from emu.learn.workplace import Workplace

    if options.answers:
        folder = None  # a solution never goes over a student's file
    with Workplace(lesson.folder, folder) as workplace:
        talk = Talk(workplace, answers=options.answers)
        passed = talk.teach(lesson)
    return Status.OK if passed else Status.CRASH_STATES_FAIL
