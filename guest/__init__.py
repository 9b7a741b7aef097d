"""The bundled guests: small x86-64 images that boot under emu and, all but the flat ones, unmodified under QEMU.

Their sources are in ``guest/lib``, ``guest/libc``, ``guest/examples``, ``guest/crash`` and ``guest/flat``;
``make -C guest`` builds them into ``guest/images``, where they are committed together with
``manifest.json``, which describes them.
"""

from __future__ import annotations

import functools
import json
import os

from emu.hints import TYPE_CHECKING, Literal
from emu.record import NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["GuestImage", "find", "images"]

# Installed packages are ordinary files; importlib.resources would cost every start by name another 15 ms.
_FOLDER = os.path.join(os.path.dirname(os.path.realpath(__file__)), "images")


class GuestImage(NamedTuple):
    """One bundled image.

    ``kind`` is the boot protocol; a ``multiboot`` image carries a PVH note too. ``cmdline`` is an example of its
    arguments.

    The guests of the group ``crash`` teach the crash laboratory: on an empty NVDIMM they format a pool and work on it,
    on a pool they recover and check it. ``planted`` names the bug that the laboratory finds when it explores under
    ``--media`` ``media`` (None in the versions marked ``fixed``, where it finds nothing); ``eadr`` says whether the bug
    shows under ``--domain eadr`` too, ``feed_printed`` whether ``--feed-printed`` is needed.
    """

    name: str
    file: str
    kind: Literal["multiboot", "flat"]
    group: Literal["example", "flat", "bench", "crash"]
    summary: str
    needs_nvdimm: bool
    cmdline: str = ""
    planted: str | None = None
    fixed: bool | None = None
    media: str | None = None
    eadr: bool | None = None
    feed_printed: bool = False

    @property
    def place(self) -> str:
        """Where the image is."""
        return os.path.join(_FOLDER, self.file)

    @property
    def path(self) -> Path:
        """Where the image is."""
        from pathlib import Path

        return Path(self.place)

    @property
    def source(self) -> Path:
        """Its own source file; versions of one program in the group ``crash`` share theirs."""
        from pathlib import Path

        folder, stem, ending = {
            "flat": ("flat", self.name, ".S"),
            "crash": ("crash", self.name.partition("-")[0], ".c"),
        }.get(self.group, ("examples", self.name, ".c"))
        return Path(_FOLDER).parent / folder / f"{stem}{ending}"

    def read(self) -> bytes:
        """The image's bytes."""
        return self.path.read_bytes()


@functools.cache
def images() -> tuple[GuestImage, ...]:
    """All bundled images, in the manifest's order: one group after the other."""
    with open(os.path.join(_FOLDER, "manifest.json"), encoding="utf-8") as text:
        manifest = json.load(text)
    return tuple(GuestImage(name=name, **entry) for name, entry in manifest.items())


def find(name: str) -> GuestImage | None:
    """The image called ``name``, or None."""
    return next((image for image in images() if image.name == name), None)
