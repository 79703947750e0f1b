"""Whether KVM really works: only after a 64-bit guest has run under it. The device file alone proves nothing.

``kvm_pvm`` and the like open, answer API version 12 and run firmware, and then stop a 64-bit guest or let it hang.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, fields, replace
from pathlib import Path

from harness.guest.image import probe_image
from harness.guest.probe import Probe
from harness.hosts.capability import Capability
from harness.hosts.kvm_probe import probe_kvm
from harness.model.deadline import Deadline
from harness.model.errors import HarnessError, UnsupportedError
from harness.model.machine import DEFAULT_MACHINES, Accel, Arch, MachineSpec
from harness.vm import feature_cache
from harness.vm.features import Features
from harness.vm.keeper import Keeper
from harness.vm.runtime import runtime_folder
from harness.vm.vm import start_vm

_TRY_S = 20.0
_LEAD = 3.0
"""KVM is given up when it takes this many times as long as TCG: a hang, or too slow to be worth it."""

_LEAD_S = 0.5
"""And this much more, for a busy machine."""

_MEMORY_MIB = 64
_SEED = 1
_NEEDED = "a 64-bit guest that boots and fills its memory under accel=kvm, no slower than under TCG"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


async def usable_kvm(features: Features, *, keeper: Keeper, deadline: Deadline) -> Capability:
    """Whether KVM beats TCG with the binary of *features*; remembered until the host reboots or the binary changes."""
    device = probe_kvm(Path("/"))
    if not device.present:
        return _no(device.found, device.remedy)
    if "kvm" not in features.accelerators:
        return _no(f"QEMU {features.version} is built without KVM", "choose another binary with --qemu")
    key = replace(feature_cache.key_of(features.path), question=f"kvm {_boot_id()} {device.found}")
    known = feature_cache.load(key)
    if known and set(known) == {field.name for field in fields(Capability)}:
        return Capability(**known)
    judged = await _judge(features, device.found, keeper, deadline.within(_TRY_S))
    feature_cache.store(key, asdict(judged))
    return judged


async def require_kvm(features: Features, *, keeper: Keeper, deadline: Deadline) -> str:
    """See a 64-bit guest run under KVM, however slowly, and tell how. Raises UnsupportedError with the reason."""
    device = probe_kvm(Path("/"))
    if not device.present:
        raise UnsupportedError(f"KVM is not usable: {device.found}", hint=device.remedy)
    try:
        seconds = await _time(Accel.KVM, features, keeper, deadline.within(_TRY_S))
    except HarnessError as trouble:
        raise UnsupportedError(f"KVM is not usable: {device.found}, but {trouble}", hint=_REMEDY) from None
    return f"as asked; a 64-bit guest ran in {seconds:.2f} s; {device.found}"


async def _judge(features: Features, device: str, keeper: Keeper, deadline: Deadline) -> Capability:
    kvm = asyncio.create_task(_time(Accel.KVM, features, keeper, deadline))
    try:
        tcg_s = await _time(Accel.TCG, features, keeper, deadline)
        kvm_s = await asyncio.wait_for(kvm, _LEAD * tcg_s + _LEAD_S)
    except TimeoutError:
        return _no(f"{device}, but no 64-bit guest ran under it in the time that TCG needs several times over", _REMEDY)
    except HarnessError as trouble:
        return _no(f"{device}, but {trouble}", _REMEDY)
    finally:
        kvm.cancel()
        await asyncio.wait({kvm})
    words = f"{device}; a 64-bit guest ran in {kvm_s:.2f} s, under TCG in {tcg_s:.2f} s"
    if kvm_s > tcg_s:
        return _no(f"{words}: slower than TCG", "ask for it with --accel kvm to use it all the same")
    return Capability(name="kvm-guest", present=True, found=words, needed=_NEEDED)


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return "?"


async def _time(accel: Accel, features: Features, keeper: Keeper, deadline: Deadline) -> float:
    """Seconds from the first instruction to a filled memory."""
    arch = Arch(features.target)
    machine, kernel = DEFAULT_MACHINES[arch], str(probe_image(arch))
    spec = MachineSpec(machine=machine, arch=arch, accel=accel, memory_mib=_MEMORY_MIB, kernel=kernel)
    bound = deadline
    with runtime_folder(keeper) as folder:
        async with start_vm(
            spec, features, role=accel.value, artefacts=folder, token="try", keeper=keeper, deadline=bound
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


_REMEDY = "use TCG; this KVM is not hardware virtualisation that a 64-bit guest can rely on"


def _no(found: str, remedy: str) -> Capability:
    return Capability(name="kvm-guest", present=False, found=found, needed=_NEEDED, remedy=remedy)
