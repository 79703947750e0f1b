"""The host's kernel has nothing to complain of while a case runs (B43, B50)."""

from __future__ import annotations

import re

from harness.model.reset import KernelLogDifference
from harness.model.verdict import Finding, Verdict

CHECK = "host/kernel-log"

_ALARMS = re.compile(
    r"WARNING: |\bBUG: |\bOops\b|general protection fault|kernel BUG at|rcu.*(stall|detected)|soft lockup|"
    r"hung task|blocked for more than|Kernel panic|unable to handle"
)
"""How Linux begins its complaints (include/asm-generic/bug.h, arch/x86/mm/fault.c, kernel/watchdog.c)."""

_LISTED = 5


def check_kernel_log(log: KernelLogDifference) -> tuple[Finding, ...]:
    """No warning of the kernel about itself; an error where lines are missing, for they may be one."""
    alarms = [line for line in log.lines if _ALARMS.search(line)]
    findings = [
        Finding(check=CHECK, kind="complaint", where="host", detail=line, remedy="read the lines around it in dmesg")
        for line in alarms[:_LISTED]
    ]
    if log.lost and not alarms:
        detail = f"lines were lost {log.lost} times before anybody read them"
        findings.append(Finding(check=CHECK, kind="lost", where="host", detail=detail, verdict=Verdict.ERROR))
    return tuple(findings)
