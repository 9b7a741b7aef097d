"""The manifest and the committed images describe each other."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from emu import guest

FOLDER = Path(guest.__file__).parent
IMAGES = FOLDER / "images"
NAMES = [image.name for image in guest.images()]


def test_every_committed_image_is_listed_and_every_listed_one_is_there() -> None:
    there = {path.name for path in IMAGES.iterdir() if path.suffix in {".elf", ".bin"}}
    assert there == {image.file for image in guest.images()}


def test_every_source_has_its_image() -> None:
    sources = {path.stem for path in [*FOLDER.glob("examples/*.c"), *FOLDER.glob("flat/*.S")]}
    assert sources == {image.name for image in guest.images() if image.group != "crash"}


def test_names_are_unique_and_groups_stand_together() -> None:
    written = json.loads((IMAGES / "manifest.json").read_text(), object_pairs_hook=lambda pairs: [k for k, _ in pairs])
    assert len(written) == len(set(NAMES)) == len(NAMES)
    groups = [group for group, _ in itertools.groupby(image.group for image in guest.images())]
    assert len(groups) == len(set(groups))


@pytest.mark.parametrize("name", NAMES)
def test_image_is_found_by_name_and_small(name: str) -> None:
    image = guest.find(name)
    assert image is not None
    assert image.path == IMAGES.resolve() / image.file
    assert image.read() == image.path.read_bytes()
    assert 0 < len(image.read()) < 60 * 1024
    assert image.summary
    assert len(image.summary) < 100
    assert image.kind == ("flat" if image.file.endswith(".bin") else "multiboot")


CRASH = [image for image in guest.images() if image.group == "crash"]


def test_every_crash_lesson_has_broken_and_fixed_versions_and_says_what_to_expect() -> None:
    lessons: dict[str, list[bool]] = {}
    for image in CRASH:
        assert image.fixed is (image.planted is None)
        assert image.media in ("dax-sync", "dax")
        assert image.needs_nvdimm
        assert image.eadr is not None
        assert not (image.fixed and image.eadr)
        lessons.setdefault(image.name.rsplit("-", 1)[0], []).append(bool(image.fixed))
    assert len(lessons) >= 8
    assert all(sorted(versions)[-2:] == [False, True] for versions in lessons.values())
    assert {path.stem for path in FOLDER.glob("crash/*.c")} == set(lessons)


def test_only_crash_guests_have_a_verdict_to_expect() -> None:
    others = [image for image in guest.images() if image.group != "crash"]
    assert all((image.planted, image.fixed, image.media, image.eadr) == (None,) * 4 for image in others)


def test_unknown_name() -> None:
    assert guest.find("no-such-guest") is None


def test_the_lesson_for_the_readme_is_short() -> None:
    lines = (FOLDER / "flat" / "first.S").read_text().splitlines()
    assert len(lines) < 20
