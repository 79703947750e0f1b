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


def register_name(number: int) -> str:
    """Name of x86_64 register *number*, or a placeholder for one that this version does not know."""
    return _X86_64.get(number, f"register {number}")
