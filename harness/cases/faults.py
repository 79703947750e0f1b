"""Known bugs that can be switched on to prove that a check catches them: of wire, host, guest and software platform.

``NAME`` or ``NAME:key=value,...``, e.g. ``wire-corrupt-device:device=timer/0,field=cpu_ticks_offset``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import AfterValidator, TypeAdapter, ValidationError

from harness.migration.relay.faults import CATALOGUE
from harness.model.errors import UsageError
from harness.model.soft_fault import SOFT_FAULTS, SoftFault
from harness.model.wire import WireFault


class HostFault(StrEnum):
    """What a host, or the software that manages it, can do wrong around a migration."""

    RUN_SOURCE = "host-run-source"
    RESET_DESTINATION = "host-reset-destination"
    KEEP_DESTINATION_PAUSED = "host-keep-destination-paused"
    OTHER_MACHINE = "host-other-machine"
    KILL_SOURCE = "host-kill-source"
    KILL_DESTINATION = "host-kill-destination"
    STOP_SOURCE = "host-stop-source"
    IGNORE_CANCEL = "host-ignore-cancel"
    STALE_LINE = "host-line-falls-back"
    STALE_PAGE = "host-page-falls-back"
    BOOT_PAGE_LOST = "host-boot-page-lost"
    RESETS_NOTHING = "host-resets-nothing"
    RESETS_FIRST = "host-resets-first"
    RESETS_ANYWAY = "host-resets-anyway"
    STAYS_PAUSED = "host-stays-paused"
    MEASUREMENT_KEPT = "management-measurement-kept"
    DEVICE_LOSES = "irq-device-loses"
    DEVICE_DOUBLES = "irq-device-doubles"
    DEVICE_STOPS_LATE = "irq-device-stops-late"
    FORWARDING_LOST = "irq-forwarding-lost"
    TABLES_EARLY = "irq-tables-early"
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
    bug_class: str = ""
    """``B5``, as the field's bug reports are numbered; empty for what belongs to none."""
    needs_platform: bool = False
    """Only the software platform (a backend ``soft-*``) can play it."""


def _host(
    name: HostFault, owner: str, summary: str, caught_by: str, bug_class: str = "", *, needs_platform: bool = False
) -> Fault:
    return Fault(
        name=name.value,
        owner=owner,
        summary=summary,
        caught_by=caught_by,
        bug_class=bug_class,
        needs_platform=needs_platform,
    )


FAULTS: Mapping[str, Fault] = MappingProxyType(
    {
        fault.name: fault
        for fault in (
            *(
                Fault(
                    name=entry.name.value,
                    owner=entry.belongs_to,
                    summary=entry.does,
                    caught_by=entry.caught_as,
                    bug_class=entry.bug_class,
                )
                for entry in CATALOGUE.values()
            ),
            _host(
                HostFault.RUN_SOURCE,
                "management",
                "lets the source run again after the switch-over: two live instances",
                "migration/one-side-runs: source-runs",
                bug_class="B37",
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
                HostFault.STOP_SOURCE,
                "management",
                "stops the source after an attempt was cancelled",
                "migration/source-alive: source-stopped",
            ),
            _host(
                HostFault.IGNORE_CANCEL,
                "management",
                "lets an attempt that was to be cancelled go on to its end",
                "migration/cancel: not-cancelled",
            ),
            _host(
                HostFault.STALE_LINE,
                "KVM",
                "lets an older copy of one line of 64 bytes fall over memory while the guest is rebooted",
                "reboot/memory: line",
                bug_class="B22",
            ),
            _host(
                HostFault.STALE_PAGE,
                "KVM",
                "gives the rebooted guest an older copy of a whole page",
                "reboot/memory: page",
            ),
            _host(
                HostFault.BOOT_PAGE_LOST,
                "KVM",
                "loses the line in which a boot tells the next one what to expect",
                "reboot/memory: kept-lost",
                bug_class="B22",
            ),
            _host(
                HostFault.RESETS_NOTHING,
                "QEMU",
                "lets the guest boot anew and resets neither interrupt controllers nor anything else",
                "reboot/events: no-reset",
                bug_class="B43",
            ),
            _host(
                HostFault.RESETS_FIRST,
                "management",
                "resets the guest before it has come to reboot itself",
                "reboot/events: other-reason",
            ),
            _host(
                HostFault.RESETS_ANYWAY,
                "QEMU",
                "resets a guest that came in although its vCPUs cannot be reset",
                "reset/end: came-back",
                bug_class="B25",
            ),
            _host(
                HostFault.STAYS_PAUSED, "management", "leaves the guest paused that it has reset", "reset/end: hangs"
            ),
            _host(
                HostFault.MEASUREMENT_KEPT,
                "management",
                "attests a guest by what it read before a reset, on a host that renews (protection.renews=true)",
                "reset/measurement: stale",
                bug_class="B46",
                needs_platform=True,
            ),
            _host(
                HostFault.DEVICE_LOSES,
                "device",
                "forgets an interrupt that it was to raise when the machine goes on",
                "irq/exactly-once: lost",
            ),
            _host(
                HostFault.DEVICE_DOUBLES,
                "device",
                "raises an interrupt again at the destination that the source has taken",
                "irq/exactly-once: doubled",
            ),
            _host(
                HostFault.DEVICE_STOPS_LATE,
                "device",
                "raises one more interrupt after the state of the controllers was saved",
                "irq/exactly-once: lost; irq/handler-order: raised-after-save",
                bug_class="B41",
            ),
            _host(
                HostFault.FORWARDING_LOST,
                "KVM",
                "unsets and sets the forwarding of LPIs again on load (irq/vlpi-forwarding): pending state is dropped",
                "irq/forwarding: dropped; irq/exactly-once: lost",
                bug_class="B40",
            ),
            _host(
                HostFault.TABLES_EARLY,
                "KVM",
                "flushes pending tables before the devices have stopped (irq/vlpi-forwarding)",
                "irq/forwarding: order; irq/exactly-once: lost",
                bug_class="B41",
            ),
            _host(
                HostFault.CRASH_GUEST, "guest", "the guest crashes at the destination", "fail, in the guest's own words"
            ),
            _host(
                HostFault.HANG_GUEST, "guest", "the guest hangs with interrupts off at the destination", "fail: silence"
            ),
            *(
                Fault(
                    name=entry.name.value,
                    owner=entry.owner.value,
                    summary=entry.does,
                    caught_by=entry.caught_by,
                    bug_class=entry.bug_class,
                    needs_platform=True,
                )
                for entry in SOFT_FAULTS.values()
            ),
        )
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultPlan:
    """The faults of one case, by who applies them."""

    wire: tuple[WireFault, ...] = ()
    host: frozenset[HostFault] = frozenset()
    soft: frozenset[SoftFault] = frozenset()
    """Played by the software platform and its guest; they need a backend ``soft-*``."""


def plan_faults(words: Iterable[str]) -> FaultPlan:
    """Read ``--fault`` words. UsageError for a name or a parameter that is none."""
    wire: list[WireFault] = []
    host: set[HostFault] = set()
    soft: set[SoftFault] = set()
    for word in words:
        name, _, parameters = word.partition(":")
        if name not in FAULTS:
            raise UsageError(f"unknown fault {name!r}", hint=_suggestion(name))
        if name in _HOST_NAMES:
            host.add(HostFault(_bare(name, parameters)))
        elif name in _SOFT_NAMES:
            soft.add(SoftFault(_bare(name, parameters)))
        else:
            wire.append(_wire_fault(name, parameters))
    return FaultPlan(wire=tuple(wire), host=frozenset(host), soft=frozenset(soft))


_HOST_NAMES = frozenset(fault.value for fault in HostFault)
_SOFT_NAMES = frozenset(fault.value for fault in SoftFault)


def _bare(name: str, parameters: str) -> str:
    if parameters:
        raise UsageError(f"the fault {name} takes no parameters", hint=f"write --fault {name}")
    return name


def _wire_fault(name: str, parameters: str) -> WireFault:
    known = sorted({member.name for member in fields(WireFault)} - {"name", "bits"})
    values: dict[str, Any] = {"name": name}
    for word in filter(None, parameters.split(",")):
        key, equals, text = word.partition("=")
        if not equals or key not in known:
            raise UsageError(f"bad parameter {word!r} of the fault {name}", hint=f"known: {', '.join(known)}")
        values[key] = [_number(part) for part in text.split("+")] if key == "targets" else text
    try:
        return _WIRE_FAULT.validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or parameters
        what = first["msg"].removeprefix("Value error, ")
        raise UsageError(f"bad parameter {where} of the fault {name}: {what}", hint=f"write {name}:count=2") from None


def _number(text: str) -> int | str:
    """A number in decimal or hex; what is none stays, to be refused with the rest."""
    try:
        return int(text, 0)
    except ValueError:
        return text


def _within_bounds(fault: WireFault) -> WireFault:
    if fault.count < 1 or fault.bytes_per_s < 1 or not 0 <= (fault.at_fraction or 0) <= 1:
        raise ValueError("count and bytes_per_s are at least 1, at_fraction lies between 0 and 1")
    return fault


_WIRE_FAULT: TypeAdapter[WireFault] = TypeAdapter(Annotated[WireFault, AfterValidator(_within_bounds)])


def _suggestion(name: str) -> str:
    near = difflib.get_close_matches(name, FAULTS, n=1)
    return f"did you mean {near[0]}?" if near else "see 'cvmig list faults'"
