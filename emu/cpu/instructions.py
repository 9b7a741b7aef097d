"""What each x86 instruction means for persistent memory, by the name that Capstone gives it.

What is in none of these sets is a plain load or store, or does not touch memory. Sources: Intel SDM volume 2, the
page of each instruction; volume 3, sections 9.2 (ordering) and 9.3 (serialising instructions). The table for readers is
in docs/explanation/persistence-model.md; a test compares it with these sets and with Capstone's list.
"""

from __future__ import annotations

LINE_FLUSHES = ("clflush", "clflushopt", "clwb")
"""Write one cache line back."""

WRITE_BACKS = ("wbinvd", "wbnoinvd")
"""Write all cache lines back, and are serialising."""

FENCES = ("sfence", "mfence")
"""Wait for flushes and for non-temporal stores."""

NON_TEMPORAL = frozenset(
    ("movnti", "movntq", "movntdq", "movntps", "movntpd", "maskmovq", "maskmovdqu")
)  # fmt: skip
"""Store past the caches."""

LOCKED = frozenset(("lock", "xacquire", "xrelease", "xchg"))
"""Prefixes that make an instruction locked, if it can be, and XCHG, which with a memory operand always is."""

DISCARDS = ("invd",)
"""Drop what the caches hold; neither the engine nor the model follows them there."""

HINTS = frozenset(
    ("cldemote", "prefetch", "prefetchnta", "prefetcht0", "prefetcht1", "prefetcht2", "prefetchw", "prefetchwt1",
     "pause", "movntdqa")
)  # fmt: skip
"""Say how the caches might be used, or load; nothing persists by them."""

UNORDERED = frozenset(
    ("lfence", "cpuid", "iret", "iretd", "iretq", "wrmsr", "lgdt", "lidt", "lldt", "ltr", "invlpg", "int", "int1",
     "int3", "into", "syscall", "sysret", "sysretq", "sysenter", "hlt", "wait", "in", "insb", "insw", "insd", "out",
     "outsb", "outsw", "outsd", "umonitor", "umwait", "tpause")
)  # fmt: skip
"""Serialise or order something on a real CPU, or are taken for something else by the engine; here they are given no
effect on persistence, so that a verdict never rests on more than flushes and fences promise. MOV to control and debug
registers is one of them.
"""

UNDEFINED = frozenset(
    ("movdiri", "movdir64b", "clzero", "xend", "monitor", "monitorx", "mwait", "mwaitx", "invept", "invvpid", "invpcid",
     "invlpga", "skinit", "clrssbsy", "wrssd", "wrssq", "wrussd", "wrussq", "encls", "enclu", "enclv", "rsm",
     "sysexit", "sysexitq", "ptwrite", "clgi", "stgi", "vmaskmovps", "vmaskmovpd", "vpmaskmovd", "vpmaskmovq",
     "pcommit", "serialize", "enqcmd", "enqcmds", "movntsd", "movntss", "vmovntdq", "vmovntps", "vmovntpd",
     "vmaskmovdqu", "vmovntdqa", "xbegin", "xabort")
)  # fmt: skip
"""Raise #UD, or #GP in the mode they are met in: the CPU model does not have them, and says so in CPUID."""


def group_15(code: bytes, bits: int) -> tuple[str, int] | None:
    """Name and length of the instruction at the start of ``code`` if it is 0F AE with a register operand, where
    Capstone knows only one encoding of each fence. The three low bits of its last byte are ignored (Intel SDM volume 2,
    SFENCE); one with a prefix that the fences do not allow has no name.
    """
    at, forbidden = 0, False
    while at < len(code) and code[at] in b"\x66\xf2\xf3\xf0\x2e\x36\x3e\x26\x64\x65\x67":
        forbidden = forbidden or code[at] in b"\x66\xf2\xf3\xf0"
        at += 1
    if bits == 64 and at < len(code) and code[at] & 0xF0 == 0x40:
        at += 1
    if code[at : at + 2] != b"\x0f\xae" or len(code) < at + 3 or code[at + 2] < 0xE8:
        return None
    name = ("lfence", "mfence", "sfence")[(code[at + 2] >> 3) - 0x1D]
    return "" if forbidden else name, at + 3
