"""Recovery that waits in HLT for an interrupt that never comes ends, and is a failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from emu.config import BackendConfig, BackendKind, MachineConfig, NvdimmConfig
from emu.machine import Exit
from emu.persistence.lab.explore import Interrupted
from emu.persistence.lab.interruption import Interruption
from emu.persistence.lab.recovery import MachineRecovery

READ = bytes.fromhex("48bb0000000001000000488b03")  # mov rbx, 4 GiB; mov rax, [rbx]
WAIT = b"\xfb\xf4\xeb\xfd"  # sti; again: hlt; jmp again
# All interrupts masked; the timer at 59.7 kHz.
MASKED_TIMER = bytes.fromhex("b0ffe621b034e643b014e640b000e640")


def machine(folder: Path, code: bytes) -> MachineConfig:
    image = folder / "guest.bin"
    image.write_bytes(code)
    backend = BackendConfig(id="m", kind=BackendKind.RAM, size=2 << 20)
    return MachineConfig(image=str(image), slots=1, nvdimms=(NvdimmConfig(backend=backend),), ram_size=16 << 20)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("before", [READ, READ + MASKED_TIMER, b""], ids=["no event", "masked events", "no access"])
def test_recovery_does_not_wait_for_ever(tmp_path: Path, before: bytes) -> None:
    recovery = MachineRecovery(machine(tmp_path, before + WAIT))
    try:
        for _ in range(2):
            verdict = recovery.run(frozenset(), lambda unit, mask: 0).verdict
            assert (verdict.ok, verdict.reason) == (False, "timeout")
    finally:
        recovery.close()


def test_recovery_that_was_interrupted_before_its_first_access_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two machines are booted to find that access; here the second is interrupted."""
    interruption = Interruption()
    recovery = MachineRecovery(machine(tmp_path, READ + WAIT), interruption=interruption)
    first_access = recovery._first_access

    def then_interrupted() -> tuple[int, Exit | None]:
        found = first_access()
        interruption.ask()
        return found

    monkeypatch.setattr(recovery, "_first_access", then_interrupted)
    try:
        with pytest.raises(Interrupted):
            recovery.run(frozenset(), lambda unit, mask: 0)
    finally:
        recovery.close()
