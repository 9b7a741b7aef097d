"""The list of mutants fits the code (``make mutants`` runs them): what moves takes its entry along."""

from __future__ import annotations

from pathlib import Path

import pytest
from mutants.__main__ import MUTANTS, misplaced
from mutants.mutant import Mutant

ROOT = Path(__file__).parents[3]


def test_names_are_unique() -> None:
    names = [mutant.name for mutant in MUTANTS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_edit_can_be_made_and_its_tests_are_there(mutant: Mutant) -> None:
    assert misplaced(mutant) is None
    for test in mutant.tests:
        file, _, function = test.partition("::")
        assert f"def {function.partition('[')[0]}(" in (ROOT / file).read_text()


def test_an_edit_that_cannot_be_made_is_said() -> None:
    wrong = MUTANTS[0]._replace(old="no such text")
    assert "the text to replace is 0 times in" in str(misplaced(wrong))
