"""The pytest plugin, tested by running pytest."""

from xml.etree import ElementTree

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


def test_files_have_sizes_as_numbers_and_as_texts(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_sizes(nvdimm_file):
            assert nvdimm_file(4096).stat().st_size == 4096
            assert nvdimm_file("2M").stat().st_size == 2 << 20
            assert nvdimm_file().stat().st_size == 64 << 20
        """
    )
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)


def test_a_failure_reads_as_the_command_does_and_keeps_what_it_is_about(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_asserted(emu_crash, nvdimm_file):
            emu_crash("commit-noflush", "--nvdimm", f"file={nvdimm_file('2M')}").assert_recovers()

        def test_bare(emu_crash, nvdimm_file):
            assert emu_crash("commit-noflush", "--nvdimm", "size=2M").recovers

        def test_good(emu_crash, nvdimm_file):
            emu_crash("commit-fixed", "--nvdimm", f"file={nvdimm_file('2M')}").assert_recovers()
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "--emu-artifacts=kept", "--junit-xml=report.xml")
    result.assert_outcomes(passed=1, failed=2)
    kept = pytester.path / "kept"
    folders = {path.name.rpartition("test_")[2]: path for path in kept.iterdir()}
    assert folders.keys() == {"asserted", "bare"}  # and nothing of what passed
    asserted, bare = folders["asserted"], folders["bare"]
    command = f"emu crash commit-noflush --nvdimm file={asserted}/nvdimm-0.img"
    said = [line.removeprefix("E").strip() for line in result.outlines if line.startswith("E ")]
    for words in (
        "1. missing flush: the line of the store is never flushed after it",
        "lost       event 6: 8 bytes at offset 0x80, main+0x13f, commit.c:36",
        "to do      flush the line after this store (CLWB or CLFLUSHOPT)",
        "1. lost       commit.c:36: ",
        f"again: {command}",
        f"report page: {asserted}/crash-1/report.html",
    ):
        assert any(line.startswith(words) for line in said), words
    # Where CI is set, pytest's own summary says a failure's whole text once more.
    said_by_emu, _, _ = result.stdout.str().partition("short test summary info")
    assert said_by_emu.count("1. missing flush: ") == 2  # each once
    assert "<emu crash commit-noflush: failed, missing flush at commit.c:36>.recovers" in result.stdout.str()
    assert (asserted / "crash-1" / "report.html").stat().st_size > 10_000
    assert (asserted / "crash-1" / "failure-01-nvdimm0.img").stat().st_size == 2 << 20
    assert (asserted / "nvdimm-0.img").exists()
    report = ElementTree.parse(pytester.path / "report.xml")
    cases = {case.get("name"): case for case in report.iter("testcase")}
    for folder, name in ((asserted, "test_asserted"), (bare, "test_bare")):
        failure = cases[name].find("failure")
        assert failure is not None
        assert "to do      flush the line" in (failure.text or "")
        properties = {item.get("name"): item.get("value") for item in cases[name].iter("property")}
        assert properties["emu report page"] == f"{folder}/crash-1/report.html"


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


def test_files_of_a_failing_test_are_kept_wherever_they_are(pytester: pytest.Pytester) -> None:
    folder = pytester.mkdir("dax")
    pytester.makepyfile(
        """
        def test_fails(nvdimm_file):
            nvdimm_file(4096)
            assert False

        def test_passes(nvdimm_file):
            nvdimm_file(4096)
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", f"--emu-dax-dir={folder}")
    result.assert_outcomes(passed=1, failed=1)
    (kept,) = folder.iterdir()
    result.stdout.fnmatch_lines(["*NVDIMM files, kept*", str(kept)])
    assert f"emu: NVDIMM files in {folder}: MAP_SYNC " in result.stdout.str()


@pytest.mark.parametrize("option", ["--emu-dax-dir=absent", "--emu-dax-dir=a-file", "--emu-artifacts=a-file"])
def test_a_folder_that_is_none_is_said_once_before_any_test(pytester: pytest.Pytester, option: str) -> None:
    (pytester.path / "a-file").touch()
    pytester.makepyfile("def test_one(): pass")
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.stderr.str().count(f"ERROR: {option.replace('=', ' ')}: not a ") == 1


def test_a_refusal_shows_the_test_and_emus_words(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_option(emu_run):
            emu_run("hello", "--nvdim", "size=2M")

        def test_crash(emu_crash):
            emu_crash("nothere", "--nvdimm", "size=2M")

        def test_source(emu_cc):
            emu_cc("absent.c")

        def test_monitor(emu_machine):
            emu_machine("echo").qmp

        def test_image(emu_qmp):
            emu_qmp("nothere")
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(failed=5)
    shown = result.stdout.str()
    assert "did you mean '--nvdimm'?" in shown
    assert shown.count("no image 'nothere'") >= 2
    assert "this machine has no monitor" in shown
    assert "emu/testing" not in shown


def test_a_machine_is_talked_to_while_it_runs(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import re
        import pytest
        from emu.testing import EmuRefused, NotSeen

        def test_conversation(emu_machine):
            machine = emu_machine("echo")
            machine.wait_for("ready")
            machine.type("put a 1\\n")
            assert machine.wait_for(re.compile(r"echo: put \\w 1")).endswith("put a 1")
            assert machine.status is None
            machine.type("\\x04")
            assert machine.wait() == 0
            assert machine.serial.endswith("bye\\n")

        def test_not_seen(emu_machine):
            machine = emu_machine("echo")
            with pytest.raises(NotSeen, match="waited for 'steady': it was not printed within 1 s"):
                machine.wait_for("steady", timeout=1)
            machine.type("\\x04")
            with pytest.raises(NotSeen, match="(?s)the machine ended without printing it.*bye.*ended with status 0"):
                machine.wait_for("again")
            with pytest.raises(EmuRefused, match="no monitor"):
                machine.qmp

        def test_once(emu_machine):
            machine = emu_machine("echo")
            machine.wait_for("ready")
            with pytest.raises(NotSeen):
                machine.wait_for("ready", timeout=0.2)

        def test_kill(emu_machine, emu_run, nvdimm_file):
            pool = f"file={nvdimm_file('2M')}"
            machine = emu_machine("count", "--nvdimm", pool)
            machine.wait_for("\\n")
            machine.kill()
            assert machine.status == -9
            assert emu_run("verify", "--nvdimm", pool).status == 0
        """
    )
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=4)


def test_a_machine_moves(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        from emu.testing import EmuRefused

        def test_move(emu_qmp, emu_migrate, nvdimm_file):
            source = emu_qmp("count", "--nvdimm", f"file={nvdimm_file('2M')}")
            source.wait_for("\\n")
            with pytest.raises(EmuRefused, match="size"):
                emu_migrate(source, "--nvdimm", f"file={nvdimm_file('4M')}")
            assert source.qmp.execute("query-status")["status"] == "running"
            target = emu_migrate(source, "--nvdimm", f"file={nvdimm_file('2M')}")
            assert source.wait() == 0
            target.wait_for("\\n")
            assert target.qmp.execute("query-status")["running"] is True

        def test_refused(emu_qmp):
            with pytest.raises(EmuRefused, match="no image 'absent'"):
                emu_qmp("absent")
        """
    )
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=2)
