"""Names of the registers that the probe keeps canaries in. Numbers: images/probe/PROTOCOL.md, "Registers"."""

from __future__ import annotations

_GENERAL = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{n}" for n in range(8, 16)))
_MSRS = (
    "fs_base",
    "gs_base",
    "kernel_gs_base",
    "star",
    "lstar",
    "cstar",
    "sfmask",
    "sysenter_cs",
    "sysenter_esp",
    "sysenter_eip",
    "pat",
    "tsc_aux",
    "efer",
    "apic_base",
    "mtrr_def_type",
)
_X86_64: dict[int, str] = {
    **dict(enumerate(_GENERAL)),
    16: "rflags",
    **{32 + n: f"ymm{n}" for n in range(16)},
    **{48 + n: f"st{n}" for n in range(8)},
    **dict(enumerate(("mxcsr", "fcw", "fsw", "ftw"), 56)),
    **{64 + n: f"dr{n}" for n in range(4)},
    71: "dr7",
    **dict(enumerate(_MSRS, 80)),
    **dict(enumerate(("cr0", "cr2", "cr3", "cr4", "cr8", "xcr0"), 112)),
    **dict(enumerate(("gdtr", "idtr", "tr", "ldtr", "cs", "ss", "ds", "es", "fs", "gs"), 120)),
}

_ARM_SYSTEM = (
    *("tpidr_el0", "tpidrro_el0", "tpidr_el1", "contextidr_el1", "ttbr0_el1", "ttbr1_el1", "tcr_el1", "mair_el1"),
    *("sctlr_el1", "vbar_el1", "cpacr_el1", "esr_el1", "far_el1", "par_el1", "csselr_el1", "mdscr_el1"),
    *("cntkctl_el1", "cntp_cval_el0", "cntp_ctl_el0", "cntfrq_el0", "mpidr_el1"),
)
_ARM_DEBUG = ("dbgbvr0_el1", "dbgbvr1_el1", "dbgwvr0_el1", "dbgwvr1_el1", "dbgbcr0_el1", "dbgwcr0_el1")
_ARM_GIC = ("pmr", "bpr0", "bpr1", "ctlr", "igrpen0", "igrpen1", "sre")
_ARM_PMU = ("pmselr_el0", "pmuserenr_el0", "pmccntr_el0", "pmccfiltr_el0", "pmcr_el0")
_AARCH64: dict[int, str] = {
    **{256 + n: f"x{n}" for n in range(31)},
    287: "sp",
    288: "pstate",
    296: "fpcr",
    297: "fpsr",
    **{320 + n: f"v{n}" for n in range(32)},
    **dict(enumerate(_ARM_SYSTEM, 384)),
    **dict(enumerate(_ARM_DEBUG, 416)),
    **{432 + n: f"icc_{name}_el1" for n, name in enumerate(_ARM_GIC)},
    **dict(enumerate(_ARM_PMU, 448)),
}
_NAMES = _X86_64 | _AARCH64


def register_name(number: int) -> str:
    """Name of register *number*, or a placeholder for one that this version does not know."""
    return _NAMES.get(number, f"register {number}")
