"""Power may fail at any point: NAME must find its data whole after every one of them."""

from pathlib import Path

PROGRAM = Path(__file__).with_name("SOURCE")


def test_it_finds_what_it_left(emu_cc, emu_run, nvdimm_file):
    image, pool = emu_cc(PROGRAM), nvdimm_file("2M")
    assert emu_run(image, "--nvdimm", f"file={pool}").status == 0
    assert emu_run(image, "--nvdimm", f"file={pool}").status == 0


def test_every_power_cut_recovers(emu_cc, emu_crash):
    emu_crash(emu_cc(PROGRAM), "--nvdimm", "size=2M").assert_recovers()
