"""Stops come between basic blocks, whoever asks for them: nothing is executed twice."""

from __future__ import annotations

import ctypes
import mmap
import threading

import pytest

from emu.cpu import Cpu, StopKind
from emu.entry import Protected32
from emu.memory import GuestMemory
from tests.unit.cpu.cpu_harness import host_region

CODE, DATA, STACK = 0x1000, 0x9000, 0x8000


@pytest.fixture
def memory() -> mmap.mmap:
    return mmap.mmap(-1, 1 << 20)


def cpu_with(memory: mmap.mmap, code: bytes) -> Cpu:
    memory[CODE : CODE + len(code)] = code
    regions = GuestMemory()
    regions.add(host_region(0, len(memory), ctypes.addressof(ctypes.c_char.from_buffer(memory))))
    cpu = Cpu(regions)
    cpu.enter(Protected32(CODE, 0, 0))
    cpu.set_register("rbx", DATA)
    cpu.set_register("rsp", STACK)
    return cpu


@pytest.mark.parametrize(
    ("code", "end"),
    [
        # call over hlt; out; ret: RIP comes from the stack
        (b"\xe8\x01\x00\x00\x00\xf4\xe6\x80\xe6\x81\xc3", CODE + 5),
        # out; mov al, [ebx]; inc dword [ebx]; jmp +0; hlt
        (b"\xe6\x80\x8a\x03\xff\x03\xe6\x81\xeb\x00\xf4", CODE + 10),
        # out; push eax; pop ecx; out; jmp +0; hlt
        (b"\xe6\x80\x50\x59\xe6\x81\xeb\x00\xf4", CODE + 8),
    ],
)
def test_a_stop_asked_for_in_out_is_taken_at_the_end_of_the_block(memory: mmap.mmap, code: bytes, end: int) -> None:
    cpu = cpu_with(memory, code)
    seen: list[int] = []

    def out(port: int, size: int, value: int) -> None:
        seen.append(port)
        cpu.request_stop()

    cpu.on_port_write = out
    stop = cpu.run()
    assert (stop.kind, stop.rip) == (StopKind.REQUESTED, end)
    assert cpu.run().kind is StopKind.HALT
    assert seen == [0x80, 0x81]
    assert memory[DATA] in (0, 1)
    cpu.close()


def test_stops_from_another_thread_execute_nothing_twice(memory: mmap.mmap) -> None:
    # again: inc ecx; mov [ebx], ecx; inc edx; mov [ebx+4], edx; inc esi; jmp again
    cpu = cpu_with(memory, b"\x41\x89\x0b\x42\x89\x53\x04\x46\xeb\xf6")
    for _ in range(50):
        timer = threading.Timer(0.0005, cpu.request_stop)
        timer.start()
        assert cpu.run().kind is StopKind.REQUESTED
        timer.join()
        registers = cpu.registers()
        assert registers["rip"] == CODE
        assert registers["rcx"] == registers["rdx"] == registers["rsi"]
    assert registers["rcx"] > 0
    cpu.close()
