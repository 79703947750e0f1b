"""The software platform around the VMs of one case.

Each VM is on a host of its own, with its own secure processor: nothing goes from one to the other but what the relays
put on the wire.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from harness.cases.protection_settings import ProcessorPace, ProtectionSettings
from harness.confidential.soft.caches.line_origin import LineOrigin
from harness.confidential.soft.channel.hypercall_server import HypercallServer
from harness.confidential.soft.flavour import Flavour
from harness.confidential.soft.host.platform import SoftPlatform
from harness.confidential.soft.host.vm_protection import VmProtection
from harness.confidential.soft.options import SOFT_C_BIT, HostOptions
from harness.confidential.soft.processor.policy import ApiVersion
from harness.confidential.soft.processor.status import CommandRefusedError
from harness.confidential.soft.processor.timing import AMD_SINGLE, ProcessorSpeed
from harness.guest.lines import told_by
from harness.model.address_map import AddressMap
from harness.model.early import WrongLine
from harness.model.errors import BlockedError, HarnessError
from harness.model.guest import RamLayout
from harness.model.machine import MachineSpec
from harness.model.memory import LINE_SIZE
from harness.model.protection import LaunchIdentity
from harness.model.reset import IoctlTrace, VcpuAtReset
from harness.model.seed import Seed
from harness.model.soft_fault import SOFT_FAULTS, Owner, SoftFault
from harness.vm.vm import Vm

_OF_GUESTS = {Owner.GUEST_FIRMWARE, Owner.GUEST_KERNEL}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shielded:
    """One VM on its host."""

    platform: SoftPlatform
    protection: VmProtection
    server: HypercallServer
    addresses: AddressMap


@dataclass(slots=True, kw_only=True)
class Shield:
    """All hosts of one case."""

    flavour: Flavour
    settings: ProtectionSettings
    faults: frozenset[SoftFault]
    seed: Seed
    plays_resets: bool = False
    """What KVM and QEMU do around a reset is played, and what caches do meanwhile; see cases/reset_road.py."""
    lines_at_risk: int = 0
    """Lines that were dirty in another view when some VM was reset, and so were kept by the host's flush only."""
    _hosts: dict[str, Shielded] = field(default_factory=dict)

    def has(self, fault: SoftFault) -> bool:
        """Whether *fault* was asked for; whoever asks this applies it."""
        return fault in self.faults

    def cover(self, vm: Vm, *, incoming: bool) -> None:
        """Put *vm*, which has not run yet, on a host of its own."""
        number = len(self._hosts)
        settings = self.settings
        platform = SoftPlatform(
            self.flavour,
            seed=Seed(self.seed.sub("platform", vm.role, number)),
            faults=self.faults,
            speed=self._speed(),
            options=self._options(incoming=incoming),
        )
        addresses = AddressMap.of(layout_of(vm))
        if incoming:
            protection = platform.expect(vm.ram.buffer, addresses, vcpus=vm.spec.vcpus, extents=vm.ram.data_extents)
        else:
            policy = self.flavour.policy(settings.policy, minimum_api=settings.minimum_api)
            try:
                protection = platform.launch(
                    vm.ram.buffer, addresses, policy=policy, vcpus=vm.spec.vcpus, extents=vm.ram.data_extents
                )
            except CommandRefusedError as refusal:
                raise BlockedError(f"{vm.role}: the secure processor does not launch it: {refusal}") from refusal
        server = HypercallServer(vm.hypercalls, protection.hypercall)
        server.start()
        self._hosts[vm.role] = Shielded(platform=platform, protection=protection, server=server, addresses=addresses)

    def of(self, vm: Vm) -> Shielded:
        """The host that *vm* is on. Raises HarnessError when a call of its guest broke it."""
        host = self._hosts[vm.role]
        if host.server.error:
            raise HarnessError(f"{vm.role}: the platform stumbled over a hypercall: {host.server.error!r}")
        return host

    def is_resettable(self, vm: Vm) -> bool:
        """Whether QEMU resets this VM: the series does not where protected vCPUs came in, unless it is asked to."""
        return not (self.flavour.is_es and vm.is_incoming and not self.settings.resets_arrived)

    def reset_begins(self, vm: Vm) -> None:
        """PRE_SYSTEM_RESET. *vm* stands still, its memory is as the guest left it."""
        protection = self.of(vm).protection
        before = protection.lines_at_risk
        protection.reset_begins()
        self.lines_at_risk += protection.lines_at_risk - before

    def reset_done(self, vm: Vm) -> tuple[VcpuAtReset, ...]:
        """POST_SYSTEM_RESET: QEMU has reset the machine, and *vm* still stands still.

        What the host's kernel holds of its vCPUs now; empty where their state is not protected.
        """
        protection = self.of(vm).protection
        before = protection.lines_at_risk
        protection.reset_ends()
        self.lines_at_risk += protection.lines_at_risk - before
        return protection.vcpus_at_reset()

    def identity(self, vm: Vm) -> LaunchIdentity:
        """Handle and measurement of the guest's context, as its host has them now."""
        return self.of(vm).protection.identity

    def time_passes(self, vm: Vm) -> None:
        """Some of what is dirty in caches is written back now. *vm* stands still, and no migration of it goes on."""
        self.of(vm).protection.time_passes()

    def reset_trace(self, vm: Vm, since_s: float, until_s: float) -> IoctlTrace | None:
        """PRE and POST as the host's kernel got them, in seconds since 1970."""
        return self.of(vm).protection.reset_trace(since_s, until_s)

    def origins(self, vm: Vm, lines: Sequence[WrongLine]) -> tuple[LineOrigin, ...]:
        """Where damaged lines come from, as far as they can be told; nothing where no caches are played."""
        host = self.of(vm)
        told: list[LineOrigin] = []
        gpas = {line.ram_addr // LINE_SIZE: line.gpa for line in lines}
        for is_shared in (False, True):
            group = [line for line in lines if line.is_shared is is_shared]
            if not group:
                continue
            numbers = np.array([line.ram_addr // LINE_SIZE for line in group], dtype=np.int64)
            found = np.frombuffer(b"".join(line.found for line in group), dtype=np.uint8).reshape(-1, LINE_SIZE)
            told += host.protection.line_origins(
                numbers, found, private=not is_shared, known=lambda number, content: told_by(gpas[number], content)
            )
        return tuple(replace(origin, gpa=gpas[origin.ram_addr // LINE_SIZE]) for origin in told)

    def uncover(self, role: str) -> None:
        """The VM is about to end: nobody answers its calls any more, and its keys are gone."""
        if host := self._hosts.pop(role, None):
            host.server.stop()
            host.protection.close()

    def _options(self, *, incoming: bool) -> HostOptions:
        settings = self.settings
        own = HostOptions(
            offers_migration=settings.offers_migration,
            answers_retry=settings.answers_retry,
            refuses_conversion=settings.refuses_conversion,
            caches=bool(settings.caches),
            renews=settings.renews,
        )
        if not incoming:
            return own
        major, _, minor = settings.target_api.partition(".")
        return replace(
            own,
            owner=own.owner if settings.target_owner == "same" else "another owner",
            vendor=own.vendor if settings.target_vendor == "same" else "another vendor",
            version=ApiVersion(int(major), int(minor)) if settings.target_api else None,
        )

    def _speed(self) -> ProcessorSpeed | None:
        is_slow = self.has(SoftFault.SLOW) or self.settings.pace is not ProcessorPace.INSTANT
        return AMD_SINGLE if is_slow else None


def dressed(
    spec: MachineSpec, flavour: Flavour, faults: Iterable[SoftFault], *, holds_firmware: bool = False
) -> MachineSpec:
    """*spec* with the hypercall port, and the words that tell the guest how it is protected."""
    words = [f"cvm={'es' if flavour.is_es else 'sev'}", f"cbit={SOFT_C_BIT.bit_length() - 1}"]
    if holds_firmware:
        words.append("firmware=hold")
    if guests := sorted(fault for fault in faults if SOFT_FAULTS[fault].owner in _OF_GUESTS):
        words.append(f"fault={'+'.join(guests)}")
    return replace(spec, hypercall_port=True, append=" ".join(words))


def layout_of(vm: Vm) -> RamLayout:
    """Where main memory of *vm* lies."""
    return RamLayout.of(vm.spec.arch, vm.ram.size_bytes, below_4g_mib=vm.spec.below_4g_mib)
