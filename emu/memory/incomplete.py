"""The mark on a backing file whose content is only part of a machine's.

A migration fills the destination's file while the source still runs. Until the hand-over that file is nobody's: a boot
from it would find a mixture. So a sidecar file, ``FILE.emu-incomplete``, is made durable *before* the first page lands
and removed (durably) only when the destination takes over, before its guest runs. From this follows the rule that also
settles a lost acknowledgement: **while the mark exists, the destination never ran.**

For a device (``/dev/dax0.0``) the sidecar cannot lie beside it, because /dev does not outlive the host; it lies in
``$XDG_STATE_HOME/emu/incomplete/`` (``~/.local/state`` by default) under the device's path.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from emu.errors import HostError, IncompleteFile

SUFFIX = ".emu-incomplete"
_LONGEST = 4096


def marker_path(path: str | os.PathLike[str]) -> str:
    """Where the mark of ``path`` lies; symbolic links are followed, so every name of a file finds the same mark."""
    real = os.path.realpath(path)
    try:
        mode = os.stat(real).st_mode
        is_device = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
    except OSError:
        is_device = False
    if not is_device and real != "/":  # which has no name; and is no backing either, as its opening will say
        return real + SUFFIX
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.join(state, "emu", "incomplete", real.strip("/").replace("/", "-") + SUFFIX)


def mark(path: str | os.PathLike[str], why: str) -> None:
    """Mark ``path`` as incomplete, saying ``why``. HostError when that cannot be made durable.

    Durable when it returns: the sidecar and its directory entry were fsynced.
    """
    import json  # a plain run marks nothing

    from emu.host import files

    marker = marker_path(path)
    text = json.dumps({"file": os.path.realpath(path), "why": why}) + "\n"
    try:
        os.makedirs(os.path.dirname(marker), exist_ok=True)
        files.examine(marker).write(text.encode(), durable=True)
    except (OSError, HostError) as error:
        what = error.what if isinstance(error, HostError) else f"{marker}: {error.strerror}"
        raise HostError(
            f"{path}: cannot be marked as incomplete: {what}",
            "make its directory writable and leave some space there: a migration may not touch an unmarked file",
            errno=error.errno or 0,
        ) from None


def clear(path: str | os.PathLike[str]) -> None:
    """Remove the mark of ``path``; nothing happens when there is none.

    Durable when it returns: the directory was fsynced after the removal.
    """
    marker = marker_path(path)
    try:
        with suppress(FileNotFoundError):
            os.unlink(marker)
        if os.path.isdir(folder := os.path.dirname(marker)):
            _sync_directory(folder)
    except OSError as error:
        raise HostError(
            f"{marker}: cannot be removed: {error.strerror}", "remove it by hand", errno=error.errno or 0
        ) from None


def reason(path: str | os.PathLike[str]) -> str | None:
    """Why ``path`` is marked as incomplete, or None when it is not."""
    marker = marker_path(path)
    try:
        with open(marker, encoding="utf-8", errors="replace") as file:
            text = file.read(_LONGEST)
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"its mark cannot be read ({error.strerror})"
    import json

    try:
        why = json.loads(text)["why"]
    except (ValueError, TypeError, KeyError, RecursionError):
        why = None
    return why if isinstance(why, str) else "its mark says nothing readable"


def check_not_incomplete(path: str | os.PathLike[str]) -> None:
    """IncompleteFile when ``path`` is marked as incomplete."""
    why = reason(path)
    if why is None:
        return
    raise IncompleteFile(
        f"{path}: its content is incomplete: {why}",
        f"migrate into it again, or, if you want it as it is, pass --accept-incomplete (or remove {marker_path(path)})",
    )


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
