"""The initial RAM disk's archive, as cpio and the kernel read it."""

from __future__ import annotations

import shutil
import stat
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.errors import UsageError
from emu.linux.cpio import Tree


def entries(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """(mode, data) by name: an independent reader of the newc format."""
    found: dict[str, tuple[int, bytes]] = {}
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        name = archive[at + 110 : at + 110 + fields[11] - 1].decode()
        at += 110 + fields[11]
        at += -at % 4
        if name == "TRAILER!!!":
            return found
        found[name] = fields[1], archive[at : at + fields[6]]
        at += fields[6]
        at += -at % 4


def test_files_directories_links_and_nodes() -> None:
    tree = Tree()
    tree.file("/init", b"run", executable=True)
    tree.file("/a/b/c", b"text")
    tree.link("/lib", "usr/lib")
    tree.node("/dev/console", 5, 1)
    found = entries(tree.archive())
    assert found["init"] == (stat.S_IFREG | 0o755, b"run")
    assert found["a/b/c"] == (stat.S_IFREG | 0o644, b"text")
    assert found["lib"] == (stat.S_IFLNK | 0o777, b"usr/lib")
    assert stat.S_ISDIR(found["a"][0])
    assert stat.S_ISCHR(found["dev/console"][0])
    names = list(found)
    assert all(names.index(name.rpartition("/")[0]) < names.index(name) for name in names if "/" in name)


def test_links_on_the_way_are_followed() -> None:
    tree = Tree()
    tree.link("/bin", "usr/bin")
    tree.link("/usr/up", "../etc/x")
    tree.file("/bin/sh", b"shell")
    tree.file("/usr/up/file", b"1")
    found = entries(tree.archive())
    assert found["usr/bin/sh"][1] == b"shell"
    assert found["etc/x/file"][1] == b"1"
    assert "bin/sh" not in found


def test_links_in_a_circle_end() -> None:
    tree = Tree()
    tree.link("/a", "b")
    tree.link("/b", "a")
    tree.place("/a/x")


def test_same_tree_is_same_bytes_in_any_order() -> None:
    one, other = Tree(), Tree()
    one.file("/x/a", b"1")
    one.file("/y", b"2")
    other.file("/y", b"2")
    other.file("/x/a", b"1")
    assert one.archive() == other.archive()


@pytest.mark.parametrize(("path", "named"), [("/", "/"), ("/d", "/d"), ("/f/below", "/f")])
def test_places_that_are_taken_are_refused(path: str, named: str) -> None:
    tree = Tree()
    tree.directory("/d")
    tree.file("/f", b"")
    with pytest.raises(UsageError, match=f"^{named} is"):
        tree.file(path, b"x")


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio is not installed: apt-get install cpio")
def test_cpio_reads_it(tmp_path: object) -> None:
    tree = Tree()
    tree.file("/one/two", b"content\n")
    done = subprocess.run(
        ["cpio", "-i", "--to-stdout", "one/two"], input=tree.archive(), capture_output=True, check=True
    )
    assert done.stdout == b"content\n"


@given(st.dictionaries(st.text("abc/.", min_size=1, max_size=8), st.binary(max_size=9), max_size=8))
def test_what_is_put_in_comes_out(files: dict[str, bytes]) -> None:
    tree = Tree()
    kept: dict[str, bytes] = {}
    for path, data in files.items():
        try:
            tree.file(path, data)
        except UsageError:
            continue
        kept[tree.place(path)[1:]] = data
    found = entries(tree.archive())
    assert {name: data for name, (mode, data) in found.items() if stat.S_ISREG(mode)} == kept
