"""C++ and Rust names as their authors wrote them: by the host's ``c++filt``, which comes with its linker.

Where there is none, names stay as the linker knows them.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from functools import lru_cache

_MANGLED = re.compile(r"_(Z|R)[\w.$]+")
_RUST_HASH = re.compile(r"::h[0-9a-f]{16}$|\[[0-9a-f]{1,16}\]")
_SECONDS = 10.0
_LONGEST = 200


def demangled(names: Iterable[str]) -> Mapping[str, str]:
    """Those of ``names`` that are mangled, with what they stand for: without parameters and Rust's hashes."""
    wanted = tuple(sorted({name for name in names if _MANGLED.fullmatch(name)}))
    return _asked(wanted) if wanted else {}


@lru_cache(maxsize=64)
def _asked(names: tuple[str, ...]) -> Mapping[str, str]:
    program = shutil.which("c++filt")
    if program is None:
        return {}
    try:
        said = "\n".join(names).encode()
        done = subprocess.run([program, "-p"], input=said, capture_output=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    found = done.stdout.decode("utf-8", "replace").splitlines()
    if done.returncode or len(found) != len(names):
        return {}
    return {name: _RUST_HASH.sub("", text)[:_LONGEST] for name, text in zip(names, found, strict=True)}
