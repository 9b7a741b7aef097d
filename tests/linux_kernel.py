"""Whether there is a kernel that ``emu run linux`` finds."""

from __future__ import annotations

import pytest

from emu.errors import UsageError
from emu.linux import kernel


def _has_kernel() -> bool:
    try:
        kernel.find(None)
    except UsageError:
        return False
    return True


needs_kernel = pytest.mark.skipif(
    not _has_kernel(), reason="there is no kernel to run: apt-get install linux-image-amd64"
)
