"""Guests that store to the NVDIMM in odd ways: the log of their stores must explain every byte that they leave.

``record`` itself compares log and memory, and raises ``UnexplainedMemory``.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from emu.persistence.lab.workload import record
from emu.persistence.model.events import Store
from emu.units import PAGE
from tests.unit.persistence.paged_guest import (
    BASE,
    BEHIND,
    LARGE,
    PRESENT,
    SCRATCH,
    STACK,
    TABLES,
    WINDOW,
    assembled,
    image,
    machine,
)

# Where guests put their tables, in RAM.
USER = PRESENT | 4
POINTER, GDT, IDT, TSS, LOW_TABLES = SCRATCH, 0x230000, 0x220000, 0x250000, 0x260000
APART = [BASE + 5 * PAGE, BASE + 2 * PAGE, BASE + 9 * PAGE]
"""What WINDOW shows, if nothing else is said. BORDER is between the first two."""
BORDER = WINDOW + PAGE

# To be executed with RDI = BORDER - 3, RSP = STACK and new pages on both sides of the border: each stores to both.
ACROSS = """
    lea rsp, [rdi+96]; mov rbp, rdi; enter 32, 31; mov rsp, STACK
    mov rsp, rdi; add rsp, 16; lea rbp, [rdi+300]; .byte 0x66; enter 32, 9; mov rsp, STACK
    sub rdi, 0x100000; mov rax, 0x800000 + 8; bts [rdi], rax; add rdi, 0x100000; mov rax, -9; bts [rdi+32], eax
    mov [rdi], eax; lock btr dword ptr [rdi], eax; btc [rdi], rax
    xor eax, eax; xor edx, edx; mov ebx, 0x11223344; mov ecx, 0x55667788; lock cmpxchg8b [rdi]; cmpxchg8b [rdi]
    and rdi, -64; fld1; pcmpeqb xmm1, xmm1; fxsave [rdi-128]; fxsave64 [rdi-128]
    and rdi, -64; fld1; pcmpeqb xmm2, xmm2; mov eax, 3; cdq; xsave [rdi-128]; xsaveopt [rdi-128]; xsave64 [rdi-128]
    fld1; fldpi; fnsave [rdi-50]; fnstenv [rdi-9]
    fldpi; fbstp [rdi-3]; fldpi; fstp tbyte ptr [rdi-4]; fldpi; fisttp qword ptr [rdi]; fnstcw [rdi+2]; fnstsw [rdi+2]
    pcmpeqb xmm0, xmm0; mov rax, 0xff00ff00ff80ff01; movq xmm1, rax; pinsrq xmm1, rax, 1; maskmovdqu xmm0, xmm1
    movq mm1, rax; movq mm0, rax; maskmovq mm0, mm1; movntq [rdi], mm0; emms
    std; mov rax, 0x1122334455667788; add rdi, 24; mov ecx, 9; rep stosq; cld
    mov rax, 0x0102030405060708; mov [rdi], rax; mov rsi, rdi; add rdi, 3; mov ecx, 60; rep movsb
    sgdt [rdi]; sidt [rdi+1]; str [rdi+2]; sldt [rdi+2]; smsw [rdi+2]; stmxcsr [rdi+1]
    lea rsp, [rdi+8]; push rsp; lea rsp, [rdi+5]; pushw 7; lea rsp, [rdi+6]; pushf; pop qword ptr [rsp-3]; call 1f; 1:
    pextrd [rdi], xmm0, 1; pextrw [rdi+2], xmm0, 1; movhps [rdi], xmm0; movnti [rdi+1], rax; movd [rdi], xmm0
    mov dx, 0x3fd; mov ecx, 6; rep insb
    lea rax, [rip+1f]; lea rsp, [rdi+4]; push 8; push rax; retfq; 1: mov rsp, STACK
"""


def stored(tmp_path: Path, text: str, window: list[int], *, behind: str = "", rights: int = PRESENT) -> set[int]:
    """Record a guest that executes ``text``; the bytes that it stored to."""
    constants = f"STACK = {STACK}; BORDER = {BORDER}; WINDOW = {WINDOW}; POINTER = {POINTER}; TABLES = {TABLES}\n"
    path = tmp_path / "guest.bin"
    more = assembled(behind, BEHIND) if behind else b""
    path.write_bytes(image(assembled(constants + text), window, rights=rights, behind=more))
    workload = record(machine(path))
    assert workload.ended.reason == "halt", workload.ended
    assert not workload.doubts
    return {store.address + at for store in workload.events if isinstance(store, Store)
            for at in range(len(store.data))}  # fmt: skip


def test_across_pages_that_lie_apart(tmp_path: Path) -> None:
    snippets = [line.strip() for line in ACROSS.split("\n") if line.strip()]
    window = [BASE + (7 * page + 3) % 64 * PAGE for page in range(2 * len(snippets))]
    text = "mov rax, cr4; or eax, 0x40000; mov cr4, rax; xor ecx, ecx; xor edx, edx; mov eax, 3; xsetbv\n"
    for number, snippet in enumerate(snippets):
        text += f"fninit; mov rsp, STACK; mov rdi, {WINDOW + (2 * number + 1) * PAGE - 3}; {snippet}\n"
    touched = stored(tmp_path, text, window)
    for number, snippet in enumerate(snippets):
        first, second = window[2 * number : 2 * number + 2]
        assert {first + PAGE - 1, second} <= touched, snippet


# Page tables of 32-bit PAE, in RAM down to the last level, which is WINDOW's first page; and how to get there.
_PAE = f"""
    mov rdi, {LOW_TABLES}; mov rax, {LOW_TABLES + PAGE | 1}; mov [rdi], rax; mov rax, {LOW_TABLES + 2 * PAGE | 1}
    mov [rdi+8], rax; mov qword ptr [rdi+16], 0; mov qword ptr [rdi+24], 0
    mov rdi, {LOW_TABLES + PAGE}; mov rax, 0x83; mov [rdi], rax; mov rax, 0x200083; mov [rdi+8], rax
    mov rdi, {LOW_TABLES + 2 * PAGE}; mov rax, {APART[0] | 3}; mov [rdi], rax; mov rax, {BASE | LARGE | 3}
    mov [rdi+8], rax
    mov rdi, WINDOW; mov rax, {BASE + 8 * PAGE | 3}; mov [rdi], rax; mov rax, {BASE + 3 * PAGE | 3}; mov [rdi+8], rax
    mov rax, {SCRATCH | 3}; mov [rdi+16], rax
"""
_PROTECTED = f"""
    mov eax, cr0; and eax, 0x7fffffff; mov cr0, eax; mov ecx, 0xc0000080; rdmsr; and eax, 0xfffffeff; wrmsr
    mov eax, {LOW_TABLES}; mov cr3, eax; mov eax, cr0; or eax, 0x80000000; mov cr0, eax; jmp 1f; 1:
"""
# Selectors: 8 code, 16 data, 24 compatibility code, 32 data whose base is -4096, 40 TSS, 64 and 72 the user's
# data and code, 80 a call gate to BEHIND.
_GDT = f"""
    mov rsp, STACK; mov rdi, {GDT}; mov word ptr [rsp-16], 0xff; mov [rsp-14], rdi
    mov rbx, 0x00af9b000000ffff; mov [rdi+8], rbx; mov rbx, 0x00cf93000000ffff; mov [rdi+16], rbx
    mov rbx, 0x00cf9b000000ffff; mov [rdi+24], rbx; mov rbx, 0xffcf93fff000ffff; mov [rdi+32], rbx
    mov rbx, {0x0000890000000067 | TSS << 16 & 0xFFFFFF0000}; mov [rdi+40], rbx; mov qword ptr [rdi+48], 0
    mov rbx, 0x00cff3000000ffff; mov [rdi+64], rbx; mov rbx, 0x00affb000000ffff; mov [rdi+72], rbx
    mov rbx, {BEHIND >> 16 << 48 | 0xEC000008 << 16 | BEHIND & 0xFFFF}; mov [rdi+80], rbx; mov qword ptr [rdi+88], 0
    lgdt [rsp-16]; mov eax, 16; mov ss, ax; mov ds, ax; mov es, ax
"""
_IDT = f"""
    mov rdi, {IDT}; mov ecx, 32
    9: mov word ptr [rdi], {BEHIND & 0xFFFF}; mov word ptr [rdi+2], 8; mov word ptr [rdi+4], 0xee00
    mov word ptr [rdi+6], {BEHIND >> 16}; mov qword ptr [rdi+8], 0; add rdi, 16; loop 9b
    mov rdi, POINTER; mov word ptr [rdi], 0xfff; mov rax, {IDT}; mov [rdi+2], rax; lidt [rdi]
"""
# Its inner stack ends behind BORDER.
_TSS = f"mov rdi, {TSS}; mov rax, {BORDER + 20}; mov [rdi+4], rax; mov [rdi+0x24], rax; mov eax, 40; ltr ax\n"
_TO_USER = "push 67; push STACK - 256; pushfq; push 75; lea rax, [rip+8f]; push rax; iretq; 8:\n"
# The last page below 4 GiB and the first one are those around BORDER.
_AROUND_4_GIB = f"""
    mov rdi, {TABLES + PAGE + 24}; mov rax, {LOW_TABLES | 3}; mov [rdi], rax
    mov rdi, {LOW_TABLES + 511 * 8}; mov rax, {LOW_TABLES + PAGE | 3}; mov [rdi], rax
    mov rdi, {LOW_TABLES + PAGE + 511 * 8}; mov rax, {APART[0] | 3}; mov [rdi], rax
    mov rdi, {LOW_TABLES + 2 * PAGE}; mov rax, 3; mov ecx, 512
    7: mov [rdi], rax; add rdi, 8; add rax, 4096; loop 7b
    mov rdi, {LOW_TABLES + 2 * PAGE}; mov rax, {APART[1] | 3}; mov [rdi], rax
    mov rdi, {TABLES + 2 * PAGE}; mov rax, {LOW_TABLES + 2 * PAGE | 3}; mov [rdi], rax; mov rax, cr3; mov cr3, rax
"""
_TO_COMPATIBILITY = "push 24; lea rax, [rip+8f]; push rax; retfq; 8: .code32\n"
# WINDOW's fourth page is mapped anew, from the first number to the second, and stored to by another privilege than
# before (with CR4.SMAP, EFLAGS.AC makes one), then by the one before.
_MAPPED_ANEW = """
    mov rax, cr4; or eax, 0x200000; mov cr4, rax; mov rsi, TABLES + 0x4000 + 24
    mov rdi, WINDOW + 0x3000; mov rax, {} | 3; mov [rsi], rax; stac; mov byte ptr [rdi], 1
    mov rax, {} | 3; mov [rsi], rax; clac; mov byte ptr [rdi+8], 2; stac; mov byte ptr [rdi+16], 3
"""


class Guest(NamedTuple):
    """What is executed, what at BEHIND; the rights of pages; whether bytes on both sides of BORDER are stored to."""

    text: str
    behind: str = ""
    rights: int = PRESENT
    crosses: bool = True


GUESTS = {
    "exceptions and IRET": Guest(
        _IDT + "mov rsp, BORDER + 16; int3; int 5; mov rax, [0x70000000]; push rax",
        "cmp qword ptr [rsp], 0x1000; ja 1f; add rsp, 8; add qword ptr [rsp], 8; 1: iretq",
    ),
    "a store that faults behind its first page": Guest(
        _IDT
        + """mov rdi, WINDOW + 0x3000 - 3; mov [rdi-9], al; mov rax, -1; mov [rdi], rax; movups [rdi], xmm0
        fldpi; fstp tbyte ptr [rdi]; mov rdi, BORDER; mov [rdi], al; mov [rdi-1], al""",
        """mov rax, [rsp+8]; mov rbx, 3; cmp byte ptr [rax], 0xdb; jne 1f; mov rbx, 2
        1: add [rsp+8], rbx; add rsp, 8; iretq""",
    ),
    "an inner stack of a task": Guest(
        _IDT + _GDT + _TSS + _TO_USER + "int 5; int3; ud2",
        "mov rax, [rsp]; cmp word ptr [rax], 0x0b0f; je 1f; iretq; 1: hlt",
        rights=USER,
    ),
    "a call gate": Guest(
        _IDT + _GDT + _TSS + _TO_USER
        + "mov rdi, POINTER; mov dword ptr [rdi], 0; mov word ptr [rdi+4], 80 + 3; call fword ptr [rdi]",
        "hlt",
        rights=USER,
    ),
    "descriptors are marked as accessed and busy": Guest(
        _GDT
        + """mov rsi, rdi; mov rdi, BORDER - 12; mov [rsp-14], rdi; mov ecx, 32; rep movsq; lgdt [rsp-16]
        mov rdi, BORDER - 12; and byte ptr [rdi+21], 0xfe; and byte ptr [rdi+13], 0xfe; mov eax, 16; mov ds, ax
        mov eax, 40; ltr ax; push 8; lea rax, [rip+1f]; push rax; retfq; 1:""",
    ),
    "from RAM into the NVDIMM": Guest(_MAPPED_ANEW.format(SCRATCH, APART[0]), crosses=False),
    "from the NVDIMM into RAM": Guest(_MAPPED_ANEW.format(APART[0], SCRATCH), crosses=False),
    "from page to page of the NVDIMM": Guest(_MAPPED_ANEW.format(APART[0], APART[1]), crosses=False),
    "code that changes itself, on two pages": Guest(
        """mov rdi, BORDER - 12; lea rsi, [rip+1f]; mov ecx, 50; rep movsb; mov rdi, BORDER - 12; jmp rdi
        1: lea rbx, [rip+2f+1]; mov dword ptr [rbx], 7; 2: mov eax, 3; mov rbx, WINDOW + 100; mov [rbx], eax; hlt"""
    ),
    "around 4 GiB": Guest(
        _GDT + _AROUND_4_GIB + _TO_COMPATIBILITY
        + """mov edi, -2; mov dword ptr [edi], 0x11223344; xadd [edi], eax; fldpi; fstp tbyte ptr [edi]
        movups [edi], xmm0; mov esp, 2; push eax; mov esp, 16; pusha; mov esp, 6; pushaw
        mov eax, 32; mov fs, ax; mov dword ptr fs:[0xffe], eax; mov edi, 4; std; mov ecx, 5; rep stosd; cld
        mov esp, 8; mov ebp, 9; enter 8, 3; mov esp, 2; call 1f; 1: hlt"""
    ),
    "page tables": Guest(
        f"""mov rdi, WINDOW; mov rsi, TABLES; mov ecx, 512; rep movsq
        mov rdi, BORDER; mov rsi, TABLES + 0x4000; mov ecx, 512; rep movsq
        mov rdi, TABLES + 0x3000; mov rax, {APART[1] | 3}; mov [rdi], rax; mov rax, {APART[0]}; mov cr3, rax
        mov rdi, BORDER - 3; mov [rdi], rax; movups [rdi], xmm0; mov rax, cr3; mov cr3, rax
        mov rdi, WINDOW + 0x2000; mov al, [rdi]; mov [rdi], al"""
    ),
    "a page table that shows itself": Guest(
        f"""mov rdi, WINDOW; mov rsi, TABLES + 0x4000; mov ecx, 512; rep movsq
        mov rdi, WINDOW; mov rax, {APART[0] | 3}; mov [rdi+8], rax; mov rdi, TABLES + 0x3000; mov [rdi], rax
        mov rax, cr3; mov cr3, rax; mov rdi, BORDER; mov al, [rdi]; mov qword ptr [rdi+24], {SCRATCH | 3}
        mov rsi, WINDOW + 0x3000; mov [rsi], al; add qword ptr [rdi+24], 0x1000; invlpg [rsi]; mov [rsi], al
        lock bts qword ptr [rdi+24], 60; movups [rdi+0xff4], xmm0""",
        crosses=False,
    ),
    "page tables of 32 bits": Guest(
        _GDT + _PAE + _TO_COMPATIBILITY + _PROTECTED
        + """mov edi, 0x40000ffd; mov [edi], eax; mov esp, edi; push eax
        mov eax, [0x40200000]; mov [0x40202000], al; hlt""",
        crosses=False,
    ),
    "a switch of tasks": Guest(
        _GDT + _PAE + _TO_COMPATIBILITY + _PROTECTED
        + f"""mov edi, {GDT}; mov dword ptr [edi+40], 0x0fd00067; mov dword ptr [edi+44], 0x40008900
        mov dword ptr [edi+48], 0x1fd00067; mov dword ptr [edi+52], 0x40008900
        mov edi, 0x40001fd0; mov dword ptr [edi+0x1c], {LOW_TABLES}; mov dword ptr [edi+0x20], offset 2f
        mov dword ptr [edi+0x24], 2; mov dword ptr [edi+0x38], STACK; mov dword ptr [edi+0x48], 16
        mov dword ptr [edi+0x4c], 24; mov dword ptr [edi+0x50], 16; mov dword ptr [edi+0x54], 16
        mov eax, 40; ltr ax; .byte 0xea; .long 0; .word 48; 2: mov byte ptr [0x40000000], 5; hlt""",
        crosses=False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GUESTS)
def test_the_log_explains_what_odd_guests_leave(tmp_path: Path, name: str) -> None:
    guest = GUESTS[name]
    touched = stored(tmp_path, guest.text, APART, behind=guest.behind, rights=guest.rights)
    assert touched
    assert not guest.crosses or {APART[0] + PAGE - 1, APART[1]} <= touched
