"""Whether there is a kernel that ``emu run linux`` finds."""

from __future__ import annotations

import pytest

from emu.errors import HostError
from emu.linux import kernel


def why_none() -> str:
    """What keeps this host from running Linux; nothing where it can. One that is named and is no kernel is an error."""
    try:
        kernel.find(None)
    except HostError as error:
        return str(error)
    return ""


_WHY = why_none()
needs_kernel = pytest.mark.skipif(bool(_WHY), reason=_WHY or "there is a kernel")
