"""One reboot with all its witnesses, as often as a case wants one.

The guest that works is told to reboot, or its host resets it; what comes back says what it found of the boot before.
Then it is loaded anew, with another pattern: content of an earlier boot is never right again.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

from harness.cases.attestation import Attestation
from harness.cases.faults import HostFault
from harness.cases.judge_reboot import Manner, judge_early, judge_map, judge_resets
from harness.cases.load import stop_work
from harness.cases.protected_move import load_and_convert
from harness.cases.reboot_faults import SPOILING, spoil
from harness.cases.reboot_outcome import outcome_of
from harness.cases.reboot_settings import RebootSettings
from harness.cases.reset_road import until_back
from harness.cases.stage import CaseOverError, Guest, Stage
from harness.cases.witness import beats_of, beats_on
from harness.checks import early, reboot_end
from harness.checks.protection_preconditions import check_lines_at_risk
from harness.guest.early_memory import firmware_scratch
from harness.guest.protocol import Ready
from harness.guest.reboot import BOOT_VCPU, reboot_guest, spare
from harness.model.deadline import Deadline
from harness.model.drawings import RebootMark
from harness.model.early import EarlyInterrupt
from harness.model.errors import DeadlineError, LostError, PreconditionError
from harness.model.machine import Accel
from harness.model.memory import PAGE_SIZE
from harness.model.page_map import PageMap
from harness.model.reboot import RebootOutcome
from harness.model.reboot_way import WAYS, RebootWay
from harness.model.reset import RebootEnd, ResetEvidence
from harness.vm.reset_observer import ResetObserver, observe_resets

_LAST_WORDS_S = 2.0
_PENDED = 8
"""Interrupts that the guest makes pending at its boot vCPU before it reboots with some pending."""


@dataclass(slots=True, kw_only=True)
class Rebooter:
    """All reboots of one case."""

    stage: Stage
    settings: RebootSettings
    done: int = 0
    resets: int = 0
    """How many of them reset the machine."""
    fresh: PageMap | None = None
    """The host's list of a boot that nothing came before."""
    attestation: Attestation = field(init=False)

    def __post_init__(self) -> None:
        self.attestation = Attestation(self.stage)

    async def begin(self, guest: Guest) -> None:
        """Of a guest that has just booted for the first time and has written nothing yet; then load it."""
        scratch = await asyncio.to_thread(firmware_scratch, guest.vm.ram, guest.layout, guest.description)
        if scratch:
            await spare(guest.probe, scratch, deadline=self.stage.deadline)
        if self.stage.shield:
            self.fresh = self.stage.shield.of(guest.vm).protection.snapshot().page_map
        await self.load(guest)

    async def load(self, guest: Guest) -> None:
        """Fill memory, convert the window, and let the guest work for a while."""
        await load_and_convert(self.stage, guest, self.settings)
        await self._convert_window(guest, private=False)
        await self._work(guest)
        await self._let_time_pass(guest)

    async def settle_in(self, guest: Guest) -> None:
        """Of a protected guest that has moved: it writes through its shared view here too, before it is rebooted."""
        for private in (True, False):
            await self._convert_window(guest, private=private)
        await self._work(guest)
        await self._let_time_pass(guest)

    async def _let_time_pass(self, guest: Guest) -> None:
        if self.stage.shield:
            qmp, deadline = guest.vm.qmp, self.stage.deadline
            await qmp.execute("stop", deadline=deadline)
            await asyncio.to_thread(self.stage.shield.time_passes, guest.vm)
            await qmp.execute("cont", deadline=deadline)

    async def _convert_window(self, guest: Guest, *, private: bool) -> None:
        if self.stage.shield and self.settings.window_pages:
            gpa = guest.description.page_gpa(guest.description.managed_pages // 2)
            size_bytes = self.settings.window_pages * PAGE_SIZE
            await guest.confidential.convert(gpa, size_bytes, private=private, deadline=self.stage.deadline)

    async def _work(self, guest: Guest) -> None:
        """Until every vCPU has beaten so often that *work_ms* of the guest's time have passed."""
        beats = 1 + self.settings.work_ms // 10
        for _ in range(beats):
            await beats_on(self.stage, guest, guest.vm, beats_of(guest, guest.vm))

    async def reboot(self, guest: Guest, manner: Manner) -> Guest:
        """Reboot *guest*, judge what comes back, and load it again.

        Raises CaseOverError when it does not come back, as it may have to, or with damaged memory: the findings tell.
        """
        guest = await self.reboot_only(guest, manner)
        if self.stage.notebook.checks.get(early.MEMORY):
            raise CaseOverError
        self.stage.fills += 1
        await self.load(guest)
        return guest

    async def reboot_only(self, guest: Guest, manner: Manner) -> Guest:
        """The same without a new load: memory is as the boot before left it."""
        self.done += 1
        self.resets += WAYS[manner.way].resets
        stage, vm = self.stage, guest.vm
        stage.step(f"reboot {self.done} by {manner.way}")
        map_before = stage.shield.of(vm).protection.snapshot().page_map if stage.shield else None
        launched = self.attestation.read(vm)
        await self._apply_faults(guest)
        deadline = stage.deadline.within(self.settings.boot_s)
        stage.notebook.has_moved = True
        started_s, started_at_s = time.monotonic(), time.time()
        async with AsyncExitStack() as stack:
            observer = await stack.enter_async_context(
                observe_resets(vm.pid, vm.qmp, ioctls=vm.spec.accel is Accel.KVM, deadline=deadline)
            )
            ready, pended = await self._play(guest, manner, deadline)
        waited_s, before = time.monotonic() - started_s, len(stage.notebook.findings)
        self._note_missing(observer)
        evidence = self._evidence(guest, observer, started_at_s)
        end = await self._end(guest, ready, evidence, waited_s=waited_s)
        try:
            expected = self._expected(guest)
            found = stage.notebook.judge(reboot_end.CHECK, reboot_end.check_reboot_end(end, expected=expected))
            if found or ready is None:
                raise CaseOverError
            vm.rebooted()
            if evidence.resets:
                self.attestation.was_reset(vm)
            judge_resets(stage, evidence, manner, expected)
            again = await stage.looked_at(guest)
            is_renewed = expected is RebootOutcome.NEW_CONTEXT and WAYS[manner.way].resets
            await judge_early(stage, guest, again, manner, pended, is_renewed=is_renewed)
            if launched:
                self.attestation.judge(vm, launched, is_renewed=is_renewed)
            if map_before and self.fresh:
                judge_map(stage, again, manner, before=map_before, fresh=self.fresh)
            return again
        finally:
            mark = RebootMark(
                number=self.done,
                way=manner.way.value,
                duration_s=waited_s,
                came_back=ready is not None,
                findings=len(stage.notebook.findings) - before,
            )
            stage.notebook.reboots.append(mark)

    def sum_up(self) -> None:
        """Timings of all reboots, a note, and whether they have put the flush of caches to the test."""
        shield = self.stage.shield
        if shield and shield.settings.caches:
            found = check_lines_at_risk(shield.lines_at_risk, resets=self.resets)
            self.stage.notebook.judge("precondition", found)
        timings, cycles = self.stage.notebook.timings, sorted(mark.duration_s for mark in self.stage.notebook.reboots)
        if cycles:
            timings["reboot_s"] = cycles[len(cycles) // 2]
            timings["reboot_slowest_s"] = cycles[-1]
            self.stage.notebook.notes.append(f"{len(cycles)} reboots, {cycles[len(cycles) // 2]:.3f} s each (median)")

    async def _apply_faults(self, guest: Guest) -> None:
        """Of hosts that spoil memory over a reboot: nobody may write over it again before it comes."""
        struck = [fault for fault in SPOILING if self.stage.strikes(fault)]
        if struck:
            await stop_work(self.stage, guest)
            for fault in struck:
                await asyncio.to_thread(spoil, fault, guest.vm.ram, guest.layout, guest.description)

    async def _play(
        self, guest: Guest, manner: Manner, deadline: Deadline
    ) -> tuple[Ready | None, tuple[EarlyInterrupt, ...]]:
        """Tell the guest, play the host's part. No READY: it did not come back, whyever."""
        way, since = manner.way, guest.vm.qmp.cursor
        if WAYS[way].resets and self.stage.strikes(HostFault.RESETS_NOTHING):
            way = RebootWay.BARE
        elif way is not RebootWay.HOST and self.stage.strikes(HostFault.RESETS_FIRST):
            way = RebootWay.HOST
        try:
            pended = await reboot_guest(
                guest.probe, way, vcpu_mask=manner.vcpu_mask, pend=manner.pend, deadline=deadline
            )
            return await until_back(self.stage, guest, way, since=since, deadline=deadline), pended
        except (DeadlineError, LostError):
            if self.stage.deadline.has_passed:
                raise
            return None, ()

    def _note_missing(self, observer: ResetObserver) -> None:
        """Once for each witness that this host does not let us have; under TCG there is nothing to watch."""
        notes = self.stage.notebook.notes
        if self.stage.binaries.accel is Accel.KVM:
            notes += [why for why in observer.missing if why not in notes]

    def _evidence(self, guest: Guest, observer: ResetObserver, since_s: float) -> ResetEvidence:
        evidence = observer.evidence()
        shield = self.stage.shield
        if shield and (trace := shield.reset_trace(guest.vm, since_s, time.time())):
            return replace(evidence, trace=trace)
        return evidence

    async def _end(self, guest: Guest, ready: Ready | None, evidence: ResetEvidence, *, waited_s: float) -> RebootEnd:
        vm = guest.vm
        if ready is None and not vm.is_alive:
            await asyncio.wait({vm.lost}, timeout=_LAST_WORDS_S)
        shutdowns = [event for event in evidence.events if event.name == "SHUTDOWN"]
        return RebootEnd(
            came_back=ready is not None,
            shutdown=shutdowns[-1] if shutdowns else None,
            exit="" if vm.is_alive else vm.lost.result().words,
            last_words=vm.last_words,
            waited_s=waited_s,
        )

    def _expected(self, guest: Guest) -> RebootOutcome:
        vm, technology = guest.vm, self.stage.request.backend
        return outcome_of(
            technology, self.settings.protection, has_arrived=vm.is_incoming, qemu=vm.features.major_minor
        )


def drawn_manners(
    stage: Stage,
    settings: RebootSettings,
    *,
    pend: bool = False,
    resets_only: bool = False,
    vcpu_mask: int = BOOT_VCPU,
) -> list[Manner]:
    """A manner for each of the case's reboots: all its ways in turn, in an order that the seed draws.

    Raises PreconditionError when the machine has none of the ways that were asked for.
    """
    ways = [way for way in settings.ways_on(stage.request.arch) if not (pend or resets_only) or WAYS[way].resets]
    if not ways:
        raise PreconditionError(f"a machine of {stage.request.arch} has none of the ways {', '.join(settings.ways)}")
    stage.seed.rng("ways").shuffle(ways)
    return [Manner(way=ways[number % len(ways)], pend=pend, vcpu_mask=vcpu_mask) for number in range(settings.times)]
