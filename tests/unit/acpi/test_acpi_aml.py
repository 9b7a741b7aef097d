"""The AML builder: encodings of ACPI 6.4 section 20.2, and iasl as the outside judge."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from emu.acpi import aml, system_table


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, "00"),
        (1, "01"),
        (2, "0a02"),
        (0xFF, "0aff"),
        (0x100, "0b0001"),
        (0x10000, "0c00000100"),
        (1 << 32, "0e0000000001000000"),
    ],
)
def test_integer_takes_the_shortest_form(value: int, encoded: str) -> None:
    assert aml.integer(value).hex() == encoded


@pytest.mark.parametrize("value", [-1, 1 << 64])
def test_integer_out_of_range(value: int) -> None:
    with pytest.raises(ValueError, match="outside"):
        aml.integer(value)


@pytest.mark.parametrize(
    ("text", "encoded"),
    [
        ("\\", b"\\\0"),
        ("\\_SB", b"\\_SB_"),
        ("^^A", b"^^A___"),
        ("_SB.PCI0", b"\x2e_SB_PCI0"),
        ("\\_SB.PCI0.ISA", b"\\\x2f\x03_SB_PCI0ISA_"),
    ],
)
def test_path(text: str, encoded: bytes) -> None:
    assert aml.path(text) == encoded


@pytest.mark.parametrize("text", ["", "abc", "TOOLONG", "A..B", "1ABC", "\\^A"])
def test_path_refuses_what_is_no_name(text: str) -> None:
    with pytest.raises(ValueError, match="not an ACPI name"):
        aml.path(text)


@pytest.mark.parametrize("body", [0, 62, 63, 4093, 4094, (1 << 20) - 4, (1 << 20) - 3, (1 << 28) - 5])
def test_pkg_length_counts_itself_and_is_shortest(body: int) -> None:
    encoded = aml.pkg_length(body)
    extra = encoded[0] >> 6
    assert len(encoded) == 1 + extra
    value = encoded[0] & (0x0F if extra else 0x3F)
    value |= int.from_bytes(encoded[1:], "little") << 4
    assert value == body + len(encoded)
    if extra:
        assert body + extra >= (1 << 6 if extra == 1 else 1 << (4 + 8 * (extra - 1)))


def test_pkg_length_limit() -> None:
    with pytest.raises(ValueError, match="exceeds"):
        aml.pkg_length(1 << 28)
    with pytest.raises(ValueError, match="outside"):
        aml.field_length(1 << 28)


def test_arguments_are_bounded() -> None:
    with pytest.raises(ValueError, match="0 to 7"):
        aml.method("M", 8)
    with pytest.raises(ValueError, match="Arg6"):
        aml.arg(7)
    with pytest.raises(ValueError, match="Local7"):
        aml.local(8)
    with pytest.raises(ValueError, match="0 to 15"):
        aml.irq(16)
    with pytest.raises(ValueError, match="EISA"):
        aml.eisa_id("PNP")
    with pytest.raises(ValueError, match="ASCII"):
        aml.string("\u00e4")


def test_system_table_is_sealed() -> None:
    table = system_table(b"SSDT", b"abc", table_id=b"X")
    assert sum(table) & 0xFF == 0
    assert int.from_bytes(table[4:8], "little") == len(table) == 39


ASL = r"""
DefinitionBlock ("", "SSDT", 2, "BOCHS ", "AMLTEST ", 0x00000001)
{
    Scope (\_SB)
    {
        Device (TST0)
        {
            Name (_HID, EisaId ("PNP0A03"))
            Name (LIST, Package () { Zero, One, 0x12, "text", 0x1234567890 })
            Name (_CRS, ResourceTemplate () {
                IO (Decode16, 0x03F8, 0x03F8, 0x00, 0x08)
                IRQNoFlags () {4}
            })
            OperationRegion (REGA, SystemIO, 0x0A18, 0x04)
            Field (REGA, DWordAcc, Lock, WriteAsZeros) { FLDA, 16, , 8, FLDB, 8 }
            Method (TEST, 2, Serialized)
            {
                Store (ToUUID ("4309ac30-0d11-11e4-9191-0800200c9a66"), Local0)
                If (LAnd (LEqual (Arg0, Zero), LOr (LNot (Arg1), LLess (0x10, Arg1))))
                {
                    Return (Buffer (One) { 0x05 })
                }
                Else
                {
                    Notify (TST0, 0x80)
                }
                Store (Zero, Local1)
                While (LLess (Local1, SizeOf (Local0)))
                {
                    Store (DerefOf (Index (Local0, Local1)), Local2)
                    Increment (Local1)
                    If (LEqual (Local2, 3)) { Continue }
                    If (LEqual (Local2, 4)) { Break }
                }
                CreateDWordField (Local0, Zero, DWRD)
                CreateField (Local0, 0x08, 0x10, BITS)
                Add (Local1, 0x02, Local3)
                Subtract (Local3, One, Local3)
                ShiftLeft (Local3, 0x03, Local4)
                Concatenate (Local0, Local0, Local5)
                If (LEqual (ObjectType (Arg0), 0x04)) { Store (TEST (Local4, ^LIST), Local6) }
                Return (Local5)
            }
        }
    }
}
"""


def built() -> bytes:
    arg, local = aml.arg, aml.local
    test = aml.method(
        "TEST",
        2,
        aml.store(aml.to_uuid("4309ac30-0d11-11e4-9191-0800200c9a66"), local(0)),
        aml.if_(
            aml.logical_and(aml.equal(arg(0), 0), aml.logical_or(aml.logical_not(arg(1)), aml.less(0x10, arg(1)))),
            aml.return_(aml.buffer(b"\x05")),
        ),
        aml.else_(aml.notify("TST0", 0x80)),
        aml.store(0, local(1)),
        aml.while_(
            aml.less(local(1), aml.size_of(local(0))),
            aml.store(aml.deref_of(aml.index(local(0), local(1))), local(2)),
            aml.increment(local(1)),
            aml.if_(aml.equal(local(2), 3), aml.CONTINUE),
            aml.if_(aml.equal(local(2), 4), aml.BREAK),
        ),
        aml.create_dword_field(local(0), 0, "DWRD"),
        aml.create_field(local(0), 8, 16, "BITS"),
        aml.add(local(1), 2, local(3)),
        aml.subtract(local(3), 1, local(3)),
        aml.shift_left(local(3), 3, local(4)),
        aml.concatenate(local(0), local(0), local(5)),
        aml.if_(aml.equal(aml.object_type(arg(0)), 4), aml.store(aml.call("TEST", local(4), "^LIST"), local(6))),
        aml.return_(local(5)),
        serialized=True,
    )
    device = aml.device(
        "TST0",
        aml.name("_HID", aml.eisa_id("PNP0A03")),
        aml.name("LIST", aml.package(0, 1, 0x12, aml.string("text"), 0x1234567890)),
        aml.name(
            "_CRS",
            aml.resource_template(aml.io(0x3F8, 0x3F8, 0, 8), aml.irq(4)),
        ),
        aml.operation_region("REGA", aml.Space.SYSTEM_IO, 0xA18, 4),
        aml.field(
            "REGA",
            aml.Access.DWORD,
            ("FLDA", 16),
            (None, 8),
            ("FLDB", 8),
            lock=True,
            update=aml.Update.WRITE_AS_ZEROS,
        ),
        test,
    )
    return aml.scope("\\_SB", device)


@pytest.mark.skipif(shutil.which("iasl") is None, reason="needs iasl (apt install acpica-tools)")
def test_iasl_compiles_the_same_bytes(tmp_path: Path) -> None:
    source = tmp_path / "t.asl"
    source.write_text(ASL)
    done = subprocess.run(["iasl", "-oa", "-p", str(tmp_path / "t"), str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    compiled = (tmp_path / "t.aml").read_bytes()
    assert built().hex() == compiled[36:].hex()
