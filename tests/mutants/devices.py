"""The machine and its devices: what a reset, a saved state and an interrupt do; label areas."""

from __future__ import annotations

from .mutant import Mutant

_MACHINE = "emu/machine.py"
_LOOP = "tests/unit/machine/test_machine_loop.py"
_RTC = "tests/unit/devices/test_devices_rtc.py::test_periodic_rates_1_and_2_are_those_of_8_and_9"

MUTANTS = (
    Mutant(
        "reset-of-an-idle-machine",
        "a reset that another thread asks for reaches a guest that waits in HLT",
        _MACHINE,
        "if self.exit is not None or self._calls or self._requests.reset_cause is not None:",
        "if self.exit is not None or self._calls:",
        (f"{_LOOP}::test_a_reset_from_another_thread_reaches_an_idle_guest",),
    ),
    Mutant(
        "restored-and-booted-again",
        "a machine whose state was restored is not booted over it",
        _MACHINE,
        "        self._booted = self._used = True\n",
        "        self._used = True\n",
        (f"{_LOOP}::test_a_restored_machine_goes_on_where_the_saved_one_stood",),
    ),
    Mutant(
        "rtc-rate-1",
        "the RTC's periodic rates 1 and 2 are 256 Hz and 128 Hz",
        "devices/rtc.py",
        "return 1 << (rate - 1 if rate > 2 else rate + 6)",
        "return 1 << (rate - 1 if rate > 1 else rate + 6)",
        (_RTC,),
    ),
    Mutant(
        "rtc-rate-2",
        "the RTC's periodic rates 1 and 2 are not those that the pattern of the others would give",
        "devices/rtc.py",
        "return 1 << (rate - 1 if rate > 2 else rate + 6)",
        "return 1 << (rate - 1)",
        (_RTC,),
    ),
    Mutant(
        "labels-over-an-area-of-another-size",
        "no label command writes over a valid area of another size",
        "emu/cli/label_file.py",
        "        if write and not force:\n",
        "        if write and not force and asked is None:\n",
        ("tests/unit/cli/test_cli_label.py::test_a_label_area_of_any_size_is_found_and_never_overwritten[131072-1.1]",),
    ),
)
