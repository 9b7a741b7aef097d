"""What ``help`` says in the options that describe a machine: kinds of devices and backends, and the keys of each."""

from __future__ import annotations

from collections.abc import Mapping

from emu.cli import keyval, options
from emu.cli.keyval import Key
from emu.config import BackendKind
from emu.errors import UsageError
from emu.hints import Any

# option -> (key that names the kind, kinds and their keys)
_KINDS: dict[str, tuple[str, Mapping[str, Mapping[str, Key]]]] = {
    "-object": ("qom-type", {kind: options.backend_keys(kind) for kind in BackendKind}),
    "-device": ("driver", options.DRIVER_KEYS),
}


def answer(given: Any) -> str | None:
    """The help that the options ask for, None when none does. UsageError for help on a kind that there is not."""
    values = {"--nvdimm": given.nvdimm, "-object": given.object, "-device": given.device, "-machine": given.machine,
              "-m": [given.memory or ""], "-numa": given.numa}  # fmt: skip
    for option, texts in values.items():
        for text in texts:
            if keyval.asks_for_help(text):
                return (
                    _about_kinds(option, text) if option in _KINDS else keys_text(option, options.HELP_TABLES[option])
                )
    for option, words in options.PLAIN_WORDS.items():
        if getattr(given, option, None) in keyval.HELP:
            return f"-{option} {words}"
    return None


def _about_kinds(option: str, text: str) -> str:
    implied, kinds = _KINDS[option]
    kind = dict(keyval.items(text, implied=implied)).get(implied)
    if kind is None or kind in keyval.HELP:
        return "\n".join([f"{option} KIND,key=value,... where KIND is one of", *(f"  {name}" for name in kinds), "",
                          keys_text(option, options.HELP_TABLES[option])])  # fmt: skip
    if kind not in kinds:
        raise UsageError(f"{option}: '{kind[:64]}' is not known", f"it is one of {', '.join(kinds)}")
    return keys_text(f"{option} {kind},", kinds[kind])


def keys_text(option: str, keys: Mapping[str, Key]) -> str:
    """The table of ``keys``."""
    width = max(len(name) + len(key.shape) for name, key in keys.items()) + 1
    lines = (f"  {name + '=' + key.shape:<{width}}  {key.summary}" for name, key in keys.items())
    return "\n".join([f"{option}{'' if option.endswith(',') else ' '}key=value,...", *lines])
