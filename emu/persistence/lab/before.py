"""Python that is called before chosen instructions of a guest, in a run of the workload that is made to look."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable

from emu.cpu import Cpu

_Callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_void_p)


class Before:
    """Calls ``do`` with the address before each execution of an instruction at one of ``places``, until ``forget``. It
    must be kept as long.
    """

    def __init__(self, cpu: Cpu, places: Iterable[int], do: Callable[[int], None]) -> None:
        self._cpu = cpu
        self._callback = _Callback(lambda _engine, pc, _size, _data: do(pc))
        function = ctypes.cast(self._callback, ctypes.c_void_p).value
        assert function is not None
        self._hooks = [cpu.add_instruction_hook(place, function) for place in dict.fromkeys(places)]
        cpu.invalidate(0, 1)  # what was translated before

    def forget(self) -> None:
        for hook in self._hooks:
            self._cpu.remove_hook(hook)
