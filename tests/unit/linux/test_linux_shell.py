"""What a line for the shell runs, and what its words only say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.linux.shell import programs_of

HERE = frozenset(
    ("cat", "sort", "open", "grep", "printf", "env", "timeout", "xargs", "find", "sh", "./m", "/bin/m", "awk")
)


def found_in(text: str) -> tuple[set[str], set[str]]:
    found = programs_of(text, lambda word: word if word in HERE else None)
    return set(found.run), set(found.named)


@pytest.mark.parametrize(
    ("text", "run"),
    [
        ("cat open | sort > open", "cat sort"),
        ("echo open > /pmem/a; cat /pmem/a", "cat"),
        ("echo 'open cat' \"sort $x open\" # grep\ngrep x", "grep"),
        ("echo $(cat open) `sort open` open", "cat sort"),
        ('echo "open $(cat "x y") open" open; sort', "cat sort"),
        ("if cat open; then sort open; elif ! grep x; then :; else find y; fi", "cat sort grep find"),
        ("for open in cat sort; do grep $open; done", "grep"),
        ("case open in open | cat) sort;; *) grep x;; esac", "sort grep"),
        ("X=1 Y=open cat open", "cat"),
        ("X=$(cat y) sort open", "cat sort"),
        ("cat<open 2>&1 >open|sort&grep", "cat sort grep"),
        ("> open cat x", "cat"),
        ("(cat open; sort) && { grep open; }", "cat sort grep"),
        ("env -i A=1 ./m open", "env ./m"),
        ("timeout 5s ./m open", "timeout ./m"),
        ("cat | xargs -n 1 grep open", "cat xargs grep"),
        ("find . -name open -exec grep -l open {} +", "find grep"),
        ("sh -ec 'cat open; sort'", "sh cat sort"),
        ("grep -c 'open' x", "grep"),
        ("trap 'cat x' EXIT; eval \"sort y\"", "cat sort"),
        ("open() { cat open; }; open", "cat"),
        ("cat <<E | sort\nopen\ngrep open\nE\nfind x", "cat sort find"),
        ("awk '{ print; open | cat }' x", "awk"),
        ("echo ${open:-cat} $open", ""),
        ("cat \\\n open", "cat"),
        ("'cat' x", "cat"),
    ],
)
def test_programs_are_the_words_where_a_command_stands(text: str, run: str) -> None:
    assert found_in(text)[0] == set(run.split())


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("cat /bin/m ./m", {"/bin/m", "./m"}),
        ("echo 'a ./m'", {"./m"}),
        ("P=./m; $P x", {"./m"}),
        ("./m /bin/m", {"/bin/m"}),
        ("cat ./m; ./m", set()),
        ("cat m", set()),
    ],
)
def test_files_that_are_named_by_a_path_come_along(text: str, named: set[str]) -> None:
    assert found_in(text)[1] == named


@given(st.text(alphabet=" \n'\"`$(){}|&;<>=#\\!catsor./-EOF", max_size=60))
def test_any_text_is_read_to_its_end(text: str) -> None:
    run, named = found_in(text)
    assert run <= HERE
    assert named <= {"./m", "/bin/m"}
