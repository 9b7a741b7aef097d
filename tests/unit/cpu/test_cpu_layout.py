"""Where Unicorn keeps its state is measured right, whatever lies around it in memory."""

from __future__ import annotations

from random import Random

from emu.cpu.engine import hooks, library
from emu.cpu.engine.layout import layout
from emu.cpu.registers import ICELAKE_SERVER


class NoPorts:
    def port_read(self, port: int, size: int) -> int:
        return 0

    def port_write(self, port: int, size: int, value: int) -> None:
        pass


def test_the_layout_is_the_same_in_a_heap_full_of_other_engines() -> None:
    expected = layout()
    try:
        for seed in range(8):
            random, engines = Random(seed), list[hooks.Engine]()
            for _ in range(25):
                functions = library.functions()
                for _ in range(random.randrange(3)):
                    engines.append(hooks.Engine(functions, ICELAKE_SERVER, NoPorts(), library.describe))
                neighbours = [bytearray(random.randrange(16, 200_000)) for _ in range(random.randrange(200))]
                random.shuffle(engines)
                while len(engines) > 3:
                    engines.pop().close()
                layout.cache_clear()
                assert layout() == expected, f"seed {seed}, among {len(neighbours)} neighbours"
            for engine in engines:
                engine.close()
    finally:
        layout.cache_clear()
