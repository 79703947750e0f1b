"""One host of the software platform: a secure processor with its certificates, and the VMs that it protects.

Two platforms share nothing: what one is to know of the other travels as bytes. That platforms of one vendor, or of one
owner, know each other's root is what their names say.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

import numpy as np
from numpy.typing import NDArray

from harness.confidential.soft.caches.written_lines import Extents
from harness.confidential.soft.flavour import Flavour
from harness.confidential.soft.host.vm_protection import VmProtection
from harness.confidential.soft.options import HostOptions
from harness.confidential.soft.processor.asids import AsidTable
from harness.confidential.soft.processor.certificates import Certificate, Usage, Vendor
from harness.confidential.soft.processor.guest_context import SendTarget
from harness.confidential.soft.processor.keys import KeyPair
from harness.confidential.soft.processor.policy import Policy
from harness.confidential.soft.processor.processor import SecureProcessor
from harness.confidential.soft.processor.processor_guest import ProcessorGuest
from harness.confidential.soft.processor.timing import ProcessorSpeed
from harness.model.address_map import AddressMap
from harness.model.memory import PAGE_SIZE
from harness.model.seed import Seed
from harness.model.soft_fault import SoftFault

_LAST_ASID, _FIRST_PLAIN_ASID, _CORES = 15, 8, 4
_ROOTS = Seed(0)
"""Vendors and owners are the same in every process and every run."""

Contents = NDArray[np.uint8]


class SoftPlatform:
    """Keys are random; what a guest or a case has to see again with the same seed is drawn from the seed."""

    def __init__(
        self,
        flavour: Flavour,
        *,
        seed: Seed,
        name: str = "host",
        faults: AbstractSet[SoftFault] = frozenset(),
        speed: ProcessorSpeed | None = None,
        options: HostOptions | None = None,
    ) -> None:
        """*name* tells the hosts of one case apart; *speed* None is as fast as this machine."""
        self.flavour, self.faults, self.options = flavour, frozenset(faults), options or HostOptions()
        self._speed, self._seed, self._name = speed, seed, name
        self._protections = 0
        self._processor = SecureProcessor(
            vendor=Vendor.generate(_ROOTS.rng("vendor", self.options.vendor).randbytes),
            owner=KeyPair.generate(_ROOTS.rng("owner", self.options.owner).randbytes),
            version=self.options.version or flavour.version,
            asids=AsidTable(last=_LAST_ASID, first_plain=_FIRST_PLAIN_ASID, cores=_CORES),
            ignores_nosend=SoftFault.IGNORES_NOSEND in self.faults,
            forgets_sent=SoftFault.SENT_RUNS_AGAIN in self.faults,
        )
        self._processor.init()

    def certificates(self) -> SendTarget:
        """What the source of a migration to here has to be given: sev-pdh, sev-plat-cert, sev-amd-cert."""
        true = self._processor.export_certificates()
        if SoftFault.WRONG_CERTIFICATE not in self.faults:
            return true
        point = KeyPair.generate().point
        unsigned = Certificate(usage=Usage.PDH, point=point, version=self._processor.version)
        return SendTarget(pdh=unsigned.pack(), platform=true.platform, vendor=true.vendor)

    @property
    def free_asids(self) -> int:
        """How many guests more it can hold, of either kind."""
        return _LAST_ASID - len(self._processor.asids.owners)

    def launch(
        self,
        ram: Contents,
        addresses: AddressMap,
        *,
        policy: Policy,
        vcpus: int,
        image: bytes = b"",
        extents: Extents | None = None,
    ) -> VmProtection:
        """A new guest, LAUNCH_START to LAUNCH_FINISH: all private, and blocked from migration until it says READY.

        *image* is what is measured, from RAM page 0 on, filled up to whole pages. CommandRefusedError POLICY_FAILURE
        for a policy that asks for newer firmware, RESOURCE_LIMIT without a free ASID. *extents* tells which memory
        was ever written.
        """
        guest = ProcessorGuest(self._processor)
        padded = np.frombuffer(image + bytes(-len(image) % PAGE_SIZE), dtype=np.uint8).reshape(-1, PAGE_SIZE)
        guest.launch(policy, image=padded, vcpus=vcpus)
        return self._protect(guest, ram, addresses, vcpus, is_launched=True, extents=extents)

    def expect(
        self, ram: Contents, addresses: AddressMap, *, vcpus: int, extents: Extents | None = None
    ) -> VmProtection:
        """A guest that is to arrive (``-incoming``): nothing is launched, RECEIVE_START comes by the wire."""
        guest = ProcessorGuest(self._processor)
        return self._protect(guest, ram, addresses, vcpus, is_launched=False, extents=extents)

    def _protect(
        self,
        guest: ProcessorGuest,
        ram: Contents,
        addresses: AddressMap,
        vcpus: int,
        *,
        is_launched: bool,
        extents: Extents | None,
    ) -> VmProtection:
        self._protections += 1
        return VmProtection(
            flavour=self.flavour,
            options=self.options,
            faults=self.faults,
            speed=self._speed,
            seed=Seed(self._seed.sub("soft-platform", self._name, self._protections)),
            guest=guest,
            ram=ram,
            addresses=addresses,
            vcpus=vcpus,
            is_launched=is_launched,
            extents=extents,
        )
