"""Changes fields of devices: the sections are held back until their description tells where the fields are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from harness.migration.relay.interrupt_edits import EDITS, edits_of
from harness.migration.stream.devices import decode_tail
from harness.migration.stream.elements import Tail
from harness.model.device_state import Device, DeviceField
from harness.model.errors import StreamError
from harness.model.seed import Seed
from harness.model.wire import AppliedFault, WireFault
from harness.model.wire import WireFaultName as Name

LATE_CONTROLLERS = ("ioapic", "arm_gicv3")
"""Sections of controllers that devices' lines go to, one of each architecture."""

DEVICE_FAULTS = frozenset({Name.CORRUPT_DEVICE, Name.IRQ_LATE_CONTROLLER, *EDITS})


class DeviceEditor:
    """All device faults of one stream."""

    def __init__(self, faults: Sequence[WireFault], seed: Seed) -> None:
        self._faults = tuple(fault for fault in faults if fault.name in DEVICE_FAULTS)
        self._seed = seed
        self._applied: list[AppliedFault] = []
        self._held = bytearray()

    @property
    def is_wanted(self) -> bool:
        """True when there is any device fault: the tail is to be held back then."""
        return bool(self._faults)

    @property
    def is_holding(self) -> bool:
        """True when device sections were taken and not given back."""
        return bool(self._held)

    def hold(self, data: memoryview) -> None:
        """Take a piece of the device sections."""
        self._held += data

    def release(self) -> bytes:
        """Everything held, unchanged: the description never came."""
        held = bytes(self._held)
        self._held.clear()
        return held

    def finish(self, tail: Tail) -> bytes:
        """Everything held, with the faults applied."""
        data = bytearray(self.release())
        for index, fault in enumerate(self._faults):
            self._applied.append(self._strike(fault)(fault, index, tail, data))
        return bytes(data)

    def applied(self) -> tuple[AppliedFault, ...]:
        """What each fault did."""
        if self._applied:
            return tuple(self._applied)
        detail = "no described device sections were sent"
        return tuple(AppliedFault(name=fault.name, times=0, detail=detail) for fault in self._faults)

    def _strike(self, fault: WireFault) -> Callable[[WireFault, int, Tail, bytearray], AppliedFault]:
        if fault.name == Name.IRQ_LATE_CONTROLLER:
            return self._move_controller
        return self._change_interrupts if fault.name in EDITS else self._corrupt

    def _move_controller(self, fault: WireFault, _index: int, tail: Tail, data: bytearray) -> AppliedFault:
        """The sections are of full kind and may come in any order; the description behind them is not read on load."""
        try:
            devices = decode_tail(tail).devices
        except StreamError as error:
            return AppliedFault(name=fault.name, times=0, detail=str(error))
        late = [device for device in devices if device.name in LATE_CONTROLLERS]
        if not late:
            return AppliedFault(name=fault.name, times=0, detail=f"no section of {', '.join(LATE_CONTROLLERS)}")
        start = late[0].offset - tail.offset
        section = data[start : start + late[0].size_bytes]
        end = devices[-1].offset + devices[-1].size_bytes - tail.offset
        data[start:end] = data[start + len(section) : end] + section
        return AppliedFault(name=fault.name, times=1, detail=late[0].label)

    def _change_interrupts(self, fault: WireFault, index: int, tail: Tail, data: bytearray) -> AppliedFault:
        try:
            candidates = edits_of(fault.name, decode_tail(tail))
        except StreamError as error:
            return AppliedFault(name=fault.name, times=0, detail=str(error))
        if not candidates:
            return AppliedFault(name=fault.name, times=0, detail="no interrupt that it could strike was under way")
        edit = self._seed.rng("wire", fault.name, index).choice(candidates)
        for write in edit.writes:
            at = write.device.offset - tail.offset + write.field.offset
            data[at : at + len(write.raw)] = write.raw
        return AppliedFault(name=fault.name, times=1, detail=edit.what)

    def _corrupt(self, fault: WireFault, index: int, tail: Tail, data: bytearray) -> AppliedFault:
        rng = self._seed.rng("wire", fault.name, index)
        try:
            candidates = _candidates(fault, tail)
        except StreamError as error:
            return AppliedFault(name=fault.name, times=0, detail=str(error))
        if not candidates:
            return AppliedFault(name=fault.name, times=0, detail=f"no field {fault.field} in any device {fault.device}")
        device, field = rng.choice(candidates)
        at = device.offset - tail.offset + field.offset + rng.randrange(field.size_bytes)
        data[at] ^= 1 << rng.randrange(8)
        return AppliedFault(name=fault.name, times=1, detail=f"{device.label} {field.path}")


def _candidates(fault: WireFault, tail: Tail) -> list[tuple[Device, DeviceField]]:
    return [
        (device, field)
        for device in decode_tail(tail).devices
        if fnmatchcase(device.label, fault.device)
        for field in device.fields
        if field.raw and fnmatchcase(field.path, fault.field)
    ]
