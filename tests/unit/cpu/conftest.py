"""Fixtures of the CPU tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.cpu.cpu_harness import Guest


@pytest.fixture
def guest() -> Iterator[Guest]:
    machine = Guest()
    yield machine
    machine.close()
