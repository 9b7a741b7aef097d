"""What to say of a word that is not known: what was probably meant, or where it belongs. Imported for mistakes only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_CLOSE = 0.6
_SHOWN = 64

# QEMU's options that people paste and emu does not have: what there is in their place.
_ELSEWHERE = {
    "bios": "there is no firmware: guests are booted directly, by IMAGE or -kernel",
    "blockdev": "there are no disks; a persistent memory is given with --nvdimm file=PATH,size=64M",
    "boot": "there is nothing to choose from: guests are booted directly, by IMAGE or -kernel",
    "cdrom": "there are no disks; a persistent memory is given with --nvdimm file=PATH,size=64M",
    "chardev": "say it in -serial (stdio, none, file:PATH, pty, unix:PATH) or -debugcon (stdio, none, file:PATH)",
    "d": "there is no log of the CPU; 'emu crash IMAGE --nvdimm ... --timeline' draws stores, flushes and fences",
    "daemonize": "let the shell do it: emu run ... &",
    "drive": "there are no disks; a persistent memory is given with --nvdimm file=PATH,size=64M",
    "enable-kvm": "the guest runs in an emulated CPU, so that every store can be seen; leave it away",
    "hda": "there are no disks; a persistent memory is given with --nvdimm file=PATH,size=64M",
    "icount": "time is deterministic already; -machine clock=real follows the host's",
    "loadvm": "a saved machine is started with --incoming file:PATH",
    "mon": "the monitor is QMP: -qmp unix:PATH,server=on,wait=off",
    "monitor": "the monitor is QMP: -qmp unix:PATH,server=on,wait=off; 'emu migrate --qmp PATH' uses it",
    "net": "there is no network; leave it away",
    "netdev": "there is no network; leave it away",
    "pidfile": "let the shell do it: emu run ... & echo $! > FILE",
    "rtc": "time is deterministic; -machine clock=real follows the host's",
    "snapshot": "'emu crash' never changes a file; for 'emu run', copy it before",
    "trace": "'emu crash IMAGE --nvdimm ... --timeline' draws stores, flushes and fences",
    "usb": "there is no USB; leave it away",
    "vga": "there is no display; leave it away",
    "vnc": "there is no display; leave it away",
}


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The one of ``known`` that ``word`` was probably meant to be; None when nothing is near."""
    import difflib

    found = difflib.get_close_matches(word[:_SHOWN].lower(), sorted(known), n=1, cutoff=_CLOSE)
    return found[0] if found else None


def did_you_mean(word: str, known: Iterable[str], otherwise: str) -> str:
    """A remedy: the nearest of ``known``, else ``otherwise``."""
    found = nearest(word, known)
    return otherwise if found is None else f"did you mean '{found}'? {otherwise}"


def about_value(word: str, known: Sequence[str], otherwise: str) -> str:
    """A remedy for a value that is none of ``known``."""
    return did_you_mean(word, known, f"{otherwise} {', '.join(known)}")


def about_key(key: str, keys: Iterable[str], option: str) -> str:
    """A remedy for a key that ``option`` does not have."""
    listed = f"'{option} help' lists the parameters"
    others = [other for other in _options_with(key) if other != option]
    if others:  # the last one: who writes QEMU's options wants another of them
        return f"{key} is a key of {others[-1]}; {listed}"
    return did_you_mean(key, keys, listed)


def about_option(option: str, known: Iterable[str], prog: str) -> str:
    """A remedy for an option that ``prog``, a verb, does not have."""
    name = option.lstrip("-")
    known = frozenset(known)
    see = f"'{prog} --help' lists the options"
    if name in _ELSEWHERE:
        return _ELSEWHERE[name]
    machine = [other for other in _options_with(name) if other in known]
    if machine:
        example = "file=PATH," if machine[0] == "--nvdimm" else ""
        return f"{name} is a key of {machine[0]}: write {machine[0]} {example}{name}=..."
    for same in (f"--{name}", f"-{name}"):
        if same in known:
            return f"write {same}"
    return did_you_mean(option, known, see)


def _options_with(key: str) -> list[str]:
    """The options that describe a machine and have ``key``, the short one first."""
    from emu.cli.options import HELP_TABLES

    return [option for option, keys in HELP_TABLES.items() if key in keys]
