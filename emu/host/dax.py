"""Device DAX (``/dev/dax0.0``): its size and alignment, from sysfs.

Source: Linux drivers/dax/bus.c (attributes of a dax device and of its region); QEMU reads the size at the same place.
"""

from __future__ import annotations

import os

from emu.errors import HostError
from emu.hints import TYPE_CHECKING
from emu.record import NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

SYSFS = "/sys"


class DaxDevice(NamedTuple):
    """Bytes the device has, and the alignment that every mapping of it must keep (2 MiB, as a rule).

    ``persistent``: the device hangs off the NVDIMM bus. Volatile memory (high-bandwidth, CXL) can be a device DAX too.
    """

    size: int
    align: int
    persistent: bool


def read_device(device: int, *, what: str, sysfs: str | os.PathLike[str] = SYSFS) -> DaxDevice | None:
    """What sysfs says of the character device with number ``device`` (st_rdev); None when it is not a device DAX.

    HostError when it is one but its size or alignment cannot be read.
    """
    from pathlib import Path  # most NVDIMMs are on files

    node = Path(sysfs) / "dev" / "char" / f"{os.major(device)}:{os.minor(device)}"
    try:
        subsystem = (node / "subsystem").readlink().name
    except OSError:
        return None
    if subsystem != "dax":
        return None
    real = node.resolve()
    size = _number(real / "size")
    # Newer kernels give each device its own alignment, older ones only the region it was cut from.
    align = (
        _number(real / "align")
        or _number(real.parent / "dax_region" / "align")
        or _number(real / "device" / "dax_region" / "align")
    )
    if not size or not align:
        raise HostError(
            f"cannot read the size and alignment of {what} from {node}", "check that sysfs is mounted and readable"
        )
    return DaxDevice(size, align, any(part.startswith("ndbus") for part in real.parts))


def _number(path: Path) -> int:
    try:
        return int(path.read_text().strip(), 0)
    except (OSError, ValueError):
        return 0
