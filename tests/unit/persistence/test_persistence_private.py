"""The machine of the laboratory is the one that would run, and no file is made or changed for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from emu import board
from emu.config import BackendConfig, MachineConfig, NvdimmConfig, OnOffAuto
from emu.errors import EmuError
from emu.memory import open_backend
from emu.persistence.lab.private import private
from emu.units import KIB, MIB

WAYS: dict[str, Callable[[Path], object]] = {
    "absent": lambda path: None,
    "empty": Path.touch,
    "full": lambda path: path.write_bytes(bytes(4 * MIB)),
}


def machine(path: Path, size: int | None, label_size: int = 0, align: int = 0) -> MachineConfig:
    backend = BackendConfig(id="m", path=str(path), size=size, share=True, align=align)
    return MachineConfig(slots=1, nvdimms=(NvdimmConfig(backend=backend, label_size=label_size),))


def seen(config: MachineConfig) -> tuple[int, int, int]:
    """Where the guest sees the NVDIMM, how much of it, and its labels."""
    with board.build(config, board.Outputs()) as built:
        (device,) = (dimm.device for dimm in built.nvdimms)
        return device.gpa, device.size, device.label_size


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("align", [0, 2 * MIB])
def test_the_nvdimm_is_as_large_as_that_of_a_run(way: str, align: int, tmp_path: Path) -> None:
    path = tmp_path / "pool"
    WAYS[way](path)
    config = machine(path, 4 * MIB, 128 * KIB, align)
    before = path.stat().st_size if path.exists() else None
    private_one = seen(private(config))
    assert (path.stat().st_size if path.exists() else None) == before
    assert private_one == seen(config)


@pytest.mark.parametrize("way", ["absent", "empty"])
@pytest.mark.parametrize(("size", "align"), [(5000, 0), (None, 0), (4 * MIB, 3 * MIB)])
def test_what_a_run_refuses_is_refused_in_the_same_words(
    way: str, size: int | None, align: int, tmp_path: Path
) -> None:
    path = tmp_path / "pool"
    WAYS[way](path)
    config = machine(path, size, align=align)
    words = []
    for tried in (config, private(config)):
        with pytest.raises(EmuError) as refused:
            open_backend(tried.nvdimms[0].backend)
        words.append(str(refused.value))
    assert words[0] == words[1]
    assert path.exists() == (way == "empty")


def test_zeros_stand_in_for_a_blank_file_and_stores_do_not_reach_it(tmp_path: Path) -> None:
    path = tmp_path / "pool"
    path.touch()
    (dimm,) = private(machine(path, 64 * KIB)).nvdimms
    assert dimm.backend.sync is OnOffAuto.OFF
    with open_backend(dimm.backend) as backend:
        assert bytes(backend.mapping.view) == bytes(64 * KIB)
        backend.mapping.view[0] = 1
    assert path.stat().st_size == 0
