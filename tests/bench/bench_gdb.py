"""What a debugger costs: CPU time of a guest that gdb has, against the same run without it.

Each figure is of a whole run up to HLT, less that of one with a single round. Nothing that is asked for is met, so that
what is measured is the looking out for it; what a stop costs is measured by itself.
"""

from __future__ import annotations

import struct
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from emu import board
from emu.config import RunOptions
from emu.gdb.server import Server
from emu.host.sockets import UnixAddress
from tests.bench.bench_crash import BASE
from tests.bench.bench_recording import LOOPS, Loop
from tests.bench.measure import interleaved, ratio, row
from tests.gdb_client import Client

PAIRS = 3
PARTS = 40  # a debugged run has so many times fewer rounds
STOPS = 200
NEAR = BASE + 0x800  # in the page that the first loop stores to; no loop touches it
FAR = BASE + 0x7FF000  # in a page that no loop touches
ELSEWHERE = 0x300000  # code that is never executed
ASKED = {
    "gdb connected": [],
    "a breakpoint elsewhere": [b"Z1,%x,1" % ELSEWHERE],
    "a watchpoint in another page": [b"Z2,%x,8" % FAR],
    "a watchpoint in the page that is stored to": [b"Z2,%x,8" % NEAR],
}
# mov rax, NEAR; mov dr0, rax; mov eax, 0xd0001; mov dr7, rax: a data breakpoint of the guest's own, for eight bytes
OWN = b"\x48\xb8" + struct.pack("<Q", NEAR) + bytes.fromhex("0f23c0b801000900 0f23f8")


def plain(loop: Loop, folder: Path, rounds: int, prefix: bytes = b"") -> float:
    """CPU seconds of a run without a debugger, behind ``prefix``."""
    config = loop.image(folder, rounds)
    image = Path(str(config.image))
    image.write_bytes(prefix + image.read_bytes())
    with board.build(config, board.Outputs()) as machine:
        began = time.process_time()
        ended = machine.run()
        spent = time.process_time() - began
    assert ended.reason == "halt", ended
    return spent


def debugged(loop: Loop, folder: Path, rounds: int, asked: list[bytes], stops: int = 0) -> float:
    """CPU seconds of a run that a debugger has, from its `continue` to the end, or of so many stops."""
    path = folder / "gdb"
    with board.build(loop.image(folder, rounds), board.Outputs(), RunOptions(start_paused=True)) as machine:
        server = Server(machine, UnixAddress(str(path)))
        server.start()
        thread = threading.Thread(target=machine.run)
        thread.start()
        client = Client(path)
        try:
            for packet in asked:
                assert client.ask(packet) == b"OK"
            began = time.process_time()
            for _ in range(stops):
                assert client.ask(b"c").startswith(b"T05watch")
            if not stops:
                assert client.ask(b"c") == b"W00"
            return time.process_time() - began
        finally:
            client.ask(b"k") if stops else None
            client.close()
            thread.join()
            server.finish()


def main() -> None:
    print("debugged run / plain run, CPU time")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for loop in (LOOPS[0], LOOPS[3]):
            few = loop.plain_rounds // PARTS

            def each(asked: list[bytes], loop: Loop = loop, few: int = few) -> float:
                return (debugged(loop, folder, few + 1, asked) - debugged(loop, folder, 1, asked)) / few

            def asking(asked: list[bytes]) -> Callable[[], float]:
                return lambda: each(asked)

            def alone(prefix: bytes, loop: Loop = loop) -> float:
                rounds = loop.plain_rounds
                return (plain(loop, folder, rounds + 1, prefix) - plain(loop, folder, 1, prefix)) / rounds

            figures = interleaved(
                {
                    "plain": lambda: alone(b""),
                    **{name: asking(asked) for name, asked in ASKED.items()},
                    "a data breakpoint of its own there": lambda: alone(OWN),
                },
                PAIRS,
            )
            print(f"  {loop.name}")
            for name in list(figures)[1:]:
                print("    " + row(name, ratio(figures[name], figures["plain"]), "none"))
        spent = debugged(LOOPS[0], folder, STOPS, [b"Z2,%x,8" % BASE], STOPS)
        print(f"  {STOPS} stops at a watched word: {spent / STOPS * 1000:.2f} ms each")


if __name__ == "__main__":
    main()
