"""A real browser judges the report page: drawn in light and dark, complete without script, silent, off the network."""

from __future__ import annotations

import json
import re
import socket
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.oracle.requirements import require

PROGRAM = Path(sys.executable).with_name("emu")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--enable-logging=stderr",
    "--proxy-bypass-list=<-loopback>", "--window-size=1280,2000",
]  # fmt: skip
# What the browser asks for by itself, whatever page is open.
OWN = ("google.com", "googleapis.com", "gvt1.com")
GUESTS = {"commit-noflush": 3, "commit-fixed": 0}


@contextmanager
def dead_end() -> Iterator[tuple[int, list[str]]]:
    """A proxy that answers nothing and notes who was asked for, so that no request of the browser gets anywhere."""
    asked: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(2)
                    try:
                        asked.append(connection.recv(4096).partition(b"\r\n")[0].decode("latin-1"))
                    except OSError:
                        continue

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1], asked
        server.shutdown(socket.SHUT_RDWR)
    thread.join(5)


class Seen:
    """One visit: the document as the browser has it, or a picture; console messages and requests for anything else."""

    def __init__(self, page: Path, folder: Path, *flags: str, script: bool = True) -> None:
        profile = folder / "profile"
        (profile / "Default").mkdir(parents=True)
        if not script:
            settings = {"profile": {"default_content_setting_values": {"javascript": 2}}}
            (profile / "Default" / "Preferences").write_text(json.dumps(settings))
        with dead_end() as (port, asked):
            command = [require("chromium", "chromium"), *FLAGS, f"--user-data-dir={profile}",
                       f"--proxy-server=127.0.0.1:{port}", *flags, page.as_uri()]  # fmt: skip
            done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        self.document = done.stdout
        self.console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        self.requests = [line for line in asked if line and not any(own in line for own in OWN)]


def picture(path: Path) -> tuple[tuple[int, int, int], list[bytes]]:
    """The colour of the top left pixel of a PNG, and its rows as they are coded (equal rows look the same)."""
    data, at, packed, width, depth = path.read_bytes(), 8, b"", 0, 0
    while at < len(data):
        (length,), kind = struct.unpack_from(">I", data, at), data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            width, _, bits, colour = struct.unpack_from(">IIBB", body)
            assert bits == 8
            depth = {2: 3, 6: 4}[colour]
        elif kind == b"IDAT":
            packed += body
        at += 12 + length
    raw, step = zlib.decompress(packed), 1 + width * depth
    rows = [raw[start : start + step] for start in range(0, len(raw), step)]
    # Every filter of PNG leaves the first pixel of the first row as it is.
    return (raw[1], raw[2], raw[3]), rows


@pytest.fixture(scope="module", params=list(GUESTS))
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    guest: str = request.param
    folder = tmp_path_factory.mktemp(guest)
    page = folder / "report.html"
    command = [PROGRAM, "crash", guest, "--nvdimm", f"file={folder / 'p.img'},size=2M", "--html", page, "--warnings"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
    assert done.returncode == GUESTS[guest], done.stderr
    return guest, page


@pytest.mark.parametrize("script", [True, False], ids=["script", "no-script"])
def test_browser_reads_the_page(report: tuple[str, Path], script: bool, tmp_path: Path) -> None:
    guest, page = report
    seen = Seen(page, tmp_path, "--dump-dom", script=script)
    verdict = "Some crash states do not recover" if GUESTS[guest] else "Every crash state recovers"
    assert verdict in seen.document
    assert ("violated: value 0 is committed but reads 0" in seen.document) == bool(GUESTS[guest])
    assert seen.document.count("<svg") == page.read_text().count("<svg"), "the parser repaired nothing"
    assert seen.document.count("<tr") == page.read_text().count("<tr")
    assert seen.console == []
    assert seen.requests == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_browser_draws_the_page(report: tuple[str, Path], scheme: str, tmp_path: Path) -> None:
    _, page = report
    shots = []
    for script in (True, False):
        shot = tmp_path / f"{scheme}-{script}.png"
        # 0 is dark and 1 is light in the browser's own numbering.
        seen = Seen(page, tmp_path / f"visit-{script}", f"--screenshot={shot}",
                    f"--blink-settings=preferredColorScheme={int(scheme == 'light')}", script=script)  # fmt: skip
        assert seen.console == []
        assert seen.requests == []
        paper, rows = picture(shot)
        assert (sum(paper) > 600) if scheme == "light" else (sum(paper) < 150), f"paper is {paper}"
        assert len(set(rows)) > 300, "most of the picture is empty"
        shots.append(rows)
    assert shots[0] == shots[1], "the page needs no script"


@pytest.mark.parametrize("guest", ["commit-noflush", "level-broken"])
def test_browser_prints_the_page_in_less_than_a_megabyte(guest: str, tmp_path: Path) -> None:
    page, pdf = tmp_path / "report.html", tmp_path / "report.pdf"
    words = ["--nvdimm", f"file={tmp_path}/p.img,size=2M", "--html", page, "--warnings", "--matrix"]
    assert subprocess.run([PROGRAM, "crash", guest, *map(str, words)], capture_output=True, timeout=120).returncode == 3
    Seen(page, tmp_path, f"--print-to-pdf={pdf}")
    assert pdf.read_bytes().startswith(b"%PDF-")
    assert 50_000 < pdf.stat().st_size < 1_000_000


def test_the_examiner_sees_requests_scripts_and_messages(tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(
        "<img src='http://example.test/x'><script>console.log('hello'); document.write('r' + 'an')</script>"
    )
    seen = Seen(page, tmp_path / "with", "--dump-dom")
    assert any("example.test" in line for line in seen.requests)
    assert any("hello" in line for line in seen.console)
    assert "ran" in seen.document
    assert "ran" not in Seen(page, tmp_path / "without", "--dump-dom", script=False).document


def test_browser_shows_what_the_file_held_before(tmp_path: Path) -> None:
    """A flag at 64 is there, the value at 0 that it promises was lost: of a file that was not blank, what was there."""
    rdi, pool = b"\x48\xbf" + struct.pack("<Q", 1 << 32), tmp_path / "pool.img"
    image, recovery, page = (tmp_path / name for name in ("guest.bin", "recovery.bin", "report.html"))
    image.write_bytes(rdi + b"\xc7\x07\x34\x12\0\0" + b"\x48\xc7\x47\x40\x01\0\0\0" + b"\xf4")
    # cmp qword [rdi + 64], 1; jne good; cmp dword [rdi], 1234h; je good; mov al, 7; out 0xf4, al; good: hlt
    judge = b"\x48\x83\x7f\x40\x01\x75\x0c\x81\x3f\x34\x12\0\0\x74\x04\xb0\x07\xe6\xf4\xf4"
    recovery.write_bytes(rdi + judge)
    pool.write_bytes((b"\xab" * 8).ljust(2 << 20, b"\x11"))
    command = [PROGRAM, "crash", image, "--recover", recovery, "--nvdimm", f"file={pool}", "--html", page]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
    assert done.returncode == 3, done.stderr
    seen = Seen(page, tmp_path, "--dump-dom")
    table = seen.document.partition("The memory it wakes up with</h4>")[2].partition("</table>")[0]
    (value,) = [row for row in table.split("</tr>") if ">0x0<" in row]
    words = re.sub("<[^>]+>", " ", value).split()
    assert words[:9] == ["0x0", "34", "12", "00", "00", "ab", "ab", "ab", "ab"]
    assert words[11:19] == ["ab"] * 8
    assert pool.read_bytes() == (b"\xab" * 8).ljust(2 << 20, b"\x11")
