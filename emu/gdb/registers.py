"""The registers as gdb sees them: always the 64-bit layout, whatever mode the guest is in, so that one session follows
it from its first instruction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from emu.cpu import Cpu
from emu.errors import UsageError
from emu.state import SavedState

# Numbers of the general registers in instruction encodings, by gdb's order (gdb's 64bit-core.xml).
_GENERAL = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", *(f"r{n}" for n in range(8, 16)))
_SEGMENTS = ("cs", "ss", "ds", "es", "fs", "gs")
_X87 = ("fctrl", "fstat", "ftag", "fiseg", "fioff", "foseg", "fooff", "fop")
_CONTROL = ("cr0", "cr2", "cr3", "cr4", "efer")
_X87_REGISTERS, _XMM_REGISTERS = 8, 16
# The processor keeps 16 bits of the selectors and 11 of the opcode; the order is that of the saved state.
_POINTERS = {"fioff": 0, "fiseg": 1, "fooff": 2, "foseg": 3, "fop": 4}
_WORDS = {"fctrl": 0, "fstat": 1, "ftag": 2}


class Register(NamedTuple):
    """One register of the description: ``bits`` wide, ``kind`` is its type in gdb's words."""

    name: str
    bits: int
    kind: str
    feature: str

    @property
    def size(self) -> int:
        return self.bits // 8


def _registers() -> tuple[Register, ...]:
    core, sse, segments = "org.gnu.gdb.i386.core", "org.gnu.gdb.i386.sse", "org.gnu.gdb.i386.segments"
    found = [Register(name, 64, "data_ptr" if name in ("rbp", "rsp") else "int64", core) for name in _GENERAL]
    found += [Register("rip", 64, "code_ptr", core), Register("eflags", 32, "i386_eflags", core)]
    found += [Register(name, 32, "int32", core) for name in _SEGMENTS]
    found += [Register(f"st{n}", 80, "i387_ext", core) for n in range(_X87_REGISTERS)]
    found += [Register(name, 32, "int", core) for name in _X87]
    found += [Register(f"xmm{n}", 128, "vec128", sse) for n in range(_XMM_REGISTERS)]
    found += [Register("mxcsr", 32, "i386_mxcsr", sse)]
    found += [Register(name, 64, "int", segments) for name in ("fs_base", "gs_base")]
    found += [Register(name, 64, "int64", "org.emu.i386.control") for name in _CONTROL]
    return tuple(found)


REGISTERS = _registers()
"""By number."""

_TYPES = {
    "org.gnu.gdb.i386.core": (
        '<flags id="i386_eflags" size="4">'
        + "".join(
            f'<field name="{name}" start="{bit}" end="{bit}"/>'
            for name, bit in (("CF", 0), ("", 1), ("PF", 2), ("AF", 4), ("ZF", 6), ("SF", 7), ("TF", 8), ("IF", 9),
                              ("DF", 10), ("OF", 11), ("NT", 14), ("RF", 16), ("VM", 17), ("AC", 18), ("VIF", 19),
                              ("VIP", 20), ("ID", 21))
        )
        + "</flags>"
    ),
    "org.gnu.gdb.i386.sse": (
        "".join(
            f'<vector id="{name}" type="{kind}" count="{count}"/>'
            for name, kind, count in (("v4f", "ieee_single", 4), ("v2d", "ieee_double", 2), ("v16i8", "int8", 16),
                                      ("v8i16", "int16", 8), ("v4i32", "int32", 4), ("v2i64", "int64", 2))
        )
        + '<union id="vec128">'
        + "".join(
            f'<field name="{name}" type="{kind}"/>'
            for name, kind in (("v4_float", "v4f"), ("v2_double", "v2d"), ("v16_int8", "v16i8"),
                               ("v8_int16", "v8i16"), ("v4_int32", "v4i32"), ("v2_int64", "v2i64"),
                               ("uint128", "uint128"))
        )
        + "</union>"
        '<flags id="i386_mxcsr" size="4">'
        + "".join(
            f'<field name="{name}" start="{bit}" end="{bit}"/>'
            for bit, name in enumerate(("IE", "DE", "ZE", "OE", "UE", "PE", "DAZ", "IM", "DM", "ZM", "OM", "UM", "PM"))
        )
        + "</flags>"
    ),
}  # fmt: skip


def description() -> bytes:
    """The target description that gdb asks for (gdb manual, "Target Descriptions", appendix G)."""
    text = ['<?xml version="1.0"?><!DOCTYPE target SYSTEM "gdb-target.dtd"><target version="1.0">']
    text.append("<architecture>i386:x86-64</architecture>")
    for feature in dict.fromkeys(register.feature for register in REGISTERS):
        text.append(f'<feature name="{feature}">{_TYPES.get(feature, "")}')
        text += [
            f'<reg name="{register.name}" bitsize="{register.bits}" type="{register.kind}"/>'
            for register in REGISTERS
            if register.feature == feature
        ]
        text.append("</feature>")
    return "".join([*text, "</target>"]).encode()


class Values:
    """The registers of the stopped ``cpu``, all read at once."""

    def __init__(self, cpu: Cpu) -> None:
        self._plain = cpu.registers()
        self._fields: Mapping[str, Any] = cpu.save().fields

    def __getitem__(self, register: Register) -> bytes:
        return self._find(register.name).to_bytes(register.size, "little")

    def _find(self, name: str) -> int:
        fields = self._fields
        if name == "eflags":
            return self._plain["rflags"]
        if name in self._plain:
            return self._plain[name]
        if name == "mxcsr":
            return int(fields["mxcsr"])
        if name in _WORDS:
            return int(fields["fpu_words"][_WORDS[name]])
        if name in _POINTERS:
            return int(fields["fpu_pointers"][_POINTERS[name]]) & 0xFFFFFFFF
        kind, number, size = _wide(name)
        return int.from_bytes(fields[kind][number * size : (number + 1) * size], "little")


def _wide(name: str) -> tuple[str, int, int]:
    """Of an x87 or SSE register: the field of the saved state, its place in there and its size."""
    return ("xmm", int(name[3:]), 16) if name.startswith("xmm") else ("fpu", int(name[2:]), 10)


def write(cpu: Cpu, values: Sequence[tuple[Register, bytes]]) -> None:
    """Set registers of the stopped ``cpu``: all, or by UsageError none."""
    undo = cpu.save()
    try:
        for register, value in values:
            _write_one(cpu, register, value)
    except BaseException:
        cpu.parse(undo)()
        raise


def _write_one(cpu: Cpu, register: Register, value: bytes) -> None:
    name, number = register.name, int.from_bytes(value, "little")
    if name in _GENERAL or name == "rip":
        cpu.set_register(name, number)
    elif name == "eflags":
        cpu.set_register("rflags", number)
    elif value == Values(cpu)[register]:
        return
    else:
        change = _change(name, value, number)
        if change is None:
            raise UsageError(f"register {name} cannot be set", "set a general, flag, x87 or SSE register")
        state = cpu.save()
        field, changed = change(state.fields)
        cpu.parse(SavedState(state.kind, state.version, {**state.fields, field: changed}))()


def _change(name: str, value: bytes, number: int) -> Callable[[Mapping[str, Any]], tuple[str, Any]] | None:
    """What makes the saved state's field with its new value; None for what debuggers may not set."""
    if name == "mxcsr":
        return lambda fields: ("mxcsr", number & 0xFFFF)
    if name in _WORDS:
        words = _WORDS[name]
        return lambda fields: ("fpu_words", _replaced(fields["fpu_words"], words, number & 0xFFFF))
    if not name.startswith(("xmm", "st")):
        return None
    kind, place, size = _wide(name)

    def change(fields: Mapping[str, Any]) -> tuple[str, Any]:
        before = fields[kind]
        return kind, before[: place * size] + value + before[(place + 1) * size :]

    return change


def _replaced(values: Sequence[int], place: int, value: int) -> list[int]:
    return [value if number == place else before for number, before in enumerate(values)]
