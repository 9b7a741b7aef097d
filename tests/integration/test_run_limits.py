"""Limits on memory (``ulimit -v``): said before Unicorn ends the process with a status that looks like a guest's.

And on open files (``ulimit -n``), which anything may meet.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.run_emu import emu


@pytest.mark.parametrize("megabytes", [30, 100, 200, 400, 1000, 1100, 1300, 2000])
def test_too_little_address_space(megabytes: int, tmp_path: Path) -> None:
    limited = ("sh", "-c", f'ulimit -v {megabytes * 1024}; exec "$@"', "sh")
    result = emu("run", "hello", "--quiet", "--nvdimm", f"file={tmp_path}/p,size=4M", under=limited)
    assert (result.status, result.out) == (4, "")
    assert "ulimit -v" in result.errors[-1]
    assert len(result.errors) == 2
    assert not (tmp_path / "p").exists()


def test_enough_address_space(tmp_path: Path) -> None:
    limited = ("sh", "-c", 'ulimit -v 3000000; exec "$@"', "sh")
    assert emu("run", "hello", "--nvdimm", f"file={tmp_path}/p,size=4M", under=limited).status == 0


@pytest.mark.parametrize("most", [6, 8, 10])
@pytest.mark.parametrize(
    "words",
    [
        ("run", "hello", "--quiet", "--nvdimm", "file=p,size=4M"),
        ("run", "hello", "--quiet", "-qmp", "unix:q,server=on,wait=off", "--nvdimm", "file=p,size=4M"),
        ("crash", "commit-noflush", "--nvdimm", "file=p,size=2M"),
        ("crash", "commit-noflush", "--nvdimm", "file=p,size=2M", "--jobs", "2"),
    ],
    ids=lambda words: " ".join(words[:2] + words[5:]),
)
def test_too_few_open_files(most: int, words: tuple[str, ...], tmp_path: Path) -> None:
    """Each run ends as if there was no limit, or says in one message what it lacks; nothing is left behind."""
    limited = ("sh", "-c", f'cd {tmp_path} && ulimit -n {most}; exec "$@"', "sh")
    result = emu(*words, under=limited)
    if result.status == 4:
        assert "ulimit -n" in result.errors[-1]
        assert len(result.errors) == 2
    else:
        assert result.status == (3 if words[0] == "crash" else 0)
    assert not (tmp_path / "q").exists()


def test_few_open_files_are_few(tmp_path: Path) -> None:
    limited = ("sh", "-c", 'ulimit -n 6; exec "$@"', "sh")
    assert emu("crash", "commit-noflush", "--nvdimm", f"file={tmp_path}/p,size=2M", under=limited).status == 4


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("crash", "commit-noflush", "--nvdimm", "file=POOL,size=2M"), 3),
        (("run", "hello", "--quiet", "--nvdimm", "file=POOL,size=2M"), 0),
        (("run", "hello", "--quiet", "--nvdimm", "file=pool,size=2M"), 4),
        (("probe", "."), 4),
    ],
)
def test_a_working_directory_that_was_removed(words: tuple[str, ...], status: int, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    under = ("sh", "-c", 'cd "$0" && rmdir "$0" && exec "$@"', str(there))
    result = emu(*(word.replace("POOL", str(tmp_path / "pool")) for word in words), under=under)
    assert result.status == status, result


def test_no_file_may_grow(tmp_path: Path) -> None:
    under = ("sh", "-c", 'ulimit -f 0; exec "$@"', "sh")
    words = ("--nvdimm", f"file={tmp_path / 'pool'},size=2M", "--jobs", "2", "--html", tmp_path / "page.html")
    result = emu("crash", "commit-noflush", *words, under=under)
    assert result.status == 4, result
    assert list(tmp_path.iterdir()) == []
