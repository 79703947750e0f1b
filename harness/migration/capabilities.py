"""Migration capabilities: which this harness drives, and how a VM is brought to those that are wanted and no others."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from harness.migration.hold import run
from harness.model.deadline import Deadline
from harness.model.errors import UnsupportedError
from harness.vm.vm import Vm

NOT_DRIVEN: Mapping[str, str] = MappingProxyType(
    {
        "multifd": "pages go over connections of their own",
        "postcopy-preempt": "requested pages go over a connection of their own",
        "mapped-ram": "the stream needs a file",
        "background-snapshot": "the guest runs on while it is saved",
        "x-colo": "the source runs on after its first checkpoint",
        "rdma-pin-all": "the transport is unix or tcp",
        "zero-copy-send": "pages would bypass the unix socket",
        "release-ram": "the source's memory would be gone before the host compares it",
        "x-ignore-shared": "main memory is shared with the harness and would not be sent",
    }
)
"""Capabilities that this driver and its witnesses cannot judge yet, each with the reason."""


def require_driven(capabilities: Mapping[str, bool]) -> None:
    """Raises UnsupportedError for one that is switched on and that the driver cannot judge."""
    refused = sorted(name for name, state in capabilities.items() if state and name in NOT_DRIVEN)
    if refused:
        name = refused[0]
        raise UnsupportedError(
            f"capability {name}: {NOT_DRIVEN[name]}", hint="this release drives precopy over one channel"
        )


async def set_capabilities(vm: Vm, wanted: Mapping[str, bool], deadline: Deadline) -> None:
    """Switch *wanted* as it says, and off what an earlier migration or re-save of *vm* has switched on.

    QEMU is asked for what it is not known to have, if anything.

    Raises UnsupportedError for one that the binary does not know, and what :meth:`QmpSession.execute` raises.
    """
    unknown = sorted(set(wanted) - vm.features.migration_capabilities)
    if unknown:
        raise UnsupportedError(
            f"{vm.role}: QEMU {vm.features.version} has no migration capability {', '.join(unknown)}",
            hint="choose another binary with --qemu/--qemu-dst, or drop the setting",
        )
    states = {**dict.fromkeys(vm.capabilities, False), **wanted}
    changed = {name: state for name, state in states.items() if vm.capabilities.get(name) is not state}
    if not changed:
        return
    vm.capabilities |= dict.fromkeys(changed)
    words = [{"capability": name, "state": state} for name, state in sorted(changed.items())]
    await run(vm, "migrate-set-capabilities", {"capabilities": words}, deadline)
    vm.capabilities |= changed
