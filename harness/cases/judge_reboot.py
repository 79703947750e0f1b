"""The witnesses of one reboot hand evidence to checks: QEMU, the host's kernel, the earliest code, the page map."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from harness.cases.stage import Guest, Stage
from harness.checks import early, kernel_log, reset_calls, stale_lines
from harness.checks.page_map import RESET, check_after_reset
from harness.guest.early_memory import wrong_lines
from harness.guest.reboot import BOOT_VCPU, early_report
from harness.model.early import EarlyEvidence, EarlyInterrupt, WrongLine
from harness.model.guest import GuestMemory
from harness.model.machine import Accel
from harness.model.page_map import PageMap
from harness.model.reboot import RebootOutcome
from harness.model.reboot_way import WAYS, RebootWay
from harness.model.reset import ResetEvidence

_PENDED = 8
"""Interrupts that the guest makes pending at its boot vCPU before it reboots with some pending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How one reboot is to be."""

    way: RebootWay
    vcpu_mask: int = BOOT_VCPU
    """vCPUs that reboot the machine, all at once."""
    pend: bool = False
    """With interrupts pending."""


def judge_resets(stage: Stage, evidence: ResetEvidence, manner: Manner, expected: RebootOutcome) -> None:
    """What the host showed of the reset, or of none."""
    notebook, is_kvm = stage.notebook, stage.binaries.accel is Accel.KVM
    notebook.judge(early.EVENTS, early.check_events(evidence, way=manner.way))
    # Under TCG nothing of the kernel's takes part, and nobody could be told; the platform notes what it plays.
    if is_kvm:
        notebook.judge(kernel_log.CHECK, kernel_log.check_kernel_log(evidence.kernel_log))
    has_calls = WAYS[manner.way].resets and expected is not RebootOutcome.NEW_CONTEXT
    if has_calls and (is_kvm or evidence.trace is not None):
        notebook.judge(reset_calls.CHECK, reset_calls.check_reset_calls(evidence, expected=expected))


async def judge_early(
    stage: Stage,
    before: Guest,
    guest: Guest,
    manner: Manner,
    pended: tuple[EarlyInterrupt, ...],
    *,
    is_renewed: bool = False,
) -> None:
    """What the earliest code of *guest* found of the boot that *before* was; *is_renewed* as EarlyEvidence has it."""
    notebook = stage.notebook
    report = await early_report(guest.probe, deadline=stage.deadline)
    seed = stage.pattern_seed
    lines = await asyncio.to_thread(wrong_lines, report.damages, guest.vm.ram, guest.layout, private_seed=seed)
    evidence = EarlyEvidence(
        report=report,
        boot_id_before=before.description.boot_id,
        boot_count_before=before.description.boot_count,
        boot_id=guest.description.boot_id,
        boot_count=guest.description.boot_count,
        is_reset=WAYS[manner.way].resets,
        way=str(manner.way),
        is_renewed=is_renewed,
        lines=lines,
        pended=pended,
    )
    managed_pages = before.description.managed_pages
    notebook.judge(early.MEMORY, early.check_early_memory(evidence, managed_pages=managed_pages))
    notebook.judge(early.BOOTS, early.check_boots(evidence))
    notebook.judge(early.INTERRUPTS, early.check_interrupts(evidence))
    if manner.pend:
        notebook.judge("precondition", early.check_pended(evidence, at_least=_PENDED))
    await _judge_origins(stage, guest, lines)
    stage.events.emit("guest", "looked", pages=report.pages_checked, bad=report.pages_bad, ticks=report.ticks)


async def judge_last(stage: Stage, guest: Guest, memory: GuestMemory) -> None:
    """What the guest found wrong in its last look at all memory: no boot comes after it whose earliest code would."""
    if not stage.shield or not memory.damages:
        return
    seed = stage.pattern_seed
    lines = await asyncio.to_thread(wrong_lines, memory.damages, guest.vm.ram, guest.layout, private_seed=seed)
    await _judge_origins(stage, guest, lines)


async def _judge_origins(stage: Stage, guest: Guest, lines: tuple[WrongLine, ...]) -> None:
    """Through which view damaged lines were written, where that can be told."""
    if stage.shield:
        origins = await asyncio.to_thread(stage.shield.origins, guest.vm, lines)
        stage.notebook.judge(stale_lines.CHECK, stale_lines.check_stale_lines(origins, role=guest.vm.role))


def judge_map(stage: Stage, guest: Guest, manner: Manner, *, before: PageMap, fresh: PageMap) -> None:
    """The host's list, right behind the reset and when the kernel runs: *fresh* is that of a first boot."""
    assert stage.shield
    host = stage.shield.of(guest.vm)
    snapshot = host.protection.snapshot()
    if is_reset := WAYS[manner.way].resets:
        # The kernel takes back what an earlier one shared, so only the list right behind the reset can tell.
        empty = PageMap.all_private(host.addresses.pages)
        found = check_after_reset(host.addresses, fresh=empty, before=before, after=snapshot.initial)
        stage.notebook.judge(RESET, found)
    found = check_after_reset(host.addresses, fresh=fresh, before=before, after=snapshot.page_map, kexec=not is_reset)
    stage.notebook.judge(RESET, found)
