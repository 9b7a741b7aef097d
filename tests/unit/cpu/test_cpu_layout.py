"""Where Unicorn keeps its state is measured right, whatever lies around it in memory."""

from __future__ import annotations

import struct
from random import Random

import pytest

from emu.cpu.engine import hooks, library
from emu.cpu.engine.layout import layout
from emu.cpu.registers import ICELAKE_SERVER
from emu.cpu.state import CpuState
from tests.fuzzing import times


class NoPorts:
    def port_read(self, port: int, size: int) -> int:
        return 0

    def port_write(self, port: int, size: int, value: int) -> None:
        pass


def words(random: Random, engines: list[hooks.Engine]) -> bytearray:
    """A piece of heap with pointers to engines and into their memory, which stay there when it is freed."""
    pointers = [word for engine in engines[-2:] for word in struct.unpack_from("<60Q", engine.own_memory())]
    pointers += [engine.handle for engine in engines]
    some = struct.pack("<64Q", *random.choices(pointers or [0], k=64))
    return bytearray((some * 400)[: random.randrange(16, 200_000)])


@pytest.mark.fuzz
def test_the_layout_is_the_same_in_a_heap_full_of_other_engines() -> None:
    expected = layout()
    try:
        for seed in range(times(5)):
            random, engines = Random(seed), list[hooks.Engine]()
            for _ in range(25):
                number = random.randrange(3)
                fresh = [library.open_engine(ICELAKE_SERVER, NoPorts()) for _ in range(number)]
                engines += fresh
                neighbours = [words(random, engines) for _ in range(random.randrange(200))]
                random.shuffle(engines)
                while len(engines) > 3:
                    engines.pop().close()
                layout.cache_clear()
                assert layout() == expected, f"seed {seed}, among {len(neighbours)} neighbours"
                for engine in fresh:
                    if engine.handle:
                        CpuState(engine, expected).system.detach()
            for engine in engines:
                engine.close()
    finally:
        layout.cache_clear()
