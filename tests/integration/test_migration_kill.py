"""kill -9 of either process at random moments of a migration: the guest loses nothing, and never runs twice."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from emu.memory import incomplete
from tests.integration.migration_processes import EMU, Emu, verify, wait_until


@pytest.fixture
def emus() -> Iterator[list[Emu]]:
    made: list[Emu] = []
    yield made
    for one in made:
        one.end()


def start(emus: list[Emu], folder: Path) -> tuple[Emu, Emu]:
    destination = Emu(folder, "b", ["--incoming", f"unix:{folder}/m.sock"])
    source = Emu(folder, "a", ["count", "--append", "0 20000"])
    emus += [destination, source]
    wait_until(source.counted, "counting guest")
    # Slow enough that a random moment falls into each phase: about half a second in all.
    assert source.ask("migrate-set-parameters", **{"max-bandwidth": 8 << 20, "downtime-limit": 50}) == {}
    return source, destination


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_the_destination_is_killed(emus: list[Emu], tmp_path: Path, seed: int) -> None:
    source, destination = start(emus, tmp_path)
    source.ask("migrate", uri=f"unix:{tmp_path}/m.sock")
    time.sleep(random.Random(seed).random() * 0.9)
    destination.kill()
    wait_until(lambda: source.ask("query-migrate")["status"] not in ("setup", "active", "device"), "end")
    status = source.ask("query-migrate")["status"]
    marked = incomplete.reason(tmp_path / "b.img") is not None
    if status == "failed":
        at = source.counted()[-1]
        wait_until(lambda: source.counted()[-1] > at, "guest that goes on")
        numbers = source.counted()
        assert numbers == list(range(20000, 20000 * (len(numbers) + 1), 20000))
    elif status == "x-emu-outcome-unknown":
        assert "error" in source.ask("cont")
        if marked:
            assert source.ask("cont", **{"x-emu-force": True}) == {}
    else:
        assert status == "completed"
        assert not marked
        assert "error" in source.ask("cont", **{"x-emu-force": True})
    source.kill()
    if marked:
        done = subprocess.run(
            [*EMU, "run", "verify", "--nvdimm", f"file={tmp_path}/b.img"], capture_output=True, text=True
        )
        assert done.returncode == 2
        assert "incomplete" in done.stderr
    verify(tmp_path / ("b.img" if status == "completed" else "a.img"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_the_source_is_killed(emus: list[Emu], tmp_path: Path, seed: int) -> None:
    source, destination = start(emus, tmp_path)
    source.ask("migrate", uri=f"unix:{tmp_path}/m.sock")
    time.sleep(random.Random(100 + seed).random() * 0.9)
    source.kill()
    wait_until(
        lambda: destination.process.poll() is not None or (destination.ask("query-status") or {}).get("running"),
        "end of the destination's wait",
    )
    if destination.process.poll() is None:
        assert incomplete.reason(tmp_path / "b.img") is None
        wait_until(destination.counted, "guest that goes on")
        destination.kill()
        verify(tmp_path / "b.img")
    else:
        assert destination.process.returncode == 4
        assert "migration-failed" in destination.end()
        # Whatever the destination has is marked, unless nothing had been stored yet; the source's file is whole.
        image = tmp_path / "b.img"
        assert incomplete.reason(image) is not None or not any(image.read_bytes())
        verify(tmp_path / "a.img")


def test_an_incomplete_file_is_used_only_on_request(tmp_path: Path) -> None:
    image = tmp_path / "p.img"
    image.write_bytes(bytes(4 << 20))
    incomplete.mark(image, "a migration into it has not completed")
    words = [*EMU, "run", "hello", "--quiet", "--nvdimm", f"file={image}"]
    refused = subprocess.run(words, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "--accept-incomplete" in refused.stderr
    accepted = subprocess.run([*words, "--accept-incomplete"], capture_output=True, text=True)
    assert accepted.returncode == 0
    assert subprocess.run(words, capture_output=True, text=True).returncode == 0
