"""Whether KVM really works: only after a 64-bit guest has run under it. The device file alone proves nothing.

``kvm_pvm`` and the like open, answer API version 12 and run firmware, and then stop a 64-bit guest or let it hang.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

from harness.guest.image import probe_image
from harness.guest.probe import Probe
from harness.hosts.capability import Capability
from harness.hosts.kvm_probe import probe_kvm
from harness.model.deadline import Deadline
from harness.model.errors import HarnessError
from harness.model.machine import Accel, Arch, MachineSpec
from harness.vm.features import Features
from harness.vm.keeper import Keeper
from harness.vm.vm import start_vm

_TRY_S = 4.0
"""A guest that works is ready in tenths of a second."""

_MEMORY_MIB = 64
_SEED = 1
_NEEDED = "a 64-bit guest that boots and fills its memory under accel=kvm, no slower than under TCG"

_known: dict[Path, Capability] = {}


async def usable_kvm(features: Features, *, keeper: Keeper, deadline: Deadline) -> Capability:
    """Try KVM with the binary of *features*; the answer is remembered for this process."""
    if features.path not in _known:
        _known[features.path] = await _judge(features, keeper, deadline)
    return _known[features.path]


async def _judge(features: Features, keeper: Keeper, deadline: Deadline) -> Capability:
    device = probe_kvm(Path("/"))
    if not device.present:
        return _no(device.found, device.remedy)
    if "kvm" not in features.accelerators:
        return _no(f"QEMU {features.version} is built without KVM", "choose another binary with --qemu")
    try:
        kvm_s, tcg_s = await asyncio.gather(
            _time(Accel.KVM, features, keeper, deadline), _time(Accel.TCG, features, keeper, deadline)
        )
    except HarnessError as trouble:
        return _no(f"{device.found}, but {trouble}", "nothing to do: the host's KVM is not hardware virtualisation")
    words = f"{device.found}; a 64-bit guest ran in {kvm_s:.2f} s, under TCG in {tcg_s:.2f} s"
    if kvm_s > tcg_s:
        return _no(f"{words}: slower than TCG", "ask for it with --accel kvm to use it all the same")
    return Capability(name="kvm-guest", present=True, found=words, needed=_NEEDED)


async def _time(accel: Accel, features: Features, keeper: Keeper, deadline: Deadline) -> float:
    """Seconds from the first instruction to a filled memory."""
    spec = MachineSpec(accel=accel, memory_mib=_MEMORY_MIB, kernel=str(probe_image(Arch.X86_64)))
    bound = deadline.within(_TRY_S)
    with tempfile.TemporaryDirectory(prefix="cvmig-kvm-") as folder:
        async with start_vm(
            spec, features, role=accel.value, artefacts=Path(folder), token="try", keeper=keeper, deadline=bound
        ) as vm:
            started_s = time.monotonic()
            await vm.qmp.execute("cont", deadline=bound)
            probe = Probe(*vm.channel)
            try:
                await vm.guarded(_fill(probe, bound), bound, what=f"a 64-bit guest under {accel}")
            finally:
                await probe.close()
            return time.monotonic() - started_s


async def _fill(probe: Probe, deadline: Deadline) -> None:
    await probe.ready(deadline=deadline)
    await probe.fill(_SEED, deadline=deadline)


def _no(found: str, remedy: str) -> Capability:
    return Capability(name="kvm-guest", present=False, found=found, needed=_NEEDED, remedy=remedy)
