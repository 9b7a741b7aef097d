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


def test_what_gives_no_result_raises_with_the_words_of_the_command(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        from emu.testing import EmuRefused

        def test_missing_image(emu_crash, emu_run, nvdimm_file):
            for fixture in (emu_crash, emu_run):
                with pytest.raises(EmuRefused, match="no image 'commit-fxied'"):
                    fixture("commit-fxied", "--nvdimm", f"file={nvdimm_file('2M')}")

        def test_usage(emu_crash, nvdimm_file):
            with pytest.raises(EmuRefused, match="--depth must be at least 1"):
                emu_crash("commit-fixed", "--nvdimm", f"file={nvdimm_file('2M')}", "--depth", "0")

        def test_timeout(emu_run, nvdimm_file):
            with pytest.raises(EmuRefused, match="emu run did not end within 1 s"):
                emu_run("count", "--nvdimm", f"file={nvdimm_file('16M')}", timeout=1)
        """
    )
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=3)


def test_recovers_is_true_only_for_a_complete_passing_exploration_of_something(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize(("image", "options", "recovers", "status"), [
            ("commit-fixed", [], True, 0),
            ("commit-noflush", [], False, 3),
            ("commit-fixed", ["--max-executions", "1"], False, 10),
            ("hello", ["--recover", "commit-fixed", "--max-events", "1"], False, 10),
        ])
        def test_one(emu_crash, nvdimm_file, image, options, recovers, status):
            result = emu_crash(image, "--nvdimm", f"file={nvdimm_file('16M')}", *options)
            assert (result.recovers, result.status) == (recovers, status)

        def test_empty(emu_crash, emu_run, nvdimm_file):
            pool = nvdimm_file("2M")
            assert emu_run("commit-fixed", "--nvdimm", f"file={pool}").status == 0
            again = emu_crash("commit-fixed", "--nvdimm", f"file={pool}")
            assert (again.recovers, again.status) == (False, 12)
            assert "not blank" in again.document["why"][0]
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=5)
