"""The whole architectural state as named values: for boot states, for saving and for taking over a saved machine.

Whole means: all that a guest can change and see again. ``tests/unit/cpu/test_cpu_whole_state.py`` lets a guest change
everything and looks for a word of Unicorn's CPU state that does not come along.
"""

from __future__ import annotations

from collections.abc import Mapping

from emu.cpu import registers as r
from emu.cpu.features import XCR0_BITS
from emu.cpu.state import DESC_B, DESC_G, DESC_L, DESC_P, DESC_S, TYPE_CODE, CpuState, Segment, Table
from emu.entry import Entry, Protected32
from emu.errors import StateError
from emu.record import Record
from emu.state import Fields, Value
from emu.units import U64_MAX

MSRS = {
    "star": r.MSR_STAR, "lstar": r.MSR_LSTAR, "cstar": r.MSR_CSTAR, "fmask": r.MSR_FMASK,
    "kernel_gs_base": r.MSR_KERNEL_GS_BASE, "tsc_aux": r.MSR_TSC_AUX, "sysenter_cs": r.MSR_SYSENTER_CS,
    "sysenter_esp": r.MSR_SYSENTER_ESP, "sysenter_eip": r.MSR_SYSENTER_EIP, "pat": r.MSR_PAT,
    "misc_enable": r.MSR_MISC_ENABLE, "mtrr_default": r.MSR_MTRR_DEF_TYPE, "mcg_status": r.MSR_MCG_STATUS,
    "mcg_control": r.MSR_MCG_CTL, "bound_config": r.MSR_BNDCFGS, "host_save_area": r.MSR_VM_HSAVE_PA,
}  # fmt: skip
"""Saved by name; EFER is apart, FS and GS bases are in the segments."""
MSR_LISTS = {
    "mtrr_variable": r.MTRR_VARIABLE,
    "mtrr_fixed": r.MTRR_FIXED,
    "machine_check_banks": r.MACHINE_CHECK_BANKS,
}
"""Saved as lists, in this order."""

_DEBUG = (0, 1, 2, 3, 6, 7)
# Intel SDM volume 3, section 10.1.1 (table 10-1), and volume 4 for IA32_MISC_ENABLE (fast strings).
_MSRS_AT_RESET: Mapping[str, int] = {
    **dict.fromkeys(MSRS, 0), "pat": 0x0007040600070406, "misc_enable": 1, "mcg_control": U64_MAX
}  # fmt: skip
_LISTS_AT_RESET: Mapping[str, tuple[int, ...]] = {
    "mtrr_variable": (0,) * len(r.MTRR_VARIABLE),
    "mtrr_fixed": (0,) * len(r.MTRR_FIXED),
    "machine_check_banks": (U64_MAX, 0, 0, 0) * (len(r.MACHINE_CHECK_BANKS) // 4),
}
_CODE_FLAGS = DESC_S | DESC_P | DESC_G | TYPE_CODE | 0x300
_DATA_FLAGS = DESC_S | DESC_P | DESC_G | DESC_B | 0x300
_FLAT = 0xFFFFFFFF


_NONE, _EMPTY = Segment(0), Table(0, 0)


class Architectural(Record, kw_only=True):
    """One CPU's registers. The defaults are all zero, protected mode, FPU as after FNINIT."""

    general: tuple[int, ...] = (0,) * 16
    rip: int = 0
    rflags: int = 2
    segments: tuple[Segment, ...] = ()
    ldtr: Segment = _NONE
    tr: Segment = _NONE
    gdtr: Table = _EMPTY
    idtr: Table = _EMPTY
    cr0: int = r.CR0_PE | r.CR0_ET
    cr2: int = 0
    cr3: int = 0
    cr4: int = 0
    efer: int = 0
    msrs: Mapping[str, int] = _MSRS_AT_RESET
    msr_lists: Mapping[str, tuple[int, ...]] = _LISTS_AT_RESET
    xcr0: int = 1
    pkru: int = 0
    task_priority: int = 0
    random: int = 0
    debug: tuple[int, ...] = (0, 0, 0, 0, 0xFFFF0FF0, 0x400)
    fpu_control: int = 0x37F
    fpu_status: int = 0
    fpu_tags: int = 0xFFFF
    fpu_pointers: tuple[int, ...] = (0,) * 5
    fpu: bytes = bytes(80)
    xmm: bytes = bytes(256)
    mxcsr: int = 0x1F80
    shadow: bool = False

    @classmethod
    def at_entry(cls, entry: Entry) -> Architectural:
        """The boot state ``entry`` describes."""
        if isinstance(entry, Protected32):
            general = (entry.eax, 0, 0, entry.ebx) + (0,) * 12
            data = Segment(0x10, 0, _FLAT, _DATA_FLAGS)
            return cls(
                general=general,
                rip=entry.eip,
                segments=(data, Segment(8, 0, _FLAT, _CODE_FLAGS | DESC_B), data, data, data, data),
                tr=Segment(0, 0, 0x67, DESC_P | 0xB00),
            )
        general = (0, 0, 0, 0, entry.rsp, 0, entry.rsi, entry.rdi) + (0,) * 8
        data = Segment(entry.code + 8, 0, _FLAT, _DATA_FLAGS)
        return cls(
            general=general,
            rip=entry.rip,
            segments=(data, Segment(entry.code, 0, _FLAT, _CODE_FLAGS | DESC_L), data, data, data, data),
            tr=Segment(0, 0, 0x67, DESC_P | 0xB00),
            gdtr=Table(entry.gdt[0], max(entry.gdt[1] - 1, 0)),
            cr0=r.CR0_PG | r.CR0_WP | r.CR0_NE | r.CR0_ET | r.CR0_MP | r.CR0_PE,
            cr3=entry.cr3,
            cr4=r.CR4_PAE | r.CR4_OSFXSR | r.CR4_OSXMMEXCPT,
            efer=r.EFER_LME | r.EFER_LMA | r.EFER_NXE,
        )

    @classmethod
    def capture(cls, state: CpuState) -> Architectural:
        """What the stopped CPU holds now."""
        read = state.engine.read
        return cls(
            general=tuple(state.general(n) for n in range(16)),
            rip=state.rip,
            rflags=state.flags,
            segments=tuple(state.segment(n) for n in range(6)),
            ldtr=state.system_segment(r.LDTR),
            tr=state.system_segment(r.TR),
            gdtr=state.table(r.GDTR),
            idtr=state.table(r.IDTR),
            cr0=read(r.CR0),
            cr2=read(r.CR2),
            cr3=read(r.CR3),
            cr4=read(r.CR4),
            efer=state.msr(r.MSR_EFER),
            msrs={name: state.msr(number) for name, number in MSRS.items()},
            msr_lists={name: tuple(state.msr(number) for number in numbers) for name, numbers in MSR_LISTS.items()},
            xcr0=state.xcr0,
            pkru=state.pkru,
            task_priority=state.task_priority,
            random=state.system.random,
            debug=tuple(read(r.DR0 + n) for n in _DEBUG),
            fpu_control=read(r.FPCW),
            fpu_status=read(r.FPSW),
            fpu_tags=read(r.FPTAG),
            fpu_pointers=tuple(read(register) for register in r.FPU_POINTERS),
            fpu=b"".join(state.engine.read_bytes(r.FP0 + n, 10) for n in range(8)),
            xmm=b"".join(state.engine.read_bytes(r.XMM0 + n, 16) for n in range(16)),
            mxcsr=read(r.MXCSR),
            shadow=state.shadow,
        )

    def apply(self, state: CpuState) -> None:
        """Make the stopped CPU hold this, whatever mode it was in."""
        engine = state.engine
        # Turning paging on and off again is the way out of IA-32e mode, in which the engine starts. On the way in,
        # EFER and CR4 get their values last: the engine lets guests change them afterwards to what could not get in.
        engine.write(r.CR4, r.CR4_PAE)
        engine.write(r.CR0, r.CR0_PG | r.CR0_PE)
        engine.write(r.CR0, r.CR0_PE)
        state.set_msr(r.MSR_EFER, r.EFER_LME if self.efer & r.EFER_LMA else 0)
        engine.write(r.CR3, self.cr3)
        engine.write(r.CR2, self.cr2)
        engine.write(r.CR0, self.cr0)
        engine.write(r.CR4, self.cr4)
        state.set_msr(r.MSR_EFER, self.efer & ~r.EFER_LMA)
        for name, number in MSRS.items():
            state.set_msr(number, self.msrs[name])
        for name, numbers in MSR_LISTS.items():
            for number, value in zip(numbers, self.msr_lists[name], strict=True):
                state.set_msr(number, value)
        state.xcr0 = self.xcr0
        state.pkru = self.pkru
        state.task_priority = self.task_priority
        state.system.random = self.random
        state.system.breakpoints_off()
        for n, value in zip(_DEBUG, self.debug, strict=True):
            engine.write(r.DR0 + n, value)
        state.system.breakpoints_on()
        state.set_table(r.GDTR, self.gdtr)
        state.set_table(r.IDTR, self.idtr)
        state.set_system_segment(r.LDTR, self.ldtr)
        state.set_system_segment(r.TR, self.tr)
        state.flags = self.rflags
        for n, segment in enumerate(self.segments):
            state.set_segment(n, segment)
        state.refresh()
        state.shadow = self.shadow
        for n, value in enumerate(self.general):
            state.set_general(n, value)
        state.rip = self.rip
        engine.write(r.FPCW, self.fpu_control)
        engine.write(r.FPSW, self.fpu_status)
        engine.write(r.FPTAG, self.fpu_tags)
        for register, value in zip(r.FPU_POINTERS, self.fpu_pointers, strict=True):
            engine.write(register, value)
        for n in range(8):
            engine.write_bytes(r.FP0 + n, self.fpu[10 * n : 10 * n + 10])
        for n in range(16):
            engine.write_bytes(r.XMM0 + n, self.xmm[16 * n : 16 * n + 16])
        engine.write(r.MXCSR, self.mxcsr)
        state.clear_latch()

    # The saved form

    def fields(self) -> dict[str, Value]:
        system = (*self.segments, self.ldtr, self.tr)
        return {
            "general": list(self.general),
            "rip": self.rip,
            "rflags": self.rflags,
            "selectors": [item.selector for item in system],
            "bases": [item.base for item in system],
            "limits": [item.limit for item in system],
            "segment_flags": [item.flags for item in system],
            "tables": [self.gdtr.base, self.gdtr.limit, self.idtr.base, self.idtr.limit],
            "control": [self.cr0, self.cr2, self.cr3, self.cr4, self.efer],
            **{name: self.msrs[name] for name in MSRS},
            **{name: list(self.msr_lists[name]) for name in MSR_LISTS},
            "xcr0": self.xcr0,
            "pkru": self.pkru,
            "task_priority": self.task_priority,
            "random": self.random,
            "debug": list(self.debug),
            "fpu_words": [self.fpu_control, self.fpu_status, self.fpu_tags],
            "fpu_pointers": list(self.fpu_pointers),
            "fpu": self.fpu,
            "xmm": self.xmm,
            "mxcsr": self.mxcsr,
            "shadow": self.shadow,
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> Architectural:
        """Takes its fields out of ``fields``; StateError for what this CPU cannot hold.

        Unicorn lets guests set reserved bits, so they are let through here: a guest can do the same.
        """
        general = fields.integers("general", 16)
        rip = fields.integer("rip")
        rflags = fields.integer("rflags", high=r.RFLAGS_BITS)
        columns = zip(
            fields.integers("selectors", 8, high=0xFFFF),
            fields.integers("bases", 8),
            fields.integers("limits", 8, high=0xFFFFFFFF),
            fields.integers("segment_flags", 8, high=0xFFFFFFFF),
            strict=True,
        )
        system = [Segment(*column) for column in columns]
        gdt_base, gdt_limit, idt_base, idt_limit = fields.integers("tables", 4)
        cr0, cr2, cr3, cr4, efer = fields.integers("control", 5)
        saved = cls(
            general=general,
            rip=rip,
            rflags=rflags,
            segments=tuple(system[:6]),
            ldtr=system[6],
            tr=system[7],
            gdtr=Table(gdt_base, gdt_limit),
            idtr=Table(idt_base, idt_limit),
            cr0=cr0,
            cr2=cr2,
            cr3=cr3,
            cr4=cr4,
            efer=efer,
            msrs={name: fields.integer(name) for name in MSRS},
            msr_lists={name: fields.integers(name, len(numbers)) for name, numbers in MSR_LISTS.items()},
            xcr0=fields.integer("xcr0"),
            pkru=fields.integer("pkru", high=0xFFFFFFFF),
            task_priority=fields.integer("task_priority", high=15),
            random=fields.integer("random"),
            debug=fields.integers("debug", len(_DEBUG)),
            **dict(
                zip(
                    ("fpu_control", "fpu_status", "fpu_tags"), fields.integers("fpu_words", 3, high=0xFFFF), strict=True
                )
            ),
            fpu_pointers=fields.integers("fpu_pointers", len(r.FPU_POINTERS)),
            fpu=fields.octets("fpu", exactly=80),
            xmm=fields.octets("xmm", exactly=256),
            mxcsr=fields.integer("mxcsr", high=0xFFFFFFFF),
            shadow=fields.boolean("shadow"),
        )
        saved._check()
        return saved

    def _check(self) -> None:
        def require(good: bool, what: str) -> None:
            if not good:
                raise StateError(f"saved state of 'cpu': {what}", "save the machine again")

        long = bool(self.efer & r.EFER_LMA)
        require(max(self.cr0, self.cr4, self.efer) < 1 << 32, "a control register has more than 32 bits")
        require(not long or bool(self.cr0 & r.CR0_PG), "long mode without paging")
        require(self.xcr0 & 1 == 1 and not self.xcr0 & ~XCR0_BITS, "XCR0 names state that this processor has not")
        require(max(self.fpu_pointers[1], *self.fpu_pointers[3:]) <= 0xFFFF, "an x87 selector or opcode is too long")
        require(max(self.gdtr.limit, self.idtr.limit) <= 0xFFFF, "a descriptor table is too long")
