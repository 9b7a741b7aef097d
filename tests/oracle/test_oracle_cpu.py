"""The guest's CPU against the host's: random instructions with random operands, and every exception.

What is compared and what the architecture leaves open is said in ``cpu_judge``; the instructions are in ``cpu_forms``.
A failure names the instruction, what differs and the seed that repeats it.
"""

from __future__ import annotations

import platform
import random
import re
import struct
from pathlib import Path

import pytest

from tests.oracle import cpu_forms
from tests.oracle.cpu_cases import AC, Question, States, draft
from tests.oracle.cpu_deviations import LISTED, case, fx, is_listed
from tests.oracle.cpu_judge import differences
from tests.oracle.cpu_machine import (
    ARENA,
    MOST_CASES,
    Case,
    Result,
    assemble,
    build_native,
    run_emu,
    run_native,
    run_qemu,
)

SEEDS = 13
"""Batches of 8192 cases: more than 100,000 in all."""
DOCS = Path(__file__).parents[2] / "docs" / "reference" / "cpu.md"

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the host's CPU is not an x86-64 one")

# Names of /proc/cpuinfo: CPUID leaf, number of the register in encodings (EAX, ECX, EDX, EBX), bit.
_FEATURES = {
    "mmx": (1, 2, 23), "sse": (1, 2, 25), "sse2": (1, 2, 26), "pni": (1, 1, 0), "ssse3": (1, 1, 9),
    "sse4_1": (1, 1, 19), "sse4_2": (1, 1, 20), "popcnt": (1, 1, 23), "cx16": (1, 1, 13), "movbe": (1, 1, 22),
    "aes": (1, 1, 25), "pclmulqdq": (1, 1, 1), "bmi1": (7, 3, 3), "bmi2": (7, 3, 8), "adx": (7, 3, 19),
    "sha_ni": (7, 3, 29),
    "abm": (0x80000001, 1, 5),
}  # fmt: skip


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_native(tmp_path_factory.mktemp("native"))


def _both(native: Path, cases: list[Case], folder: Path) -> list[tuple[Result, Result]]:
    image = assemble(cases, folder)
    return list(zip(run_native(native, cases, image, folder), run_emu(cases, image), strict=True))


@pytest.fixture(scope="module")
def features(native: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[set[str], set[str]]:
    """What the host has, and what the guest is offered."""
    cases = [case("cpuid", rax=leaf) for leaf, _, _ in _FEATURES.values()]
    answers = _both(native, cases, tmp_path_factory.mktemp("features"))
    host, guest = set(), set()
    for (name, (_, register, bit)), (of_host, of_guest) in zip(_FEATURES.items(), answers, strict=True):
        host |= {name} if of_host.general[register] >> bit & 1 else set()
        guest |= {name} if of_guest.general[register] >> bit & 1 else set()
    return host, guest


def _report(seed: int, number: int, question: Question, what: list[str]) -> str:
    text = question.case.text.replace("\n", "; ")
    return f"seed {seed} case {number} ({question.case.mode} bit) {text}: {', '.join(what)}"


@pytest.mark.parametrize("seed", range(SEEDS))
def test_random_instructions_do_what_the_host_cpu_does(
    seed: int, native: Path, features: tuple[set[str], set[str]], tmp_path: Path
) -> None:
    host_has, guest_has = features
    forms = [form for form in cpu_forms.ALL if not form.feature or form.feature in host_has & guest_has]
    rng = random.Random(seed)
    states = States(rng, 300)
    weights = [form.weight for form in forms]
    questions = [draft(rng, form, states) for form in rng.choices(forms, weights, k=MOST_CASES)]
    answers = _both(native, [question.case for question in questions], tmp_path)
    wrong = []
    for number, (question, (host, guest)) in enumerate(zip(questions, answers, strict=True)):
        what = differences(question, host, guest)
        if what and not is_listed(question, host, guest, what):
            wrong.append(_report(seed, number, question, what))
    assert not wrong, f"{len(wrong)} of {len(questions)} differ:\n" + "\n".join(wrong[:20])


@pytest.mark.parametrize("name", _FEATURES)
def test_what_the_guest_is_offered_can_be_examined(name: str, features: tuple[set[str], set[str]]) -> None:
    host_has, guest_has = features
    if name in guest_has - host_has:
        pytest.skip(f"the host's CPU has no {name}, so the guest's is not examined here")
    assert [form for form in cpu_forms.ALL if form.feature == name]


# Exceptions: (what, case). Vector, error code, place and registers must be those of the host and of QEMU.
_SNAN = bytes.fromhex("0100807f")
_RESERVED_MXCSR = fx(mxcsr=0x11F80)[:256]
_XRSTOR = "mov [rdi+512], rcx\nxrstor [rdi]"  # XSTATE_BV in RCX, what is asked for in RAX
_EXCEPTIONS = {
    "divide by zero": case("div ecx", rax=1),
    "quotient too large": case("div cl", rax=0x1000, rcx=1),
    "idiv of the most negative": case("idiv rcx", rax=1 << 63, rdx=(1 << 64) - 1, rcx=(1 << 64) - 1),
    "aam 0": case("aam 0", mode=32, rax=5),
    "ud2": case("ud2"),
    "int3": case("int3"),
    "into": case("into", mode=32, flags=0x802),
    "bound": case("bound eax, qword ptr [edi]", mode=32, rax=5),
    "privileged": case("hlt"),
    "privileged move": case("mov cr0, rax"),
    "int to a gate that is not for us": case("int 0x20"),
    "lock of a register": case(".byte 0xf0, 0x01, 0xc0"),
    "not canonical": case("mov rax, [rcx]", rcx=1 << 62),
    "page not there, read": case("mov rax, [rcx]", rcx=0x1000),
    "page not there, write": case("mov [rcx], rax", rcx=0x1000),
    "null selector": case("mov ss, eax"),
    "selector beyond the table": case("mov ds, eax", rax=0xFF0B),
    "cmpxchg16b misaligned": case("cmpxchg16b [rdi+8]"),
    "fxsave misaligned": case("fxsave [rdi+8]"),
    "movaps load": case("movaps xmm0, [rdi+4]"),
    "movaps store": case("movaps [rdi+4], xmm0"),
    "movdqa": case("movdqa xmm9, [rdi+8]"),
    "movntdq": case("movntdq [rdi+4], xmm0"),
    "movntdqa": case("movntdqa xmm0, [rdi+1]"),
    "paddb": case("paddb xmm0, [rdi+4]"),
    "addps": case("addps xmm0, [rdi+15]"),
    "pshufb": case("pshufb xmm0, [rdi+2]"),
    "aesenc": case("aesenc xmm0, [rdi+2]"),
    "movups is not concerned": case("movups xmm0, [rdi+4]"),
    "pcmpistri is not concerned": case("pcmpistri xmm0, [rdi+3], 0"),
    "addsd is not concerned": case("addsd xmm0, [rdi+3]"),
    "ldmxcsr reserved": case("ldmxcsr [rdi]", memory=b"\0\0\1\0"),
    "fxrstor reserved": case("fxrstor [rdi]", memory=_RESERVED_MXCSR),
    "fxrstor reserved, misaligned": case("fxrstor [rdi+8]", memory=_RESERVED_MXCSR),
    "fxrstor reserved, page not there": case("fxrstor [rcx]", rcx=0x1000),
    "fxrstor": case("fxrstor [rdi]", memory=fx(mxcsr=0x9F80)[:256]),
    "xrstor reserved": case(_XRSTOR, rax=2, rcx=2, memory=_RESERVED_MXCSR),
    "xrstor reserved, x87 too": case(_XRSTOR, rax=3, rcx=1, memory=_RESERVED_MXCSR),
    "xrstor reserved, not asked for": case(_XRSTOR, rax=1, rcx=3, memory=_RESERVED_MXCSR),
    "xrstor reserved, page not there": case("xrstor [rcx]", rax=2, rcx=0x1000),
    "xrstor": case(_XRSTOR, rax=2, rcx=2, memory=fx(mxcsr=0x9F80)[:256]),
    "invalid, not masked": case("addss xmm0, [rdi]", image=fx(mxcsr=0x1F00), memory=_SNAN),
    "invalid conversion, not masked": case("cvtss2si eax, [rdi]", image=fx(mxcsr=0x1F00), memory=_SNAN),
    "x87 exception pending": case("fld1", image=fx(0x37E, 0x8081)),
    "x87 exception pending, fwait": case("fwait", image=fx(0x37B, 0x8084)),
    "x87 exception pending, MMX": case("paddb mm0, mm1", image=fx(0x37E, 0x8081)),
    "x87 exception pending, not waited for": case("fnclex", image=fx(0x37E, 0x8081)),
}  # fmt: skip
_QEMU_IS_WRONG = {
    "int to a gate that is not for us": "the error code counts 16 for a vector",
    "aesenc": "no #GP",
    "ldmxcsr reserved": "no #GP",
    "fxrstor reserved": "no #GP",
    "xrstor reserved": "no #GP",
    "xrstor reserved, x87 too": "no #GP",
    "invalid, not masked": "no #XM",
    "invalid conversion, not masked": "no #XM",
    "x87 exception pending": "#MF at FWAIT only",
    "x87 exception pending, MMX": "#MF at FWAIT only",
}
"""What QEMU 7.2 does instead; the host's CPU is the judge of these."""
_ALIGNMENT = {
    "word": case("mov ax, [rdi+1]", flags=2 | AC),
    "doubleword": case("mov [rdi+2], eax", flags=2 | AC),
    "quadword": case("add rax, [rdi+4]", flags=2 | AC),
    "movbe load": case("movbe eax, [rdi+1]", flags=2 | AC),
    "movbe store": case("movbe [rdi+1], rax", flags=2 | AC),
    "push": case("push rax", flags=2 | AC, rsp=ARENA + 129),
    "x87": case("fld qword ptr [rdi+4]", flags=2 | AC),
    "aligned": case("mov rax, [rdi+8]", flags=2 | AC),
    "byte": case("mov al, [rdi+1]", flags=2 | AC),
    "not asked for": case("mov rax, [rdi+1]"),
}
_FAR = 1 << 62
_STACK = {
    "base rbp": case("mov rax, [rbp]", rbp=_FAR),
    "base rsp": case("mov rax, [rsp + rcx]", rcx=_FAR),
    "base rbp, index too far": case("add [rbp + rcx*8], eax", rbp=ARENA, rcx=1 << 58),
    "index rbp": case("mov rax, [rcx + rbp]", rcx=_FAR),
    "base rbp of fs": case("mov rax, fs:[rbp]", rbp=_FAR),
    "base rbp of ds": case("mov rax, ds:[rbp]", rbp=_FAR),
    "string": case("lodsb", rsi=_FAR),
    "push": case("push rax", rsp=_FAR),
    "push of what is not there": case("push [rcx]", rcx=_FAR),
    "push of the stack": case("push [rbp]", rbp=_FAR),
    "push from nowhere to nowhere": case("push [rcx]", rcx=_FAR, rsp=_FAR),
    "push of a constant": case("push 5", rsp=_FAR),
    "push of a word": case("push ax", rsp=_FAR),
    "pushfq": case("pushfq", rsp=_FAR),
    "pop": case("pop rax", rsp=_FAR),
    "pop into nowhere": case("pop [rcx]", rcx=_FAR),
    "pop from nowhere into nowhere": case("pop [rcx]", rcx=_FAR, rsp=_FAR),
    "popfq": case("popfq", rsp=_FAR),
    "call": case("call rax", rax=ARENA, rsp=_FAR),
    "call through memory that is not there": case("call [rcx]", rcx=_FAR),
    "ret": case("ret", rsp=_FAR),
    "far ret": case("retfq", rsp=_FAR),
    "leave": case("leave", rbp=_FAR),
    "enter": case("enter 8, 0", rsp=_FAR),
    "iretq": case("iretq", rsp=_FAR),
    "x87": case("fld dword ptr [rbp]", rbp=_FAR),
    "sse, misaligned": case("movaps xmm0, [rbp + 8]", rbp=ARENA),
}
"""#SS or #GP: which addresses are the stack's (Intel SDM volume 3, section 6.15, interrupt 12)."""
_RF = 1 << 16


def _outcome(result: Result) -> tuple[object, ...]:
    return (
        result.vector,
        result.error,
        result.rip,
        result.general,
        result.memory,
        struct.unpack_from("<I", result.fx, 24),
    )


@pytest.mark.parametrize("cases", [_EXCEPTIONS, _ALIGNMENT, _STACK], ids=["exceptions", "alignment", "stack"])
def test_exceptions_are_those_of_the_host_cpu(cases: dict[str, Case], native: Path, tmp_path: Path) -> None:
    answers = _both(native, list(cases.values()), tmp_path)
    wrong = {
        what: (_outcome(host), _outcome(guest))
        for what, (host, guest) in zip(cases, answers, strict=True)
        if (_outcome(host), host.flags & _RF) != (_outcome(guest), guest.flags & _RF)
    }
    assert not wrong


def locked_encodings(mode: int) -> list[str]:
    """LOCK before every opcode of the first two maps, with an operand in memory and one in a register."""
    prefixes = {0x0F, 0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0, 0xF2, 0xF3}
    prefixes |= set(range(0x40, 0x50)) if mode == 64 else set()
    opcodes = [(byte,) for byte in range(256) if byte not in prefixes] + [(0x0F, byte) for byte in range(256)]
    constants = {(0x80,): 1, (0x81,): 4, (0x82,): 1, (0x83,): 1, (0x0F, 0xBA): 1}
    groups = {*constants, (0xF6,), (0xF7,), (0xFE,), (0xFF,), (0x0F, 0xC7)}
    return [
        ".byte " + ", ".join(map(hex, (0xF0, *opcode, operand | register << 3, *[1] * constants.get(opcode, 0))))
        for opcode in opcodes
        for register in (range(8) if opcode in groups else (1,))
        for operand in (0x07, 0xC1)  # [rdi]; ecx
    ]


@pytest.mark.parametrize("mode", [64, 32])
def test_lock_is_taken_where_the_host_cpu_takes_it(mode: int, native: Path, tmp_path: Path) -> None:
    cases = [case(text, mode=mode) for text in locked_encodings(mode)]
    answers = _both(native, cases, tmp_path)
    wrong = {
        question.text: (host.vector, guest.vector)
        for question, (host, guest) in zip(cases, answers, strict=True)
        if (host.vector, host.memory) != (guest.vector, guest.memory)
    }
    assert not wrong
    # 14 of ADD to XOR and 21 with a constant, 4 of NOT and NEG, 4 of INC and DEC, 2 of XCHG; 3 of BTS to BTC and 3 with
    # a constant, 4 of CMPXCHG and XADD, CMPXCHG8B; 7 that only 32-bit code has.
    assert sum(host.vector is None for host, _ in answers) == (56 if mode == 64 else 63)


def test_exceptions_are_those_of_qemu(tmp_path: Path) -> None:
    cases = list(_EXCEPTIONS.values())
    image = assemble(cases, tmp_path)
    answers = zip(run_emu(cases, image), run_qemu(cases, image, tmp_path), strict=True)
    differ = {
        what for what, (guest, qemu) in zip(_EXCEPTIONS, answers, strict=True) if _outcome(guest) != _outcome(qemu)
    }
    assert differ == set(_QEMU_IS_WRONG)


@pytest.mark.parametrize("name", LISTED)
def test_each_listed_deviation_is_there(name: str, native: Path, tmp_path: Path) -> None:
    """A deviation that was mended leaves the list."""
    entry = LISTED[name]
    ((host, guest),) = _both(native, [entry.case], tmp_path)
    assert entry.shown(host, guest)


def test_the_published_list_is_this_one() -> None:
    assert re.findall(r"^\| `([\w-]+)` \|", DOCS.read_text(), re.MULTILINE) == list(LISTED)
