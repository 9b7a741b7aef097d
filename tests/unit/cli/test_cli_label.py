"""``emu label``: ndctl's words and keys, the right status for every mistake, and files that stay whole."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from emu.cli.main import main
from emu.devices.nvdimm.device import MappedLabels
from emu.errors import Status
from emu.units import KIB, MIB
from tests import documents

SIZE = 20 * MIB
LABEL_SIZE = 128 * KIB
IDENTITY = "3f2504e0-4f89-41d3-9a0c-0305e82c3301"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "pmem.img"
    with path.open("wb") as file:
        file.truncate(SIZE)
    return path


class Command:
    """Runs ``emu label``; keeps what it printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.out = ""
        self.err = ""

    def __call__(self, *words: object) -> int:
        status = main(["label", *map(str, words)])
        self.out, self.err = self._capsys.readouterr()
        assert "Traceback" not in self.err
        assert len(self.err.splitlines()) <= 2
        return status

    def document(self, *words: object, status: int = Status.OK) -> dict[str, Any]:
        assert self(*words, "--json") == status, self.err
        document: dict[str, Any] = json.loads(self.out)
        assert next(iter(document)) == "schema"
        assert document["schema"] == "emu.label/1"
        return documents.check(document)


@pytest.fixture
def emu_label(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


def is_zero(data: bytes) -> bool:
    return data == bytes(len(data))


def tail(path: Path, size: int = LABEL_SIZE) -> bytes:
    return path.read_bytes()[-size:]


def test_init_is_ndctls(image: Path, emu_label: Command) -> None:
    assert emu_label("init", image, "--label-size", "128K") == 0
    assert "version 1.1, 1020 slots" in emu_label.out
    index = tail(image)[:512]
    assert index[64:72] == (0xEB634621D7313E0A).to_bytes(8, "little")
    assert index[256 + 64 : 256 + 72] == (0xEB6349E6D7313E09).to_bytes(8, "little")
    assert is_zero(image.read_bytes()[: SIZE - LABEL_SIZE])
    assert emu_label("init", image) == Status.USAGE
    assert "already initialised" in emu_label.err
    assert emu_label.document("init", image, "-f", "-V", "1.2")["nslot"] == 510


def test_read_json_has_ndctls_keys(image: Path, emu_label: Command) -> None:
    emu_label("init", image, "-V", "1.2")
    emu_label("create-namespace", image, "-m", "fsdax", "-s", "16M", "-n", "data", "-u", IDENTITY)
    document = emu_label.document("read", image)
    assert document["valid"] is True
    (dimm,) = document["dimms"]
    assert list(dimm) == ["dev", "index", "label"]
    assert dimm["dev"] == str(image)
    assert dimm["index"] == [
        {"signature": "NAMESPACE_INDEX", "major": 1, "minor": 2, "labelsize": 256, "seq": seq, "nslot": 510}
        for seq in (2, 1)
    ]
    assert dimm["label"] == [
        {
            "uuid": IDENTITY, "name": "data", "slot": 1, "position": 0, "nlabel": 1, "flags": 0,
            "isetcookie": 0x00BA90120012B4DC, "lbasize": 0, "dpa": 0, "rawsize": 16 * MIB,
            "type_guid": "66f0d379-b4f3-4074-ac43-0d3318b78cdb",
            "abstraction_guid": "266400ba-fb9f-4677-bcb0-968f11d0d225",
        }
    ]  # fmt: skip
    (only_index,) = emu_label.document("read", image, "-I")["dimms"]
    assert "label" not in only_index
    assert emu_label("read", image, "-u") == 0
    (human,) = json.loads(emu_label.out)["dimms"][0]["label"]
    assert (human["isetcookie"], human["rawsize"]) == ("0xba90120012b4dc", "16 MiB")


def test_version_1_1_has_no_guids(image: Path, emu_label: Command) -> None:
    os.truncate(image, 36 * MIB)
    emu_label("init", image)
    made = emu_label.document("create-namespace", image, "-s", "16M", "--slot", "1")["namespaces"]
    assert [(item["mode"], item["size"], item["slot"]) for item in made] == [("raw", 16 * MIB, 1)]
    (label,) = emu_label.document("read", image)["dimms"][0]["label"]
    assert "type_guid" not in label
    assert label["isetcookie"] == 0x002468AE00123457
    assert emu_label("create-namespace", image, "-m", "fsdax", "-s", "16M") == Status.USAGE
    assert "version 1.1 cannot say the mode" in emu_label.err


def test_a_blank_area_becomes_version_1_2(image: Path, emu_label: Command) -> None:
    os.truncate(image, 36 * MIB)
    (made,) = emu_label.document("create-namespace", image, "-s", "16M")["namespaces"]
    assert (made["mode"], made["size"], made["dpa"]) == ("fsdax", 16 * MIB, 0)
    assert tail(image)[135] == 0x3F
    assert emu_label.document("check", image) == {
        "schema": "emu.label/1", "action": "check", "dev": str(image), "valid": True, "version": "1.2", "labels": 1,
        "errors": [], "warnings": [],
    }  # fmt: skip
    (sector,) = emu_label.document("create-namespace", image, "-m", "sector")["namespaces"]
    assert (sector["dpa"], sector["size"], sector["sector_size"]) == (16 * MIB, 16 * MIB, 4096)
    assert emu_label("create-namespace", image) == Status.USAGE
    assert "no room for the namespace" in emu_label.err


@pytest.mark.parametrize("mode", ["raw", "fsdax", "devdax", "sector"])
@pytest.mark.parametrize("size", [MIB, 16 * MIB - 4096, 16 * MIB + 4096, 17 * MIB])
def test_misaligned_namespaces_are_refused_as_by_ndctl(image: Path, emu_label: Command, mode: str, size: int) -> None:
    """ndctl 76 on Linux 6.1: "region0: align setting is 0x1000000 size 0x1001000 is misaligned", in every mode."""
    os.truncate(image, 64 * MIB)
    assert emu_label("create-namespace", image, "-m", mode, "-s", size) == Status.USAGE
    assert f"align setting is 0x1000000, size {size:#x}" in emu_label.err
    assert is_zero(image.read_bytes())


def test_an_nvdimm_below_16_mib_takes_raw_namespaces_only(tmp_path: Path, emu_label: Command) -> None:
    """ndctl: "'--size=' must be >= 16MiB for 'fsdax' mode"; the alignment is a page then."""
    small = tmp_path / "small.img"
    small.write_bytes(bytes(8 * MIB))
    for mode in ("fsdax", "devdax", "sector"):
        assert emu_label("create-namespace", small, "-m", mode) == Status.USAGE
        assert f"'{mode}' needs 16 MiB" in emu_label.err
    assert is_zero(small.read_bytes())
    (made,) = emu_label.document("create-namespace", small, "-m", "raw", "-s", 4096)["namespaces"]
    assert made["size"] == 4096


@pytest.mark.parametrize("version", ["1.1", "1.2"])
@pytest.mark.parametrize("size", [128 << 10, 256 << 10, 200_704, 300_001, 2 << 20])
def test_a_label_area_of_any_size_is_found_and_never_overwritten(
    version: str, size: int, image: Path, tmp_path: Path, emu_label: Command
) -> None:
    dump = tmp_path / "dump"
    assert emu_label("init", image, "--label-size", size, "-V", version) == 0
    emu_label("create-namespace", image, "-s", "16M", "-m", "raw")
    assert emu_label("read", image, "-o", dump) == 0
    assert dump.stat().st_size == size
    same = tmp_path / "same"  # a file is never its own input
    same.write_bytes(dump.read_bytes())
    for file in (image, dump):
        before = file.read_bytes()
        assert emu_label.document("check", file)["labels"] == 1
        assert len(emu_label.document("read", file)["dimms"][0]["label"]) == 1
        other = 256 << 10 if size == 128 << 10 else 128 << 10
        for words in (("init",), ("init", "--label-size", other), ("write", "-i", same, "--label-size", other),
                      ("zero", "--label-size", other), ("create-namespace", "--label-size", other)):  # fmt: skip
            if other > len(before):
                continue
            assert emu_label(words[0], file, *words[1:]) == Status.USAGE, words
            assert file.read_bytes() == before
            if len(words) > 1 and len(before) % 4096 == 0:  # else it is no NVDIMM's file, and not written at all
                assert f"--label-size {size}" in emu_label.err
        if other < size:
            assert emu_label("check", file, "--label-size", other) == Status.USAGE
            assert f"give --label-size {size}" in emu_label.err
            assert "init" not in emu_label.err
    assert emu_label("init", image, "--force") == 0
    assert emu_label.document("check", image)["labels"] == 0


def test_two_areas_are_not_chosen_between(image: Path, emu_label: Command) -> None:
    emu_label("init", image, "--label-size", "256K")
    emu_label("init", image, "--label-size", "128K", "--force")
    assert emu_label("check", image) == Status.USAGE
    assert "131072 and 262144 bytes" in emu_label.err
    assert emu_label("check", image, "--label-size", "256K") == 0
    assert emu_label("check", image, "--label-size", "128K") == 0


@pytest.mark.parametrize("size", ["0", "4095", "64M", "1E"])
def test_impossible_namespace_sizes(size: str, image: Path, emu_label: Command) -> None:
    emu_label("init", image, "-V", "1.2")
    before = tail(image)
    assert emu_label("create-namespace", image, "-s", size) == Status.USAGE
    assert tail(image) == before


def test_destroy_namespace(image: Path, emu_label: Command) -> None:
    emu_label("create-namespace", image, "-u", IDENTITY)
    assert emu_label.document("destroy-namespace", image, IDENTITY)["destroyed"] == [IDENTITY]
    assert emu_label.document("read", image)["dimms"][0]["label"] == []
    assert emu_label("destroy-namespace", image, IDENTITY) == Status.USAGE
    assert "no namespace" in emu_label.err


def test_dump_and_write_back(image: Path, tmp_path: Path, emu_label: Command) -> None:
    emu_label("create-namespace", image, "-u", IDENTITY)
    dump = tmp_path / "labels.bin"
    assert emu_label("read", image, "-o", dump) == 0
    assert dump.read_bytes() == tail(image)
    assert emu_label.document("check", dump)["valid"]
    assert emu_label("zero", image) == 0
    assert is_zero(tail(image))
    assert emu_label.document("check", image, status=Status.USAGE)["valid"] is False
    assert emu_label.document("write", image, "-i", dump) == {
        "schema": "emu.label/1", "action": "write", "dev": str(image), "written": LABEL_SIZE, "valid": True,
    }  # fmt: skip
    assert tail(image) == dump.read_bytes()
    part = tmp_path / "part.bin"
    assert emu_label("read", image, "-O", "512", "-s", "256", "-o", part) == 0
    assert part.read_bytes() == dump.read_bytes()[512:768]
    assert emu_label("read", image, "-I", "-o", part) == 0
    assert part.read_bytes() == dump.read_bytes()[:512]
    part.write_bytes(b"x" * 16)
    assert emu_label("write", image, "-i", part, "-O", "1024") == 0
    assert tail(image)[1024:1040] == b"x" * 16
    assert emu_label.document("check", image)["valid"]
    assert emu_label("zero", image, "-O", "1024", "-s", "16") == 0
    assert tail(image) == dump.read_bytes()


def test_pipes(image: Path, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["label", "init", str(image)]) == 0
    capsysbinary.readouterr()
    assert main(["label", "read", str(image)]) == 0
    assert capsysbinary.readouterr().out == tail(image)
    stdin = io.TextIOWrapper(io.BytesIO(b"\x01" * LABEL_SIZE))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert main(["label", "write", str(image)]) == 0
    assert b"not valid now" in capsysbinary.readouterr().out
    assert tail(image) == b"\x01" * LABEL_SIZE


def test_other_label_sizes(image: Path, emu_label: Command) -> None:
    assert emu_label.document("init", image, "--label-size", "2M", "-V", "1.2")["nslot"] == 8182
    assert is_zero(tail(image)[:LABEL_SIZE])
    assert tail(image, 2 * MIB).startswith(b"NAMESPACE_INDEX\0")


def test_damage_is_explained(image: Path, emu_label: Command) -> None:
    emu_label("create-namespace", image)
    with image.open("r+b") as file:
        file.seek(SIZE - LABEL_SIZE + 100)
        file.write(b"\x55")
        file.seek(SIZE - LABEL_SIZE + 512 + 256 + 20)
        file.write(b"\x55")
    assert emu_label("check", image) == 0
    assert "valid label area, version 1.2" in emu_label.out
    assert "index 0: checksum" in emu_label.out
    with image.open("r+b") as file:
        file.seek(SIZE - LABEL_SIZE + 256)
        file.write(b"n")
    assert emu_label("check", image, "-v") == Status.USAGE
    assert "index 1: signature" in emu_label.err


@pytest.mark.parametrize("action", ["init", "read", "check", "write", "zero", "create-namespace"])
class TestMistakes:
    """The same mistakes for every action: one clear message, the right status, nothing changed."""

    def run(self, emu_label: Command, action: str, file: object, tmp_path: Path, *more: str) -> int:
        words = ["-j"] if action == "read" else []
        if action == "write":
            (tmp_path / "dump").write_bytes(bytes(512))
            words = ["-i", str(tmp_path / "dump")]
        return emu_label(action, file, *words, *more)

    def test_missing_file(self, action: str, tmp_path: Path, emu_label: Command) -> None:
        assert self.run(emu_label, action, tmp_path / "none", tmp_path) == Status.HOST
        assert "no such file" in emu_label.err
        assert not (tmp_path / "none").exists()

    def test_directory(self, action: str, tmp_path: Path, emu_label: Command) -> None:
        assert self.run(emu_label, action, tmp_path, tmp_path) == Status.USAGE
        assert "is a directory" in emu_label.err

    @pytest.mark.parametrize("size", [0, 1, 4096, 65536])
    def test_too_small(self, action: str, size: int, tmp_path: Path, emu_label: Command) -> None:
        path = tmp_path / "small"
        path.write_bytes(b"\x07" * size)
        assert self.run(emu_label, action, path, tmp_path) == Status.USAGE
        assert path.read_bytes() == b"\x07" * size

    @pytest.mark.parametrize("label_size", ["0", "512", "1", "16E"])
    def test_absurd_label_size(
        self, action: str, label_size: str, image: Path, tmp_path: Path, emu_label: Command
    ) -> None:
        status = self.run(emu_label, action, image, tmp_path, "--label-size", label_size)
        if action == "read":
            assert status in (Status.OK, Status.USAGE)
        else:
            assert status == Status.USAGE
        assert is_zero(image.read_bytes())

    def test_in_use(self, action: str, image: Path, tmp_path: Path, emu_label: Command) -> None:
        from emu.config import BackendConfig
        from emu.memory import open_backend

        with open_backend(BackendConfig(id="other", path=str(image), share=True)):
            assert self.run(emu_label, action, image, tmp_path) == Status.HOST
        assert "in use by another emulator" in emu_label.err
        assert is_zero(image.read_bytes())

    def test_odd_names(self, action: str, tmp_path: Path, emu_label: Command) -> None:
        for name in ("", "a\0b", "x" * 5000):
            assert self.run(emu_label, action, name, tmp_path) in (Status.USAGE, Status.HOST)

    def test_read_only_file(self, action: str, tmp_path: Path, emu_label: Command) -> None:
        file = Path("/sys/devices/system/cpu/online")  # not even root may write it
        if not file.exists():
            pytest.skip("needs a sysfs at /sys")
        assert self.run(emu_label, action, file, tmp_path) == Status.HOST


def test_random_bytes(tmp_path: Path, emu_label: Command) -> None:
    path = tmp_path / "noise"
    content = random.Random(5).randbytes(MIB)
    path.write_bytes(content)
    assert emu_label("check", path) == Status.USAGE
    assert emu_label.document("read", path) == {
        "schema": "emu.label/1", "action": "read", "valid": False,
        "dimms": [{"dev": str(path), "index": [], "label": []}],
    }  # fmt: skip
    assert emu_label("create-namespace", path) == Status.USAGE
    assert path.read_bytes() == content
    assert emu_label("init", path) == 0
    assert path.read_bytes()[: MIB - LABEL_SIZE] == content[: MIB - LABEL_SIZE]
    assert path.read_bytes()[MIB - LABEL_SIZE + 512 :] == content[MIB - LABEL_SIZE + 512 :]


def killed_in(write: int, *words: object) -> bool:
    """Run ``emu label`` in a process that is killed half way through that write; False when there is no such write."""
    child = os.fork()
    if not child:
        whole, left = MappedLabels.write, write

        def torn(labels: MappedLabels, offset: int, data: bytes) -> None:
            nonlocal left
            if not left:
                whole(labels, offset, data[: len(data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            whole(labels, offset, data)

        status = 255
        try:
            MappedLabels.write = torn  # type: ignore[assignment, method-assign]
            status = main(["label", *map(str, words)])
        finally:
            os._exit(status)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert ended in (0, -signal.SIGKILL)
    return ended == -signal.SIGKILL


@pytest.mark.parametrize(
    ("words", "ways"),
    [
        (["write", "IMAGE", "-i", "DUMP"], {"old", "invalid", "new"}),
        (["init", "IMAGE", "-f"], {"old", "new"}),
        (["zero", "IMAGE"], {"old", "invalid"}),
        (["create-namespace", "IMAGE", "-m", "raw", "-s", "16M", "-u", "ab" * 16], {"old", "new"}),
        (["destroy-namespace", "IMAGE", IDENTITY], {"old", "new"}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_command_that_is_killed_leaves_what_its_help_says(
    image: Path, tmp_path: Path, emu_label: Command, words: list[str], ways: set[str]
) -> None:
    dump = tmp_path / "dump"
    assert emu_label("init", image, "-V", "1.2") == Status.OK
    assert emu_label("create-namespace", image, "-m", "raw", "-s", "16M", "-u", "cd" * 16) == Status.OK
    assert emu_label("read", image, "-o", dump) == Status.OK
    assert emu_label("destroy-namespace", image, "cd" * 16) == Status.OK
    if words[0] != "create-namespace":
        assert emu_label("create-namespace", image, "-m", "raw", "-s", "16M", "-u", IDENTITY) == Status.OK
    words = [str({"IMAGE": image, "DUMP": dump}.get(word, word)) for word in words]
    before = tail(image)

    def labels() -> list[str] | None:
        found = emu_label.document("read", image)
        return [label["uuid"] for label in found["dimms"][0]["label"]] if found["valid"] else None

    old, seen, write = labels(), [], 0
    while killed_in(write, *words):
        seen.append(labels())
        with image.open("r+b") as file:
            file.seek(SIZE - LABEL_SIZE)
            file.write(before)
        write += 1
    assert write
    new = labels()  # the last one was not killed
    said = {"invalid" if way is None else "old" if way == old else "new" if way == new else "mixed" for way in seen}
    assert said <= ways
    assert ("invalid" in said) == ("invalid" in ways)
    assert emu_label(words[0], "--help") == Status.OK
    assert ("This is not atomic" in emu_label.out) == ("invalid" in ways)
    assert ("This is atomic" in emu_label.out) == ("invalid" not in ways)


def test_write_mistakes(image: Path, tmp_path: Path, emu_label: Command) -> None:
    long, empty = tmp_path / "long", tmp_path / "empty"
    long.write_bytes(b"x" * (LABEL_SIZE + 1))
    empty.write_bytes(b"")
    for words, message in (
        (("-i", long), "holds more than"),
        (("-i", empty), "is empty"),
        (("-i", tmp_path / "none"), "No such file"),
        (("-i", tmp_path), "Is a directory"),
        (("-i", long, "-O", "1M"), "outside the label area"),
        (("-i", long, "-s", "1M"), "outside the label area"),
    ):
        assert emu_label("write", image, *words) in (Status.USAGE, Status.HOST)
        assert message in emu_label.err
    assert is_zero(image.read_bytes())
    assert emu_label("read", image, "-o", tmp_path / "no" / "where") == Status.HOST
    assert emu_label("read", image, "-I", "-s", "1") == Status.USAGE


def test_a_file_marked_incomplete_is_not_written(image: Path, emu_label: Command) -> None:
    from emu.memory.incomplete import clear, mark

    mark(image, "a test")
    assert emu_label("init", image) == Status.USAGE
    assert "incomplete" in emu_label.err
    assert emu_label("check", image) == Status.USAGE  # reading is harmless: it says that there are no labels
    assert "no valid namespace index" in emu_label.err
    clear(image)
    assert emu_label("init", image) == 0


def test_help_and_wrong_words(emu_label: Command, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--help"], ["init", "--help"]):
        assert main(["label", *words]) == 0
    assert "examples:" in capsys.readouterr().out
    for wrong in (["init"], ["frob", "x"], ["init", "x", "-V", "2"], ["destroy-namespace", "x", "y"],
                  ["init", "x", "--label-size", "1x"], ["create-namespace", "x", "--slot", "256"],
                  ["create-namespace", "x", "-u", "1"], ["read", "x", "-O", "-1"]):  # fmt: skip
        assert main(["label", *wrong]) == Status.USAGE
        assert "Traceback" not in capsys.readouterr().err
