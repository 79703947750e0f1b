"""What the harness's device can do wrong around a move: raise too late, lose, or raise twice."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from harness.cases.faults import HostFault
from harness.cases.interrupts.device import MovingDevice
from harness.cases.interrupts.scenario import Scenario
from harness.cases.stage import Stage
from harness.model.interrupts import DOORBELL_IDS, Moment


async def raise_late(
    stage: Stage, scenario: Scenario, device: MovingDevice, round_trip: Callable[[], Awaitable[None]]
) -> None:
    """Tables saved, device still running: the fault that the stop protocol exists for.

    *round_trip* has the source's main loop go round; the fault waits until it has taken the interrupt in.
    """
    idle = [one for one in scenario.taken if one < DOORBELL_IDS]
    if idle and stage.strikes(HostFault.DEVICE_STOPS_LATE):
        device.raise_late(stage.seed.rng("late").choice(idle))
        while not device.bell.is_taken_in:
            await round_trip()


def err_on_load(stage: Stage, scenario: Scenario, device: MovingDevice) -> tuple[int, ...]:
    """What the device is to raise when the destination has loaded: less one that it loses. One more it raises twice."""
    rng = stage.seed.rng("device-faults")
    loaded = scenario.raised.get(Moment.LOADED, ())
    taken = [one for one in scenario.taken if one < DOORBELL_IDS]
    if taken and stage.strikes(HostFault.DEVICE_DOUBLES):
        device.raise_again(rng.choice(taken))
    if not loaded or not stage.strikes(HostFault.DEVICE_LOSES):
        return loaded
    lost = rng.choice(loaded)
    device.forget(lost)
    return tuple(one for one in loaded if one != lost)
