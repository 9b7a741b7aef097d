"""What CPUID offers: one table, from which the CPU, its documentation and its tests are made.

The processor is Intel's "Icelake-Server" as far as Unicorn executes it. A bit is offered when a guest that uses the
feature finds it working, and only then; bits that Unicorn names although the machine has no such thing (a local APIC)
are hidden. The decoder looks at the same words, so an instruction that is hidden here raises #UD. (Intel SDM volume 2,
CPUID.)
"""

from __future__ import annotations

from emu.record import NamedTuple


class Feature(NamedTuple):
    """One bit of CPUID. ``leaf`` and ``subleaf`` are what EAX and ECX ask; ``note`` is why, or what of it there is."""

    name: str
    leaf: int
    subleaf: int
    register: str
    bit: int
    offered: bool
    note: str = ""


def _bits(
    leaf: int, subleaf: int, register: str, offered: str, hidden: dict[str, str], notes: dict[str, str]
) -> tuple[Feature, ...]:
    """Features from words ``name:bit``; those of ``hidden`` with the reason."""
    rows = []
    for word in offered.split():
        name, bit = word.split(":")
        rows.append(Feature(name, leaf, subleaf, register, int(bit), True, notes.get(name, "")))
    for word, why in hidden.items():
        name, bit = word.split(":")
        rows.append(Feature(name, leaf, subleaf, register, int(bit), False, why))
    return tuple(rows)


_NO_AVX = "registers wider than 128 bits are not emulated"
_NO_APIC = "there is no local APIC: interrupts come from the two 8259"
_NOT_EXECUTED = "the instructions are not executed"

FEATURES: tuple[Feature, ...] = (
    *_bits(
        1, 0, "edx",
        "FPU:0 DE:2 PSE:3 TSC:4 MSR:5 PAE:6 MCE:7 CX8:8 SEP:11 MTRR:12 PGE:13 MCA:14 CMOV:15 PAT:16 PSE-36:17 "
        "CLFSH:19 MMX:23 FXSR:24 SSE:25 SSE2:26",
        {
            "VME:1": "virtual-8086 mode has no interrupt redirection",
            "APIC:9": _NO_APIC,
            "HTT:28": "one logical processor",
        },
        {
            "TSC": "counts the nanoseconds of virtual time",
            "MCE": "no machine check ever happens",
            "MCA": "ten banks, which never report anything",
            "MTRR": "registers only: memory has one type",
            "PAT": "register only: memory has one type",
        },
    ),
    *_bits(
        1, 0, "ecx",
        "SSE3:0 PCLMULQDQ:1 SSSE3:9 CMPXCHG16B:13 SSE4.1:19 SSE4.2:20 MOVBE:22 POPCNT:23 AES:25 XSAVE:26 RDRAND:30 "
        "HYPERVISOR:31",
        {
            "MONITOR:3": "one processor has nobody to wait for; MONITOR and MWAIT raise #UD",
            "VMX:5": _NOT_EXECUTED,
            "FMA:12": _NO_AVX,
            "PCID:17": "address spaces are not tagged",
            "x2APIC:21": _NO_APIC,
            "TSC-DEADLINE:24": _NO_APIC,
            "AVX:28": f"{_NO_AVX}; VEX-encoded SSE raises #UD",
            "F16C:29": _NO_AVX,
        },
        {
            "RDRAND": "a seeded generator: the same numbers in every run",
            "HYPERVISOR": "as under QEMU, but leaf 40000000h is empty",
        },
    ),
    *_bits(6, 0, "eax", "", {"ARAT:2": _NO_APIC}, {}),
    *_bits(
        7, 0, "ebx",
        "FSGSBASE:0 BMI1:3 SMEP:7 BMI2:8 RDSEED:18 ADX:19 SMAP:20 CLFLUSHOPT:23 CLWB:24",
        {
            "HLE:4": _NOT_EXECUTED, "AVX2:5": _NO_AVX,
            "ERMS:9": "REP MOVSB and REP STOSB take as long for a byte as for a quadword",
            "INVPCID:10": _NOT_EXECUTED, "RTM:11": _NOT_EXECUTED,
            "MPX:14": _NOT_EXECUTED, "AVX512F:16": _NO_AVX, "AVX512DQ:17": _NO_AVX, "AVX512CD:28": _NO_AVX,
            "SHA:29": _NOT_EXECUTED, "AVX512BW:30": _NO_AVX, "AVX512VL:31": _NO_AVX,
        },
        {"RDSEED": "the same generator as RDRAND"},
    ),
    *_bits(
        7, 0, "ecx",
        "PKU:3 LA57:16",
        {
            "UMIP:2": "SGDT, SIDT, SLDT, SMSW and STR are never refused", "AVX512_VBMI:1": _NO_AVX,
            "GFNI:8": _NOT_EXECUTED, "VAES:9": _NO_AVX, "VPCLMULQDQ:10": _NO_AVX, "RDPID:22": _NOT_EXECUTED,
        },
        {},
    ),
    *_bits(7, 0, "edx", "", {"SPEC_CTRL:26": "nothing speculates", "SSBD:31": "nothing speculates"}, {}),
    *_bits(
        0xD, 0, "eax",
        "x87-state:0 SSE-state:1 PKRU-state:9",
        {
            "AVX-state:2": _NO_AVX, "opmask-state:5": _NO_AVX, "ZMM_Hi256-state:6": _NO_AVX,
            "Hi16_ZMM-state:7": _NO_AVX,
        },
        {},
    ),
    *_bits(0xD, 1, "eax", "XSAVEOPT:0 XGETBV1:2", {"XSAVEC:1": _NOT_EXECUTED, "XSAVES:3": _NOT_EXECUTED}, {}),
    *_bits(0x80000001, 0, "edx", "SYSCALL:11 NX:20 PDPE1GB:26 RDTSCP:27 LM:29", {}, {}),
    *_bits(
        0x80000001, 0, "ecx",
        "LAHF:0 LZCNT:5",
        {"SVM:2": _NOT_EXECUTED, "SSE4A:6": "AMD's", "3DNOWPREFETCH:8": "PREFETCHW does nothing"},
        {},
    ),
    *_bits(0x80000008, 0, "ebx", "", {"WBNOINVD:9": "executed as WBINVD, as on processors without it"}, {}),
)  # fmt: skip
"""In the order of leaves. What stands in no row is not offered either."""

WORDS: dict[tuple[int, int, str], int] = {
    (1, 0, "edx"): 0, (1, 0, "ecx"): 1, (7, 0, "ebx"): 2, (7, 0, "ecx"): 3, (7, 0, "edx"): 4,
    (0x80000001, 0, "edx"): 6, (0x80000001, 0, "ecx"): 7, (0x80000008, 0, "ebx"): 9,
    (0xD, 1, "eax"): 19, (6, 0, "eax"): 20, (0xD, 0, "eax"): 21,
}  # fmt: skip
"""Numbers of the words in Unicorn's array of features."""


def offered(leaf: int, subleaf: int, register: str) -> int:
    """The value of a CPUID register that holds features, without the bits that follow CR4 (OSXSAVE, OSPKE)."""
    return sum(
        1 << f.bit for f in FEATURES if f.offered and (f.leaf, f.subleaf, f.register) == (leaf, subleaf, register)
    )


XCR0_BITS = offered(0xD, 0, "eax")
"""The state components that XSETBV takes."""

_CR4 = {
    "TSC": 1 << 2, "DE": 1 << 3, "PSE": 1 << 4, "PAE": 1 << 5, "MCE": 1 << 6, "PGE": 1 << 7, "FXSR": 3 << 9,
    "UMIP": 1 << 11, "LA57": 1 << 12, "VMX": 1 << 13, "FSGSBASE": 1 << 16, "PCID": 1 << 17, "XSAVE": 1 << 18,
    "SMEP": 1 << 20, "SMAP": 1 << 21, "PKU": 1 << 22,
}  # fmt: skip
_CR4_PCE = 1 << 8
CR4_BITS = _CR4_PCE | sum(_CR4.get(f.name, 0) for f in FEATURES if f.offered)
"""The bits of CR4 that a guest may set (Intel SDM volume 3, section 2.5): those of features that are offered."""
