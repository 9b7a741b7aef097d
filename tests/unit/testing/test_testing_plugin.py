"""The pytest plugin, tested by running pytest."""

import pytest

pytest_plugins = ["pytester"]


def test_fixtures_run_a_guest_and_show_its_output_on_failure(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_counts(emu_run, nvdimm_file):
            pool = nvdimm_file("16M")
            first = emu_run("hello", "--nvdimm", f"file={pool}")
            second = emu_run("hello", "--nvdimm", f"file={pool}")
            assert first.status == second.status == 0
            assert first.serial != second.serial
            assert pool.stat().st_size == 16 << 20

        def test_fails(emu_run, nvdimm_file):
            assert emu_run("hello", "--nvdimm", f"file={nvdimm_file('16M')}").status == 1
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*emu run hello*"])


def test_files_go_where_told(pytester: pytest.Pytester) -> None:
    folder = pytester.mkdir("dax")
    pytester.makepyfile(
        f"""
        def test_place(nvdimm_file):
            assert str(nvdimm_file("1M").parent) == {str(folder)!r}
        """
    )
    pytester.runpytest_subprocess(f"--emu-dax-dir={folder}").assert_outcomes(passed=1)
    assert list(folder.iterdir()) == []
