"""Numbers of the architecture and of Unicorn's public interface that this room uses."""

from __future__ import annotations

# Unicorn's register numbers (unicorn/x86.h).
GENERAL = {
    "rax": 35, "rcx": 38, "rdx": 40, "rbx": 37, "rsp": 44, "rbp": 36, "rsi": 43, "rdi": 39,
    "r8": 106, "r9": 107, "r10": 108, "r11": 109, "r12": 110, "r13": 111, "r14": 112, "r15": 113,
}  # fmt: skip
"""In the order of their numbers in instruction encodings."""
RIP, RFLAGS = 41, 253
CR0, CR2, CR3, CR4 = 50, 52, 53, 54
DR0, DR6 = 66, 72
DR6_BS = 1 << 14
SEGMENTS = {"es": 28, "cs": 11, "ss": 49, "ds": 17, "fs": 32, "gs": 33}
"""In the order of their numbers in instruction encodings."""
FS_BASE, GS_BASE = 250, 251
IDTR, GDTR, LDTR, TR = 242, 243, 244, 245
MSR, MXCSR = 248, 249
FPSW, FPCW, FPTAG, FP0, XMM0 = 31, 246, 247, 82, 122
FPU_POINTERS = (254, 255, 256, 257, 258)
"""Of the last x87 instruction: FIP, FCS, FDP, FDS, FOP."""
ICELAKE_SERVER = 26

# Segment numbers.
ES, CS, SS, DS, FS, GS = range(6)

# Control registers (Intel SDM volume 3, section 2.5).
CR0_PE, CR0_MP, CR0_EM, CR0_TS, CR0_ET, CR0_NE, CR0_WP, CR0_PG = 1, 2, 4, 8, 0x10, 0x20, 0x10000, 1 << 31
CR4_PSE, CR4_PAE, CR4_OSFXSR, CR4_OSXMMEXCPT, CR4_LA57, CR4_SMAP = 0x10, 0x20, 0x200, 0x400, 0x1000, 0x200000
CR4_PKE = 0x400000

# Flags (Intel SDM volume 1, section 3.4.3).
CF, TF, IF, NT, RF, VM = 1, 0x100, 0x200, 0x4000, 0x10000, 0x20000
RFLAGS_BITS = 0x3FFFFF

# Model-specific registers (Intel SDM volume 4).
MSR_EFER, MSR_STAR, MSR_LSTAR, MSR_CSTAR, MSR_FMASK = 0xC0000080, 0xC0000081, 0xC0000082, 0xC0000083, 0xC0000084
MSR_FS_BASE, MSR_GS_BASE, MSR_KERNEL_GS_BASE, MSR_TSC_AUX = 0xC0000100, 0xC0000101, 0xC0000102, 0xC0000103
MSR_SYSENTER_CS, MSR_SYSENTER_ESP, MSR_SYSENTER_EIP, MSR_PAT = 0x174, 0x175, 0x176, 0x277
MSR_MISC_ENABLE, MSR_MTRR_DEF_TYPE, MSR_MCG_STATUS, MSR_MCG_CTL = 0x1A0, 0x2FF, 0x17A, 0x17B
MSR_BNDCFGS, MSR_VM_HSAVE_PA = 0xD90, 0xC0010117
MTRR_VARIABLE = tuple(range(0x200, 0x210))
MTRR_FIXED = (0x250, 0x258, 0x259, *range(0x268, 0x270))
MACHINE_CHECK_BANKS = tuple(range(0x400, 0x428))
EFER_SCE, EFER_LME, EFER_LMA, EFER_NXE = 1, 0x100, 0x400, 0x800

# Exception vectors (Intel SDM volume 3, table 6-1).
DE, DB, BP, OF, UD, DF, TS, NP, SS_FAULT, GP, PF = 0, 1, 3, 4, 6, 8, 10, 11, 12, 13, 14
FAULTS = frozenset((DE, 5, UD, 7, TS, NP, SS_FAULT, GP, PF, 16, 17, 19, 20, 21))
"""Without #DB, which is a fault only sometimes, and the abort #DF."""
CONTRIBUTORY = frozenset((DE, TS, NP, SS_FAULT, GP))
WITH_ERROR_CODE = frozenset((DF, TS, NP, SS_FAULT, GP, PF, 17, 21))
VECTOR_NAMES = {
    0: "#DE divide error", 1: "#DB debug", 2: "NMI", 3: "#BP breakpoint", 4: "#OF overflow", 5: "#BR bound range",
    6: "#UD invalid opcode", 7: "#NM device not available", 8: "#DF double fault", 10: "#TS invalid TSS",
    11: "#NP segment not present", 12: "#SS stack fault", 13: "#GP general protection", 14: "#PF page fault",
    16: "#MF x87 error", 17: "#AC alignment check", 18: "#MC machine check", 19: "#XM SIMD error",
}  # fmt: skip
