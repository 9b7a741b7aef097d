"""How machines, tables, labels and answers show themselves in a notebook: small, well-formed and escaped."""

from __future__ import annotations

from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from uuid import UUID

import pytest

import emu
from emu.api.parts import Labels, Table
from emu.devices.nvdimm.index import Version
from emu.devices.nvdimm.labels import BytesLabels, initialise
from emu.devices.nvdimm.namespace import Mode, Namespace

LARGEST = 64 << 10
EVIL = "<script>alert('x')</script>"


class Page(HTMLParser):
    """Sees that elements nest and close; ``seen`` are their names, ``text`` what is between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.add(tag)
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def shown(thing: object) -> Page:
    show: Callable[[], str] = thing._repr_html_  # type: ignore[attr-defined]  # as a notebook calls it
    text = show()
    assert len(text) < LARGEST
    page = Page(text)
    assert page.seen <= {"div", "strong", "table", "thead", "tbody", "tr", "th", "td", "pre"}
    return page


def test_a_machine_shows_its_nvdimms_and_what_was_printed(tmp_path: Path) -> None:
    folder = tmp_path / "<b>&amp;"
    folder.mkdir()
    with emu.Machine("hello", nvdimms=[emu.Nvdimm(folder / "p.img", size="2M", id="first")]) as machine:
        assert "not started" in shown(machine).text
        machine.run(timeout=60)
        page = shown(machine)
        for words in ("power-off, status 0", "128 MiB", "first", str(folder), "boot 1", "kill of emu"):
            assert words in page.text
        machine._print(EVIL.encode())
        assert EVIL in shown(machine).text
        assert str(folder) in shown(machine.nvdimms[0]).text
        assert "2 MiB at 0x100000000" in repr(machine.nvdimms[0])
        tables = machine.tables
    assert "closed" in shown(machine).text
    assert "System Physical Address" in shown(tables["NFIT"]).text
    assert repr(tables["NFIT"]) == "<emu ACPI table NFIT: 224 bytes>"


@pytest.mark.parametrize("data", [b"", b"NFIT", bytes(100), b"<a>&" * 30])
def test_any_bytes_as_a_table(data: bytes) -> None:
    assert "bytes" in shown(Table("<x>", data)).text


def test_labels_show_their_namespaces() -> None:
    storage = BytesLabels(bytearray(128 << 10))
    area = initialise(storage, Version.V1_2)
    area.create(Namespace(UUID(int=7), 0, 16 << 20, "<evil>", Mode.FSDAX), 0)
    labels = Labels(bytes(storage.content))
    assert labels.valid
    page = shown(labels)
    for words in ("<evil>", str(UUID(int=7)), "16 MiB"):
        assert words in page.text
    assert repr(labels) == "<emu label area of 128 KiB: 1 label>"
    blank = Labels(bytes(128 << 10))
    assert not blank.valid
    assert blank.problems[0] in shown(blank).text


def test_an_answer_shows_its_verdict_and_causes(tmp_path: Path) -> None:
    with emu.crash("commit-noflush", nvdimms=[emu.Nvdimm(tmp_path / "p.img", size="2M")]) as answer:
        page = shown(answer)
    for words in ("failed: Some crash states do not recover", "missing flush", "dax-sync", "complete", "yes"):
        assert words in page.text
