"""What a case plays on: it starts VMs, keeps the notebook, and clears away at the end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from harness.cases.capture import Capture
from harness.cases.faults import FaultPlan, HostFault, plan_faults
from harness.cases.notebook import Notebook
from harness.cases.request import Request
from harness.cases.settings import MigrationCaseSettings
from harness.cases.shield import Shield, dressed, layout_of
from harness.checks.handshake import CHECK as HANDSHAKE
from harness.checks.handshake import check_boot
from harness.confidential.backend import find_backend
from harness.guest.confidential import ConfidentialProbe
from harness.guest.image import probe_image
from harness.guest.probe import Probe
from harness.model.deadline import Deadline
from harness.model.errors import GuestError, LostError
from harness.model.guest import GuestDescription, Heartbeat, RamLayout
from harness.model.machine import CHANGE_VMFD, TCG_TRIM_KIB, Accel, MachineSpec
from harness.model.protection import GuestBoot
from harness.model.seed import Seed
from harness.report.events import STEP, EventLog
from harness.report.losses import Losses
from harness.report.store import Keep
from harness.vm.features import Features
from harness.vm.keeper import Keeper
from harness.vm.vm import Vm, start_vm

_CAUSE_S = 1.0
"""How long a process may take to be gone after a connection to it broke."""

_LAST_LINES = 2
"""Of the console, told of a guest that does not boot."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Binaries:
    """The two QEMUs of a case, and what runs the guest's instructions."""

    source: Features
    destination: Features
    accel: Accel
    accel_reason: str

    @property
    def trim_kib(self) -> int:
        """What memory has to be short of a round size, so that neither of the two loses dirty pages."""
        loses = self.accel is Accel.TCG and any(side.loses_dirty_pages for side in (self.source, self.destination))
        return TCG_TRIM_KIB if loses else 0


class CaseOverError(Exception):
    """Raised by a step after which nothing more can be played; its findings are in the notebook."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockAnchor:
    """A guest's TSC, read between two moments of the host's monotonic clock."""

    tsc: int
    asked_s: float
    answered_s: float

    def hz_until(self, later: ClockAnchor) -> float:
        """Upper bound of the TSC's rate: its advance by the shortest time that can have passed on the host.

        However late answers come on a busy host, the true rate is not above it.
        """
        shortest_s = later.asked_s - self.answered_s
        return (later.tsc - self.tsc) / shortest_s if shortest_s > 0 else inf


async def read_clock(probe: Probe, deadline: Deadline) -> ClockAnchor:
    """Ask the guest for its TSC."""
    return (await read_beats(probe, deadline))[0]


async def read_beats(probe: Probe, deadline: Deadline) -> tuple[ClockAnchor, Heartbeat]:
    """Ask the guest for its TSC and its beats; the gaps between beats are counted anew from here."""
    asked_s = time.monotonic()
    heartbeat = await probe.heartbeat(deadline=deadline, reset_gaps=True)
    return ClockAnchor(tsc=heartbeat.tsc, asked_s=asked_s, answered_s=time.monotonic()), heartbeat


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """A guest and the VM that it is in at the moment."""

    vm: Vm
    probe: Probe
    description: GuestDescription
    anchor: ClockAnchor | None = None
    """A reading of its TSC since when it has not been stopped."""
    tsc_hz: float = inf
    """The lowest upper bound of its TSC's rate that the host has found."""
    cvm_gpa: int = 0
    """Of a protected guest, the page in which it tells its host how it is protected."""

    @property
    def layout(self) -> RamLayout:
        """Where its main memory lies."""
        return layout_of(self.vm)

    @property
    def confidential(self) -> ConfidentialProbe:
        """The commands that only a protected guest knows."""
        return ConfidentialProbe(self.probe)


@dataclass(slots=True, kw_only=True)
class Stage:
    """One execution of one case. Use it as an async context manager: leaving it ends every VM."""

    request: Request
    folder: Path
    runtime: Path
    """Private folder for sockets, removed with the stage."""
    token: str
    """Goes into every ``-name``, so that a process can be told to be this case's."""
    binaries: Binaries
    faults: FaultPlan
    keeper: Keeper
    events: EventLog
    deadline: Deadline
    notebook: Notebook
    losses: Losses = field(default_factory=Losses)
    """Artefacts that could not be written."""
    fills: int = 0
    """How often memory was given another pattern than the first: content of an earlier boot is never right again."""
    struck: set[HostFault] = field(default_factory=set)
    """Faults of the host that were applied."""
    capture: Capture | None = None
    """What the stream of the last hop can be made of."""
    shield: Shield | None = None
    """The software platform, where the backend is one of its."""
    _vms: dict[str, Vm] = field(default_factory=dict)
    _running: dict[str, AsyncExitStack] = field(default_factory=dict)
    _ahead: set[asyncio.Task[Any]] = field(default_factory=set)
    _retiring: set[asyncio.Task[None]] = field(default_factory=set)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._ahead:
            task.cancel()
        await asyncio.gather(*self._ahead, return_exceptions=True)
        if self.capture and self._wants_stream(error):
            await self.capture.write()
        told = await self._explained(error) if isinstance(error, LostError) else None
        ends = [stack.aclose() for stack in self._running.values()]
        await asyncio.gather(*self._retiring, *ends, return_exceptions=True)
        if told:
            raise told from error

    async def _explained(self, loss: LostError) -> LostError | None:
        """*loss* with how each QEMU that is gone has ended: whoever met a broken connection cannot know."""
        if not self._vms:
            return None
        # A connection breaks a moment before the kernel tells of the death that broke it.
        gone = [vm.lost for vm in self._vms.values()]
        await asyncio.wait(gone, timeout=_CAUSE_S, return_when=asyncio.FIRST_COMPLETED)
        ends = [f"{vm.role}: QEMU {vm.describe_exit()}" for vm in self._vms.values() if not vm.is_alive]
        untold = [words for words in ends if words.partition(": ")[2] not in str(loss)]
        return LostError("; ".join([str(loss), *untold]), hint=loss.hint) if untold else None

    def _wants_stream(self, error: BaseException | None) -> bool:
        keep = self.request.keep
        return keep is Keep.ALWAYS or (keep is Keep.FAIL and (self.notebook.has_failed or error is not None))

    @property
    def seed(self) -> Seed:
        """The seed of this execution."""
        return self.request.seed

    @property
    def pattern_seed(self) -> int:
        """The seed of the pattern in the guest's memory."""
        return self.seed.sub("pattern", self.fills) if self.fills else self.seed.sub("pattern")

    def strikes(self, fault: HostFault) -> bool:
        """Whether *fault* was asked for; whoever asks this applies it now."""
        if fault in self.faults.host:
            self.struck.add(fault)
        return fault in self.faults.host

    def step(self, name: str) -> None:
        """The story goes on: for the event log and the progress line."""
        self.events.emit("harness", STEP, name=name)

    async def start(self, role: str, *, incoming: bool, features: Features, spec: MachineSpec | None = None) -> Vm:
        """Start QEMU for *role*, stopped. *spec* is the request's machine by default."""
        stack = AsyncExitStack()
        self._running[role] = stack
        vm = await stack.enter_async_context(
            start_vm(
                fitted(spec or machine_of(self.request, self.binaries), features, self.request),
                features,
                role=role,
                artefacts=self.folder,
                token=self.token,
                keeper=self.keeper,
                incoming=incoming,
                deadline=self.deadline,
            )
        )
        self._vms[role] = vm
        stack.callback(self._note_losses, vm)
        if self.shield:
            self.shield.cover(vm, incoming=incoming)
            stack.callback(self.shield.uncover, role)
        self.events.emit(role, "started", pid=vm.pid)
        return vm

    def _note_losses(self, vm: Vm) -> None:
        for trouble in vm.troubles:
            name, _, why = trouble.removeprefix(f"{vm.role}: ").partition(": ")
            self.losses.note(name, OSError(why))

    def ahead(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin *work* now and await it later; what is still going when the stage is left is cancelled first."""
        task = asyncio.create_task(work)
        self._ahead.add(task)
        return task

    def retire(self, vm: Vm) -> None:
        """End *vm* in the background: nobody needs it any more."""
        stack = self._running.pop(vm.role)
        self._vms.pop(vm.role)
        task = asyncio.create_task(stack.aclose(), name=f"retire {vm.role}")
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def boot_pair(self, destination: Coroutine[Any, Any, Vm]) -> tuple[Guest, Vm]:
        """Boot the guest while its first *destination* starts."""
        waiting = self.ahead(destination)
        return await self.boot(), await waiting

    async def boot(self, role: str = "src") -> Guest:
        """Start a VM and wait until the probe in it is ready."""
        started_s = time.monotonic()
        vm = await self.start(role, incoming=False, features=self.binaries.source)
        if self.shield:
            self.shield.of(vm).protection.ask_to_migrate()
            self.shield.of(vm).protection.run()
        await vm.qmp.execute("cont", deadline=self.deadline)
        probe = Probe(*vm.channel)
        try:
            ready = await vm.guarded(probe.ready(deadline=self.deadline), self.deadline, what="the probe to boot")
        except GuestError:
            self._judge_boot(vm)
            raise
        self.notebook.timings["probe_ready_s"] = time.monotonic() - started_s
        self.notebook.versions["probe"] = str(ready.probe_version)
        guest = await self._looked_at(vm, probe)
        said = guest.description
        self.events.emit(role, "guest ready", vcpus=said.vcpus, boot_id=f"{said.boot_id:#x}")
        return guest

    async def looked_at(self, guest: Guest) -> Guest:
        """*guest* as it describes itself now, after it has booted anew."""
        return replace(await self._looked_at(guest.vm, guest.probe), tsc_hz=guest.tsc_hz)

    async def _looked_at(self, vm: Vm, probe: Probe) -> Guest:
        description = await probe.describe(deadline=self.deadline)
        anchor = await read_clock(probe, self.deadline)
        guest = Guest(vm=vm, probe=probe, description=description, anchor=anchor)
        if not self.shield:
            return guest
        return replace(guest, cvm_gpa=(await guest.confidential.describe(deadline=self.deadline)).gpa)

    def _judge_boot(self, vm: Vm) -> None:
        """A protected guest that crashed before it was ready may have stumbled over what its host does not offer."""
        if not self.shield:
            return
        offers = self.shield.settings.offers_migration
        words = "; ".join(list(vm.console.lines)[-_LAST_LINES:])
        boot = GuestBoot(offers_migration=offers, entered_kernel=False, last_words=words)
        if self.notebook.judge(HANDSHAKE, check_boot(boot)):
            raise CaseOverError


def fitted(spec: MachineSpec, features: Features, request: Request) -> MachineSpec:
    """*spec* with what *request* wants of a binary that has it."""
    settings = request.settings
    wants = isinstance(settings, MigrationCaseSettings) and settings.changes_vmfd and spec.accel is Accel.KVM
    return replace(spec, changes_vmfd=wants and CHANGE_VMFD in features.machine_properties)


def machine_of(request: Request, binaries: Binaries) -> MachineSpec:
    """The machine that *request* asks for; both sides get the same."""
    settings = request.settings
    trim_kib = binaries.trim_kib if settings.trim_kib == "auto" else settings.trim_kib
    spec = MachineSpec(
        machine=settings.machine,
        arch=request.arch,
        accel=binaries.accel,
        vcpus=settings.vcpus,
        memory_mib=settings.memory_mib,
        trim_kib=trim_kib,
        below_4g_mib=settings.below_4g_mib,
        kernel=str(probe_image(request.arch)),
        firmware=settings.firmware,
    )
    spec = settings.machine_for(spec)
    flavour = find_backend(request.backend).flavour
    faults = plan_faults(request.faults).soft
    if not isinstance(settings, MigrationCaseSettings):
        return dressed(spec, flavour, faults) if flavour else spec
    # Where the platform plays the reset, QEMU pauses the VM for it.
    spec = replace(spec, reboots=settings.reboots and not (flavour and settings.plays_resets))
    return dressed(spec, flavour, faults, holds_firmware=settings.holds_firmware) if flavour else spec
