"""A lesson as a conversation: shows its parts, reads the student's answers, says what was right."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from collections.abc import Callable

from emu.cli import output
from emu.errors import HostError
from emu.learn.lesson import Check, Command, Lesson, Prose, Question, Task
from emu.learn.workplace import Workplace

_WIDEST = 100
_HELP = "type your answer, or: hint, answer, quit"


class _Quit(Exception):
    """The student leaves, or there is no more input."""


def failed_check(workplace: Workplace, task: Task) -> str | None:
    """What the first check of ``task`` that fails says about the student's files; None when all hold."""
    for check in task.checks:
        problem = workplace.check(check)
        if problem is not None:
            return f"{check.otherwise}\n{problem}" if check.otherwise else problem
    return None


class Talk:
    """One run of a lesson; with ``answers``, nothing is asked and everything is shown."""

    def __init__(self, workplace: Workplace, *, answers: bool) -> None:
        self._workplace = workplace
        self._answers = answers
        self._terminal = sys.stdin.isatty() and sys.stdout.isatty()
        self._width = min(shutil.get_terminal_size().columns, _WIDEST)

    def teach(self, lesson: Lesson) -> bool:
        """Whether every question was answered, and every task done."""
        asked = sum(isinstance(part, Question | Task) for part in lesson.parts)
        right = 0
        output.say(f"{lesson.title} ({lesson.minutes} minutes)")
        try:
            for part in lesson.parts:
                match part:
                    case Prose():
                        self._show(part.text)
                    case Command():
                        self._run(part)
                    case Question():
                        right += self._question(part)
                    case Task():
                        right += self._task(part)
        except _Quit:
            output.say("")
        if self._answers:
            return True
        output.say(f"{right} of {asked} answered")
        return right == asked

    def _show(self, markdown: str) -> None:
        output.say("")
        for line in as_text(markdown, self._width):
            output.say(line)

    def _run(self, command: Command) -> None:
        output.say("")
        for line in command.script.splitlines():
            output.say(f"$ {line}")
        if self._terminal and not self._answers:
            self._read("[Enter] ")
        sys.stdout.flush()
        ran = self._workplace.run(command.script)
        for line in ran.output.splitlines():
            output.say(line)
        if ran.status != command.status:
            raise HostError(
                f"the lesson cannot go on: its command ended with status {ran.status}, not {command.status}",
                "what it printed says why",
            )

    def _question(self, question: Question) -> bool:
        self._show(question.question)
        for number, choice in enumerate(question.choices, 1):
            for line in textwrap.wrap(choice, self._width, initial_indent=f"  {number}  ", subsequent_indent="     "):
                output.say(line)
        right = self._answers or self._until(question.accepts, question.hints, lambda: "no")
        self._prove(question.proof)
        self._show(f"{'right' if right and not self._answers else 'the answer'}: {question.shown_answer}")
        self._show(question.why)
        return right

    def _task(self, task: Task) -> bool:
        places = self._workplace.hand_out(task)
        self._show(task.task)
        if self._answers:
            self._workplace.solve(task)
            problem = failed_check(self._workplace, task)
            if problem is not None:
                raise HostError(f"the lesson's own solution fails: {problem.replace(chr(10), '; ')}")
        else:
            output.say("")
            for place in places:
                output.say(f"your file: {place}")
        found: str | None = None

        def accepts(_: str) -> bool:
            nonlocal found
            found = failed_check(self._workplace, task)
            return found is None

        prompt = "edit it, then press Enter (or type: hint, answer, quit)"
        right = self._answers or self._until(accepts, task.hints, lambda: f"not yet: {found}", prompt)
        if not right or self._answers:
            self._show_solution(task)
        if right and not self._answers:
            self._show("right: every check holds")
        self._show(task.why)
        return right

    def _show_solution(self, task: Task) -> None:
        for name in task.solution:
            self._show(f"one way to do it, {name}:")
            for line in self._workplace.solution_of(task, name).splitlines():
                output.say(f"    {line}")

    def _until(
        self, accepts: Callable[[str], bool], hints: tuple[str, ...], refusal: Callable[[], str], help_: str = _HELP
    ) -> bool:
        """Ask until ``accepts`` or until the student wants to know; a wrong answer brings the next hint."""
        waiting = list(hints)
        output.say("")
        output.say(help_)
        while True:
            given = self._read("> ")
            word = given.lower()
            if word == "quit":
                raise _Quit
            if word == "answer":
                return False
            if word != "hint":
                if accepts(given):
                    return True
                for line in refusal().splitlines():
                    output.say(line)
            if waiting:
                self._show(f"hint: {waiting.pop(0)}")
            elif word == "hint":
                output.say("there are no more hints")

    def _prove(self, proof: Check | None) -> None:
        """Let emu say it; that it says something else is a mistake in the lesson, or a host that is different."""
        if proof is None:
            return
        output.say("")
        output.say(f"$ {proof.run}")
        sys.stdout.flush()
        problem = self._workplace.check(proof)
        if problem is not None:
            raise HostError(f"emu says something else: {problem.replace(chr(10), '; ')}")
        for path, value in proof.expect.items():
            output.say(f"{path}: {value}")

    def _read(self, prompt: str) -> str:
        print(prompt, end="", flush=True)
        line = sys.stdin.readline()
        if not self._terminal:
            output.say(line.rstrip("\n"))
        if not line:
            raise _Quit
        return line.strip()


def as_text(markdown: str, width: int) -> list[str]:
    """Markdown as lines of a terminal: paragraphs wrapped at words, code indented, links as their words."""
    lines: list[str] = []
    for block in re.split(r"(^```.*?^```$)|\n{2,}", markdown.strip(), flags=re.MULTILINE | re.DOTALL):
        if not block or not block.strip():
            continue
        if lines:
            lines.append("")
        block = block.strip("\n")
        if block.startswith("```"):
            lines += [f"    {line}" for line in block.splitlines()[1:-1]]
        elif block.startswith(("|", "    ")):
            lines += block.splitlines()
        else:
            lines += _paragraph(re.sub(r"\[([^\]]*)\]\([^)]*\)|\*\*(.+?)\*\*", r"\1\2", block), width)
    return lines


def _paragraph(block: str, width: int) -> list[str]:
    lines: list[str] = []
    for item in re.split(r"\n(?=\* )", block):
        hang = "  " if item.startswith("* ") else ""
        lines += textwrap.wrap(item, width, subsequent_indent=hang, break_on_hyphens=False, break_long_words=False)
    return lines
