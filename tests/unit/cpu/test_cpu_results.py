"""Results that Unicorn's core gets wrong by itself; the examiner (tests/oracle/test_oracle_cpu.py) found most of them.

Expected values are those of the Intel SDM, volume 2, and of CPUs.
"""

from __future__ import annotations

import signal
import struct
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.unit.cpu.cpu_harness import CODE, HANDLERS, HLT, Guest

DATA = 0x120000
U64 = (1 << 64) - 1
CF, PF, AF, ZF, SF, OF = 1, 4, 0x10, 0x40, 0x80, 0x800


@pytest.fixture
def guest() -> Iterator[Guest]:
    guest = Guest()
    yield guest
    guest.close()


def _run(guest: Guest, code: str, data: bytes = b"", **registers: int) -> dict[str, int]:
    """Registers after ``code`` (hexadecimal), which finds DATA in RBX unless told otherwise."""
    guest.put(DATA, data.ljust(64, b"\0"))
    guest.long(bytes.fromhex(code) + HLT)
    for name, value in ({"rbx": DATA} | registers).items():
        guest.cpu.set_register(name, value)
    guest.cpu.run()
    return guest.cpu.registers()


def test_blsi_sets_carry_when_the_source_is_not_zero(guest: Guest) -> None:
    blsi = "c4e278f3d9"  # blsi eax, ecx
    assert _run(guest, blsi, rcx=0x28)["rflags"] & CF
    assert not _run(guest, blsi, rcx=1 << 32)["rflags"] & CF


@pytest.mark.parametrize(
    ("index", "result", "carry"), [(31, 0x7FFFFFFF, 0), (32, 0xFFFFFFFF, CF), (255, 0xFFFFFFFF, CF)]
)
def test_bzhi_keeps_all_bits_when_the_index_is_too_large(guest: Guest, index: int, result: int, carry: int) -> None:
    after = _run(guest, "c4e268f5c1", rcx=U64, rdx=index)  # bzhi eax, ecx, edx
    assert (after["rax"], after["rflags"] & CF) == (result, carry)


def test_bextr_takes_up_to_all_bits(guest: Guest) -> None:
    assert _run(guest, "c4e268f7c1", rcx=U64, rdx=0x2000)["rax"] == 0xFFFFFFFF  # bextr eax, ecx, edx
    assert _run(guest, "c4e2e8f7c1", rcx=U64, rdx=0xFF00)["rax"] == U64  # bextr rax, rcx, rdx
    assert _run(guest, "c4e268f7c1", rcx=U64, rdx=0x101C)["rax"] == 0xF


def test_pdep_of_32_bits_uses_32_bits_of_the_mask(guest: Guest) -> None:
    assert _run(guest, "c4e273f5c2", rcx=0x3, rdx=0x1_0000_0001)["rax"] == 1  # pdep eax, ecx, edx


def test_cmpxchg_keeps_the_upper_half_of_what_it_does_not_write(guest: Guest) -> None:
    equal = _run(guest, "0fb10b", struct.pack("<I", 7), rax=1 << 40 | 7)  # cmpxchg [rbx], ecx
    assert equal["rax"] == 1 << 40 | 7
    other = _run(guest, "0fb1ca", rax=1 << 40 | 7, rdx=1 << 41 | 9)  # cmpxchg edx, ecx
    assert (other["rax"], other["rdx"]) == (9, 1 << 41 | 9)


def test_cmpxchg8b_keeps_the_other_flags(guest: Guest) -> None:
    after = _run(guest, "29ff0fc70b", rax=1)  # sub edi, edi; cmpxchg8b [rbx]
    assert after["rflags"] & (CF | PF | AF | ZF | SF | OF) == PF


def test_locked_neg_sets_the_flags_of_its_result(guest: Guest) -> None:
    after = _run(guest, "f0f61b", b"\x01")  # lock neg byte [rbx]
    assert after["rflags"] & (CF | ZF | SF) == CF | SF
    after = _run(guest, "f0f61b", b"\xff")
    assert after["rflags"] & (CF | ZF | SF) == CF


def test_string_comparison_stays_within_its_operands(guest: Guest) -> None:
    """Lengths beyond the operands count as their size; Unicorn itself reads wild memory."""
    after = _run(guest, "660f3a61c008", rax=1 << 31, rdx=1 << 31)  # pcmpestri xmm0, xmm0, 8
    assert after["rcx"] == 0
    assert after["rflags"] & (CF | ZF | SF | OF) == CF | OF


def test_zero_by_zero_is_invalid_on_the_x87(guest: Guest) -> None:
    assert _run(guest, "dbe3d9eed9eedef9dfe0")["rax"] & 0xFFFF == 0x3801  # fninit; fldz; fldz; fdivp; fnstsw ax


def test_inexact_results_are_marked_and_rounding_up_too(guest: Guest) -> None:
    """1/3 rounds up (C1) on the way from 1 / 3.0; 3.0 is at RBX."""
    status = _run(guest, "dbe3d9e8d833dfe0", struct.pack("<f", 3))["rax"]  # fninit; fld1; fdiv dword [rbx]; fnstsw ax
    assert status & 0x3F == 0x20
    assert status & 0x200


def test_the_x87_stack_overflows(guest: Guest) -> None:
    status = _run(guest, "dbe3" + "d9e8" * 9 + "dfe0")["rax"]  # fninit; 9 times fld1; fnstsw ax
    assert status & 0x241 == 0x241


def test_mxcsr_keeps_what_happened(guest: Guest) -> None:
    code = "0fae13f30f104304f30f5e43080fae5b0c"  # ldmxcsr [rbx]; movss xmm0; divss xmm0; stmxcsr [rbx+12]
    _run(guest, code, struct.pack("<Iff", 0x1F80, 1, 0))
    assert struct.unpack_from("<I", guest.memory, DATA + 12) == (0x1F84,)


def test_a_simd_exception_that_is_not_masked_is_raised(guest: Guest) -> None:
    code = "0f20e00d000400000f22e00fae13f30f104304f30f5e4308"  # CR4.OSXMMEXCPT, then as above
    _run(guest, code, struct.pack("<Iff", 0x1D80, 1, 0))
    assert guest.cpu.last_exception is not None
    assert guest.cpu.last_exception.vector == 19


@pytest.mark.parametrize(
    ("factor", "flags"), [(2.0**70, 0x8), (2.0**70 * (1 + 2**-20), 0x28)], ids=["exact", "inexact"]
)
def test_an_overflow_that_is_not_masked_sets_pe_only_if_the_scaled_result_is_inexact(
    guest: Guest, factor: float, flags: int
) -> None:
    """Intel SDM volume 1, section 4.9.1.4: as if the exponent had no limit. Another's SIGFPE handler stays."""
    before = signal.getsignal(signal.SIGFPE)
    code = "0f20e00d000400000f22e00fae13f30f104304f30f594308"  # as above, but mulss
    _run(guest, code, struct.pack("<Iff", 0x1B80, factor, factor))
    assert guest.cpu.last_exception is not None
    assert guest.cpu.last_exception.vector == 19
    _run(guest, code + "0fae5b0c", struct.pack("<Iff", 0x1F80, factor, factor))  # masked: the result is infinite
    assert struct.unpack_from("<I", guest.memory, DATA + 12) == (0x1FA8,)
    guest.gate64(19, HANDLERS)
    guest.put(HANDLERS, bytes.fromhex("0fae5b0c") + HLT)  # stmxcsr [rbx+12]
    _run(guest, code, struct.pack("<Iff", 0x1B80, factor, factor))
    assert struct.unpack_from("<I", guest.memory, DATA + 12) == (0x1B80 | flags,)
    assert signal.getsignal(signal.SIGFPE) is before


ON = "0f20e00d000204000f22e0b90000000031d2b8030000000f01d1"  # CR4.OSFXSR and OSXSAVE, XCR0 = 3
FXRSTOR, XRSTOR_SSE, XRSTOR_X87 = "0fae0b", "b8020000000fae2b", "b8010000000fae2b"


@pytest.mark.parametrize(("code", "raises"), [(FXRSTOR, True), (XRSTOR_SSE, True), (XRSTOR_X87, False)])
@pytest.mark.parametrize("mxcsr", [0x9F80, 0x1_1F80])
def test_restoring_refuses_what_loading_mxcsr_refuses(guest: Guest, code: str, raises: bool, mxcsr: int) -> None:
    _run(guest, ON + code + "0fae5b20", bytes(24) + struct.pack("<I", mxcsr))  # at last: stmxcsr [rbx+32]
    fault = guest.cpu.last_exception
    if raises and mxcsr >> 16:
        assert fault is not None
        assert (fault.vector, fault.error_code, fault.rip) == (13, 0, CODE + 8 + len(ON + code) // 2 - 3)
    else:
        assert fault is None
        assert struct.unpack_from("<I", guest.memory, DATA + 32) == (mxcsr if raises else 0x1F80,)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("movaps load", "0f284304"),
        ("movaps store", "0f294304"),
        ("movntdq", "660fe74304"),
        ("paddb", "660ffc4304"),
        ("pshufb", "660f38004304"),
        ("aesenc", "660f38dc4304"),
    ],
)
def test_misaligned_operands_of_16_bytes_fault(guest: Guest, name: str, code: str) -> None:
    _run(guest, code)
    assert guest.cpu.last_exception is not None
    assert (guest.cpu.last_exception.vector, guest.cpu.last_exception.error_code) == (13, 0)
    assert guest.cpu.last_exception.rip == CODE + 8


@pytest.mark.parametrize("code", ["0f104304", "f30f6f4304", "f20ff04304", "660f3a63430400", "f20f584304"])
def test_these_need_no_alignment(guest: Guest, code: str) -> None:
    """MOVUPS, MOVDQU, LDDQU, PCMPISTRI, ADDSD."""
    _run(guest, code)
    assert guest.cpu.last_exception is None


def test_a_library_that_was_loaded_before_gets_the_corrections_too() -> None:
    """Whoever loaded it keeps theirs; this machine runs on a copy."""
    program = """
import ctypes, sys
from importlib.machinery import PathFinder
from pathlib import Path
folder = PathFinder.find_spec("unicorn").submodule_search_locations[0]
ctypes.CDLL(str(next(Path(folder, "lib").glob("libunicorn.so*"))))
from tests.unit.cpu.cpu_harness import HLT, Guest
guest = Guest()
guest.run_long(bytes.fromhex("dbe3d9eed9eedef9dfe0") + HLT)
print(hex(guest.cpu.registers()["rax"] & 0xFFFF))
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={"PYTHONPATH": ":".join(sys.path)}
    )
    assert (ran.stdout, ran.stderr) == ("0x3801\n", "")
