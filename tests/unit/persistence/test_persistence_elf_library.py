"""pyelftools without what it is debugged with reads the same."""

from __future__ import annotations

import json
import subprocess

from emu import guest
from emu.testing.commands import EMU

READ = """\
import json, sys
from emu.persistence.report import elf_library
{prepare}
ELFFile = elf_library.elf_file()
with open(sys.argv[1], "rb") as file:
    symbols = ELFFile(file).get_section_by_name(".symtab").num_symbols()
import pprint
shown = pprint.pformat({{"a": 1}})
print(json.dumps([symbols, shown, [name for name in ("inspect", "pdb", "dataclasses") if name in loaded]]))
"""


def read(prepare: str) -> list[object]:
    found = guest.find("commit-noflush")
    assert found is not None
    code = READ.format(prepare=prepare).replace("import pprint\n", "loaded = set(sys.modules)\nimport pprint\n")
    done = subprocess.run([EMU[0], "-c", code, found.path], capture_output=True, text=True, check=True, timeout=60)
    read: list[object] = json.loads(done.stdout)
    return read


def test_what_is_only_for_its_developers_is_not_imported_unless_a_release_needs_it() -> None:
    symbols, shown, loaded = read("")
    assert (shown, loaded) == ("{'a': 1}", [])
    assert isinstance(symbols, int)
    assert symbols > 10
    # One that asks the stand-in for more than it has.
    again = read("elf_library._TO_BE_DEBUGGED['pprint'] = ()")
    assert again == [symbols, shown, ["inspect", "pdb", "dataclasses"]]
