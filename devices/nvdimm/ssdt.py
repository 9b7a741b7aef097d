"""The SSDT of the NVDIMM root device, byte for byte as QEMU 7.2 has it: guests and their drivers rely on these objects.

``NVDR`` below ``_SB`` is the root device (ACPI 6.4, section 9.19.2), with one child for each slot, plugged or not. All
of its methods end in ``NCAL``, which puts a call into the _DSM page at ``MEMA``, writes the page's address to the
I/O port and takes the answer from the page (see ``dsm``). The table ends with the name ``MEMA``, whose last four bytes
firmware may patch.
"""

from __future__ import annotations

from emu.acpi import aml, system_table
from emu.acpi.aml import arg, local
from emu.devices.nvdimm import nfit
from emu.devices.nvdimm.dsm_layouts import DSM_PAGE

ROOT_UUID = "2f10e7a4-9e91-11e4-89d3-123b93f75cba"
INTERNAL_UUID = "648b9cf2-cda1-4312-8ad9-49c4af32bd62"
DIMM_UUID = "4309ac30-0d11-11e4-9191-0800200c9a66"
ROOT_HANDLE = 0
INTERNAL_HANDLE = 0x10000

_NVDIMM_ADDED = 0x80
_INPUT_BITS = 8 * (DSM_PAGE - 12)
_OUTPUT_BITS = 8 * (DSM_PAGE - 4)
_EMPTY = aml.buffer()


def hotplug_handler(event: int) -> bytes:
    """AML for ``\\_GPE``: general-purpose event ``event`` tells the root device that an NVDIMM was added.

    ACPI 6.4, section 5.6.6: upon notification 0x80 of that device systems evaluate _FIT.
    """
    return aml.method(f"_E{event:02X}", 0, aml.notify("\\_SB.NVDR", _NVDIMM_ADDED))


def ssdt(slots: int, page: int, ports: range) -> bytes:
    """The table for a machine with ``slots`` slots whose _DSM page is at the guest physical address ``page``.

    ``ports`` are those of ``dsm.DsmPort``.
    """
    root = aml.device(
        "NVDR",
        aml.name("_HID", aml.string("ACPI0012")),
        _call_method(ports),
        _dsm(ROOT_HANDLE),
        aml.name("RSTA", 0),
        _read_fit_method(),
        _fit_method(),
        *(_dimm(slot) for slot in range(slots)),
    )
    body = aml.scope("\\_SB", root) + aml.name("MEMA", aml.dword(page))
    return system_table(b"SSDT", body, table_id=b"NVDIMM\0\0")


def _call_method(ports: range) -> bytes:
    """NCAL(uuid, revision, function, arguments, handle): one call through the page."""
    page, length = local(6), local(1)
    by_handle = (
        aml.if_(aml.equal(arg(4), ROOT_HANDLE), aml.store(aml.to_uuid(ROOT_UUID), local(0)))
        + aml.else_(
            aml.if_(aml.equal(arg(4), INTERNAL_HANDLE), aml.store(aml.to_uuid(INTERNAL_UUID), local(0)))
            + aml.else_(aml.store(aml.to_uuid(DIMM_UUID), local(0)))
        )
    )  # fmt: skip
    refuse = aml.if_(
        aml.logical_or(aml.equal(page, 0), aml.logical_not(aml.equal(arg(0), local(0)))),
        aml.if_(aml.equal(arg(2), 0), aml.return_(aml.buffer(b"\x00"))),
        aml.return_(aml.buffer(b"\x01")),
    )
    one_argument = aml.logical_and(aml.equal(aml.object_type(arg(3)), 4), aml.equal(aml.size_of(arg(3)), 1))
    # A field of up to eight bytes reads as an integer, so short answers are gathered byte by byte into a buffer.
    short = aml.if_(
        aml.less(length, 8),
        aml.store(0, local(2)),
        aml.name("TBUF", aml.buffer(b"\x00")),
        aml.store(_EMPTY, local(7)),
        aml.while_(
            aml.less(local(2), length),
            aml.store(aml.deref_of(aml.index("ODAT", local(2))), aml.index("TBUF", 0)),
            aml.concatenate(local(7), "TBUF", local(7)),
            aml.increment(local(2)),
        ),
        aml.return_(local(7)),
    )
    return aml.method(
        "NCAL",
        5,
        aml.store("MEMA", page),
        aml.operation_region("NPIO", aml.Space.SYSTEM_IO, ports.start, len(ports)),
        aml.operation_region("NRAM", aml.Space.SYSTEM_MEMORY, page, DSM_PAGE),
        aml.field("NPIO", aml.Access.DWORD, ("NTFI", 32)),
        aml.field("NRAM", aml.Access.DWORD, ("HDLE", 32), ("REVS", 32), ("FUNC", 32), ("FARG", _INPUT_BITS)),
        aml.field("NRAM", aml.Access.DWORD, ("RLEN", 32), ("ODAT", _OUTPUT_BITS)),
        by_handle,
        refuse,
        aml.store(arg(4), "HDLE"),
        aml.store(arg(1), "REVS"),
        aml.store(arg(2), "FUNC"),
        aml.if_(
            one_argument,
            aml.store(aml.index(arg(3), 0), local(2)),
            aml.store(aml.deref_of(local(2)), local(3)),
            aml.store(local(3), "FARG"),
        ),
        aml.store(page, "NTFI"),
        aml.subtract("RLEN", 4, length),
        short,
        aml.store(aml.shift_left(length, 3), length),
        aml.create_field("ODAT", 0, length, "OBUF"),
        aml.return_("OBUF"),
        serialized=True,
    )


def _dsm(handle: int) -> bytes:
    return aml.method("_DSM", 4, aml.return_(aml.call("NCAL", arg(0), arg(1), arg(2), arg(3), handle)))


def _read_fit_method() -> bytes:
    """RFIT(offset): one piece of the FIT as a Buffer, its status in RSTA."""
    return aml.method(
        "RFIT",
        1,
        aml.name("OFST", 0),
        aml.store(arg(0), "OFST"),
        aml.store(aml.call("NCAL", aml.to_uuid(INTERNAL_UUID), 1, 1, aml.package("OFST"), INTERNAL_HANDLE), local(0)),
        aml.create_dword_field(local(0), 0, "STAU"),
        aml.store("STAU", "RSTA"),
        aml.if_(aml.logical_not(aml.equal(0, "STAU")), aml.return_(_EMPTY)),
        aml.store(aml.size_of(local(0)), local(1)),
        aml.subtract(local(1), 4, local(1)),
        aml.if_(aml.equal(local(1), 0), aml.return_(_EMPTY)),
        aml.create_field(local(0), 32, aml.shift_left(local(1), 3), "BUFF"),
        aml.return_("BUFF"),
        serialized=True,
    )


def _fit_method() -> bytes:
    """_FIT: all pieces joined; starts again when the FIT changed meanwhile."""
    restart = aml.store(_EMPTY, local(2)) + aml.store(0, local(3))
    return aml.method(
        "_FIT",
        0,
        restart,
        aml.while_(
            1,
            aml.store(aml.call("RFIT", local(3)), local(0)),
            aml.store(aml.size_of(local(0)), local(1)),
            aml.if_(aml.equal("RSTA", 0x100), restart),
            aml.else_(
                aml.if_(aml.equal(local(1), 0), aml.return_(local(2))),
                aml.add(local(3), local(1), local(3)),
                aml.concatenate(local(2), local(0), local(2)),
            ),
        ),
        serialized=True,
    )


def _dimm(slot: int) -> bytes:
    handle = nfit.handle(slot)
    return aml.device(
        f"NV{slot:02X}",
        aml.name("_ADR", handle),
        _label_information(handle),
        _label_read(handle),
        _label_write(handle),
        _dsm(handle),
    )


def _label_call(handle: int, function: int, arguments: aml.Operand) -> bytes:
    return aml.call("NCAL", aml.to_uuid(DIMM_UUID), 1, function, arguments, handle)


def _label_information(handle: int) -> bytes:
    """_LSI (ACPI 6.4, section 6.5.10.1): status, size of the label area, longest transfer."""
    return aml.method(
        "_LSI",
        0,
        aml.store(_label_call(handle, 4, 0), local(0)),
        aml.create_dword_field(local(0), 0, "STTS"),
        aml.create_dword_field(local(0), 4, "SLSA"),
        aml.create_dword_field(local(0), 8, "MAXT"),
        aml.store(aml.package("STTS", "SLSA", "MAXT"), local(1)),
        aml.return_(local(1)),
        serialized=True,
    )


def _input(length: str) -> bytes:
    """Offset and length of a transfer, from the method's first two arguments, in the Buffer INPT."""
    return (
        aml.name("INPT", aml.buffer(bytes(8)))
        + aml.create_dword_field("INPT", 0, "OFST")
        + aml.create_dword_field("INPT", 4, length)
        + aml.store(arg(0), "OFST")
        + aml.store(arg(1), length)
    )


def _label_read(handle: int) -> bytes:
    """_LSR (ACPI 6.4, section 6.5.10.2): status and data."""
    return aml.method(
        "_LSR",
        2,
        _input("LEN"),
        aml.store(aml.package("INPT"), local(0)),
        aml.store(_label_call(handle, 5, local(0)), local(3)),
        aml.create_dword_field(local(3), 0, "STTS"),
        aml.create_field(local(3), 32, aml.shift_left("LEN", 3), "LDAT"),
        aml.name("LSA", _EMPTY),
        aml.to_buffer("LDAT", "LSA"),
        aml.store(aml.package("STTS", "LSA"), local(1)),
        aml.return_(local(1)),
        serialized=True,
    )


def _label_write(handle: int) -> bytes:
    """_LSW (ACPI 6.4, section 6.5.10.3): status."""
    return aml.method(
        "_LSW",
        3,
        aml.store(arg(2), local(2)),
        _input("TLEN"),
        aml.concatenate("INPT", local(2), "INPT"),
        aml.store(aml.package("INPT"), local(0)),
        aml.store(_label_call(handle, 6, local(0)), local(3)),
        aml.create_dword_field(local(3), 0, "STTS"),
        aml.return_("STTS"),
        serialized=True,
    )
