"""``emu crash --type``: fields instead of offsets, from the program's own types."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from emu.errors import UsageError
from emu.persistence.report.types import load_types
from tests.integration.run_emu import emu

# Recovery fails for the first record that the last store counts and that is not there.
PROGRAM = """
#include <libpmem.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
typedef struct { uint16_t x, y; } point;
union value { uint64_t whole; point at; };
struct row { const char *name; union value value; point cell[2][3]; struct { uint8_t inner; }; unsigned a : 9, b : 9; };
typedef struct pool { _Alignas(64) volatile uint64_t count; _Alignas(64) struct row row[4]; } pool_t;
int main(int argc, char **argv) {
    size_t size;
    pool_t *pool = pmem_map_file("pool", 4096, PMEM_FILE_CREATE, 0600, &size, NULL);
    if (argc > 1)
        return pool->count && !*(volatile uint16_t *)&pool->row[1].cell[1][2].y;
    *(volatile uint16_t *)&pool->row[1].cell[1][2].y = 7;
    pool->count = 1;
    pmem_persist((void *)&pool->count, 8);
    printf("%u %u %u\\n", (unsigned)offsetof(pool_t, row[2].value), (unsigned)offsetof(pool_t, row[3].inner),
           (unsigned)sizeof(pool_t));
    return 0;
}
"""


@pytest.fixture(params=["-gdwarf-4", "-gdwarf-5"])
def image(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    (tmp_path / "typed.c").write_text(PROGRAM)
    made = emu("cc", request.param, tmp_path / "typed.c", "-o", tmp_path / "typed.elf")
    assert made.status == 0, made.errors
    return tmp_path / "typed.elf"


@pytest.mark.parametrize("name", ["struct pool", "pool_t"])
def test_offsets_are_fields(image: Path, name: str) -> None:
    words = ("crash", image, "--recover-append", "check", "--nvdimm", "size=2M", "--type", f"0={name}")
    short = name.removeprefix("struct ")
    result = emu(*words, "--json").document
    (failure,) = result["failures"]
    assert [store["field"] for store in failure["lost"]] == [f"{short}.row[1].cell[1][2].y"]
    assert failure["persisted"]["field"] == f"{short}.count"
    said = emu(*words).out
    assert re.search(rf"lost +event 0: 2 bytes at offset 0x[0-9a-f]+ \({short}\.row\[1\]\.cell\[1\]\[2\]\.y\)", said)
    value, inner, size = map(int, result["workload"]["output"].split())
    types = load_types(str(image), (f"0x100={name}",))
    assert types.field_at(0x100 + value) == f"{short}.row[2].value.whole"
    assert types.field_at(0x100 + inner) == f"{short}.row[3].inner"
    assert types.field_at(0x100 + size) == types.field_at(0xFF) == ""


def test_without_a_type_there_is_no_field(image: Path) -> None:
    result = emu("crash", image, "--recover-append", "check", "--nvdimm", "size=2M", "--json").document
    assert result["failures"][0]["lost"][0]["field"] is None


@pytest.mark.parametrize("word", ["0=struct nosuch", "0=", "pool", "x=struct pool", "0=int"])
def test_what_is_no_type_is_said_before_the_run(image: Path, word: str) -> None:
    ran = emu("crash", image, "--nvdimm", "size=2M", "--type", word)
    assert (ran.status, ran.out) == (2, "")
    assert "--type" in ran.errors[0]


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"\x7fELF" + b"\xff" * 4000])
def test_a_broken_image_has_no_types(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.elf"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="has no type 'pool'"):
        load_types(str(path), ("0=struct pool",))
