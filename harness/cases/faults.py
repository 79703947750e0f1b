"""Known bugs that can be switched on to prove that a check catches them: of the wire, the host, the guest.

``NAME`` or ``NAME:key=value,...``, e.g. ``wire-corrupt-device:device=timer/0,field=cpu_ticks_offset``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import yaml

from harness.migration.relay.faults import CATALOGUE
from harness.model.errors import UsageError
from harness.model.wire import WireFault, WireFaultName


class HostFault(StrEnum):
    """What a host, or the software that manages it, can do wrong around a migration."""

    RUN_SOURCE = "host-run-source"
    RESET_DESTINATION = "host-reset-destination"
    KEEP_DESTINATION_PAUSED = "host-keep-destination-paused"
    OTHER_MACHINE = "host-other-machine"
    KILL_SOURCE = "host-kill-source"
    KILL_DESTINATION = "host-kill-destination"
    CRASH_GUEST = "guest-crash"
    HANG_GUEST = "guest-hang"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One line of ``cvmig list faults``."""

    name: str
    owner: str
    """Whose bug it stands for."""
    summary: str
    caught_by: str
    """What the case then says: a check and a kind, or a verdict."""


def _host(name: HostFault, owner: str, summary: str, caught_by: str) -> Fault:
    return Fault(name=name.value, owner=owner, summary=summary, caught_by=caught_by)


FAULTS: Mapping[str, Fault] = MappingProxyType(
    {
        fault.name: fault
        for fault in (
            *(
                Fault(name=entry.name.value, owner=entry.belongs_to, summary=entry.does, caught_by=entry.caught_as)
                for entry in CATALOGUE.values()
            ),
            _host(
                HostFault.RUN_SOURCE,
                "management",
                "lets the source run again after the switch-over: two live instances (B37)",
                "migration/one-side-runs: source-runs",
            ),
            _host(
                HostFault.RESET_DESTINATION,
                "management",
                "resets the destination before it runs: the guest boots anew",
                "guest/same-boot: other-boot",
            ),
            _host(
                HostFault.KEEP_DESTINATION_PAUSED,
                "management",
                "never lets the destination run",
                "migration/one-side-runs: vcpu-stopped",
            ),
            _host(
                HostFault.OTHER_MACHINE,
                "management",
                "starts the destination with another machine type, which it then refuses to load",
                "migration/ends: not-loaded",
            ),
            _host(HostFault.KILL_SOURCE, "QEMU", "kills the source in the midst of the migration", "lost"),
            _host(HostFault.KILL_DESTINATION, "QEMU", "kills the destination in the midst of the migration", "lost"),
            _host(
                HostFault.CRASH_GUEST, "guest", "the guest crashes at the destination", "fail: the guest's own words"
            ),
            _host(HostFault.HANG_GUEST, "guest", "the guest hangs with interrupts off at the destination", "fail"),
        )
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultPlan:
    """The faults of one case, by who applies them."""

    wire: tuple[WireFault, ...] = ()
    host: frozenset[HostFault] = frozenset()


def plan_faults(words: Iterable[str]) -> FaultPlan:
    """Read ``--fault`` words. UsageError for a name or a parameter that is none."""
    wire: list[WireFault] = []
    host: set[HostFault] = set()
    for word in words:
        name, _, parameters = word.partition(":")
        if name not in FAULTS:
            raise UsageError(f"unknown fault {name!r}", hint=_suggestion(name))
        if name in _HOST_NAMES:
            host.add(_host_fault(name, parameters))
        else:
            wire.append(_wire_fault(name, parameters))
    return FaultPlan(wire=tuple(wire), host=frozenset(host))


_HOST_NAMES = frozenset(fault.value for fault in HostFault)


def _host_fault(name: str, parameters: str) -> HostFault:
    if parameters:
        raise UsageError(f"the fault {name} takes no parameters", hint=f"write --fault {name}")
    return HostFault(name)


def _wire_fault(name: str, parameters: str) -> WireFault:
    fault = WireFault(name=WireFaultName(name))
    known = {member.name for member in fields(WireFault)} - {"name"}
    values: dict[str, Any] = {}
    for word in filter(None, parameters.split(",")):
        key, equals, text = word.partition("=")
        if not equals or key not in known:
            raise UsageError(f"bad parameter {word!r} of the fault {name}", hint=f"known: {', '.join(sorted(known))}")
        values[key] = tuple(int(part, 0) for part in text.split("+")) if key == "targets" else yaml.safe_load(text)
    return replace(fault, **values)


def _suggestion(name: str) -> str:
    near = difflib.get_close_matches(name, FAULTS, n=1)
    return f"did you mean {near[0]}?" if near else "see 'cvmig list faults'"
