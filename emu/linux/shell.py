"""Which programs a line for the shell runs: the words that stand where a command does, and files that it names.

Read far enough to tell a command from its arguments (POSIX.1-2017, XCU 2.3, 2.9 and 2.10): ``echo open > /pmem/a``
does not run the host's ``open``. A command whose name is only known when it runs is not seen.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

SHELLS = frozenset(("sh", "bash", "dash", "ash", "ksh", "busybox"))
# Reserved words and what every shell does by itself (POSIX.1-2017, XCU 2.4 and 2.14).
WORDS = frozenset(
    ("!", "{", "}", "case", "do", "done", "elif", "else", "esac", "fi", "for", "if", "in", "then", "until", "while",
     ".", ":", "break", "cd", "continue", "echo", "eval", "exec", "exit", "export", "false", "printf", "pwd", "read",
     "return", "set", "shift", "test", "times", "trap", "true", "type", "umask", "unset", "wait", "["),
)  # fmt: skip
_COMMAND_FOLLOWS = frozenset(("!", "{", "do", "elif", "else", "if", "then", "until", "while", "time", "exec", "eval"))
_RUNNERS = frozenset(
    ("chroot", "command", "env", "gdb", "ionice", "ltrace", "nice", "nohup", "setsid", "stdbuf", "strace", "taskset",
     "timeout", "xargs"),
)  # fmt: skip
"""Programs whose arguments are a command, behind options and numbers of their own."""
_FIND_RUNS = frozenset(("-exec", "-execdir", "-ok", "-okdir"))
_HERE_DOCUMENT = re.compile(r"<<-?\s*(['\"]?)(\w+)\1([^\n]*)\n.*?^\t*\2$", re.M | re.S)
_FUNCTION = re.compile(r"(?<![\w.+-])([\w.+-]+)\s*\(\s*\)")
_TOKEN = re.compile(
    r"""(?P<comment>(?<!\S)\#[^\n]*)
      | (?P<assignment>[A-Za-z_]\w*=)
      | (?P<word>[\w./+-]+)
      | '(?P<single>[^']*)'
      | (?P<opens>[$<>]?\() | (?P<closes>\))
      | (?P<separator>\|\|?|&(?!>)(?<!>&)|;|\n|(?<!\S)[{!](?=\s))
      | (?P<redirect>&?[<>]+[&|]?)
      | (?P<variable>\$\{[^}]*\}|\$[\w?$!@*#-])
      | (?P<blank>[^\S\n]+|\\\n) | (?P<other>\\?.)""",
    re.X | re.S,
)
_PATTERN = re.compile(r"[^\S\n]*(\|[^;&()\n]*)?\)")
"""What is behind a word that is a pattern of ``case``."""


class Found(NamedTuple):
    """Programs by the word that names them: those that are run, and files that other words name by a path."""

    run: dict[str, str]
    named: dict[str, str]


def programs_of(text: str, find: Callable[[str], str | None]) -> Found:
    """The programs of the shell's ``text``; ``find`` gives the path of a word's program on this host, if it has one."""
    found = Found({}, {})
    text = _HERE_DOCUMENT.sub(r"\3", text)
    _Reader(found, find, frozenset(_FUNCTION.findall(text))).read(text)
    for word in found.run:
        found.named.pop(word, None)
    return found


class _Reader:
    """``expects``: the next word is a command; ``inside`` holds what was so where each parenthesis was opened;
    ``runs`` is the command that the words belong to, and ``last`` the word before."""

    def __init__(self, found: Found, find: Callable[[str], str | None], functions: frozenset[str]) -> None:
        self._found, self._find, self._functions = found, find, functions
        self._expects = True
        self._inside: list[bool] = []
        self._runs = self._last = ""
        self._joined = False  # the next word belongs to an assignment or a redirection

    def read(self, text: str) -> None:
        at, quoted, substituted = 0, False, False
        while at < len(text):
            match = _TOKEN.match(text, at)
            assert match is not None, "the last alternative takes any character"
            kind, piece, at = match.lastgroup, match[0], match.end()
            if piece == '"':
                closing = text.find('"', at)
                if not quoted and "$(" not in text[at:closing] and "`" not in text[at:closing]:
                    self._quoted(text[at : closing if closing >= 0 else len(text)])
                    at = closing + 1 if closing >= 0 else len(text)
                else:
                    quoted = not quoted
            elif piece == "`":
                substituted = not substituted
                self._expects = substituted
            elif kind == "single" and not quoted:
                self._quoted(match["single"])
            elif kind == "opens" and (not quoted or piece == "$("):
                self._inside.append(self._expects and (piece == "(" or self._joined))
                self._separate()
            elif kind == "closes" and (self._inside or not quoted):
                # Behind a substitution the words go on; behind the pattern of a case comes a command.
                self._expects = self._inside.pop() if self._inside else True
            elif kind in ("separator", "word", "redirect", "assignment", "blank", "comment") and (
                not quoted or self._inside or substituted
            ):
                self._take(kind, piece, is_pattern=kind == "word" and _PATTERN.match(text, at) is not None)
            elif kind == "word":
                self._path(piece)

    def _separate(self) -> None:
        self._expects, self._runs, self._joined = True, "", False

    @property
    def _hands_over(self) -> bool:
        """Whether the next word is a line for a shell."""
        to_shell = self._runs in SHELLS and re.fullmatch(r"-[a-z]*c", self._last) is not None
        return to_shell or self._last in ("eval", "trap")

    def _quoted(self, text: str) -> None:
        """A whole quotation: a command line of its own, a word, or nothing of ours but the paths in it."""
        if self._hands_over:
            _Reader(self._found, self._find, self._functions).read(text)
        elif re.fullmatch(r"[\w./+-]+", text):
            self._take("word", text, is_pattern=False)
        else:
            for word in re.findall(r"[\w./+-]+", text):
                self._path(word)

    def _take(self, kind: str, piece: str, *, is_pattern: bool) -> None:
        match kind:
            case "separator":
                self._separate()
            case "redirect" | "assignment":
                self._joined = True
            case "blank" if not self._last.endswith(("<", ">")):
                self._joined = False
            case "word":
                self._word(piece, is_pattern=is_pattern)
        if kind != "blank":
            self._last = piece

    def _word(self, word: str, *, is_pattern: bool) -> None:
        if self._joined or not (self._expects or self._hands_over):
            self._path(word)
            if not self._joined and word in _FIND_RUNS:
                self._expects, self._runs = True, "find"
            self._joined = False
            return
        if word in _COMMAND_FOLLOWS:
            return
        if is_pattern and not self._inside:
            return
        if self._runs in _RUNNERS and (word.startswith("-") or re.fullmatch(r"[\d.]+[smhd]?", word)):
            return
        name = word.rpartition("/")[2]
        self._runs, self._expects = name, name in _RUNNERS
        if word not in WORDS and word not in self._functions and (path := self._find(word)) is not None:
            self._found.run[word] = path

    def _path(self, word: str) -> None:
        if "/" in word and (path := self._find(word)) is not None:
            self._found.named[word] = path
