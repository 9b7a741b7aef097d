"""pyelftools for the reader processes, imported in half the time: without what it needs to be debugged itself."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

# It imports these for people who look at its structures, and they import dataclasses, ast and more.
_TO_BE_DEBUGGED = {"pdb": (), "inspect": (), "pprint": ("pformat",)}


def elf_file() -> Any:
    """Its class ``ELFFile``. A release that asks for more of those modules gets them."""
    stand_ins = {name: ModuleType(name) for name in _TO_BE_DEBUGGED if name not in sys.modules}
    for name, module in stand_ins.items():
        for attribute in _TO_BE_DEBUGGED[name]:
            setattr(module, attribute, repr)
    sys.modules.update(stand_ins)
    try:
        from elftools.elf.elffile import ELFFile
    except (ImportError, AttributeError):
        for name in [name for name in sys.modules if name in stand_ins or name.partition(".")[0] == "elftools"]:
            del sys.modules[name]
        from elftools.elf.elffile import ELFFile
    finally:
        for name, module in stand_ins.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
    return ELFFile
