"""The committed images are what their sources give."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from emu import guest

FOLDER = Path(guest.__file__).parent
TOOLS = ("gcc", "as", "ar", "ld", "make")


def versions_in(image: bytes) -> tuple[str, str]:
    """The releases of gcc and of the assembler that an image's debug information names."""
    compiler = re.search(rb"GNU C11 (\d+\.\d+\.\d+)", image)
    assembler = re.search(rb"GNU AS (\d+\.\d+(?:\.\d+)*)", image)
    assert compiler
    assert assembler
    return compiler[1].decode(), assembler[1].decode()


def installed_versions() -> tuple[str, str]:
    compiler = subprocess.run(["gcc", "-dumpfullversion"], capture_output=True, text=True, check=True).stdout.strip()
    text = subprocess.run(["as", "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    numbers = re.findall(r"\d+\.\d+(?:\.\d+)*", text)
    return compiler, numbers[-1]


def test_rebuilding_gives_the_committed_bytes(tmp_path: Path) -> None:
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)} (on Debian: apt-get install build-essential)")
    hello = guest.find("hello")
    assert hello is not None
    built, here = versions_in(hello.read()), installed_versions()
    if built != here:
        pytest.skip(f"the images were built by gcc {built[0]} and as {built[1]}, here are {here[0]} and {here[1]}")
    images = tmp_path / "images"
    images.mkdir()
    command = [
        "make",
        "--silent",
        "-C",
        str(FOLDER),
        f"BUILD={tmp_path / 'build'}",
        f"IMAGES={images}",
        f"SDK={tmp_path / 'libguest.a'}",
    ]
    subprocess.run(command, check=True, capture_output=True)
    different = [image.name for image in guest.images() if (images / image.file).read_bytes() != image.read()]
    assert different == []
    assert (tmp_path / "libguest.a").read_bytes() == (FOLDER / "lib" / "libguest.a").read_bytes()
    assert {path.name for path in images.iterdir()} == {image.file for image in guest.images()}
