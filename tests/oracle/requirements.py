"""What an outside examiner needs: skip with a remedy on a plain machine, fail in continuous integration."""

from __future__ import annotations

import os
import shutil

import pytest


def missing(what: str, remedy: str) -> None:
    """Skip the test because ``what`` is not here; in continuous integration nothing may be missing, so fail there."""
    message = f"{what} is not installed; {remedy}"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def require(program: str, package: str) -> str:
    """The path of ``program``, which Debian's ``package`` brings."""
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    if found is None:
        missing(program, f"on Debian: apt-get install {package}")
    assert found is not None
    return found
