"""A file with content, and a backend on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from emu.memory import Backend, open_backend
from tests.unit.memory.memory_backends import SIZE, config


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "pmem.img"
    path.write_bytes(bytes(range(256)) * (SIZE // 256))
    return path


@pytest.fixture
def backend(image: Path) -> Iterator[Backend]:
    with open_backend(config(image)) as opened:
        yield opened
