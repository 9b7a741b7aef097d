"""The list of mutants fits the code (``make mutants`` runs them): what moves takes its entry along."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutants.__main__ import MUTANTS, misplaced
from tests.mutants.mutant import Mutant

ROOT = Path(__file__).parents[3]


def test_names_are_unique() -> None:
    names = [mutant.name for mutant in MUTANTS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_edit_can_be_made(mutant: Mutant) -> None:
    assert misplaced(mutant) is None


def test_the_tests_are_there() -> None:
    names = sorted({test for mutant in MUTANTS for test in mutant.tests})
    collect = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *names]
    done = subprocess.run(collect, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, [line for line in done.stdout.splitlines() if line.startswith("ERROR")]


def test_an_edit_that_cannot_be_made_is_said() -> None:
    wrong = MUTANTS[0]._replace(old="no such text")
    assert "the text to replace is 0 times in" in str(misplaced(wrong))
