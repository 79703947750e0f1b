"""Cases about the map of private and shared pages."""

from __future__ import annotations

from typing import Any

from harness.cases.case import case
from harness.cases.circumstances import Circumstance, ProtectedCaseSettings
from harness.cases.protected_move import protected_move
from harness.cases.protection_settings import ConversionShape
from harness.cases.stage import Stage
from harness.model.guest import Workload

BACKEND = "soft-csv2"
_MOVE: dict[str, Any] = {"vcpus": 2, "below_4g_mib": 48, "workload": Workload.RANDOM}
"""Memory on both sides of a hole, so that a gpa is no RAM offset."""


@case(
    "pagemap/precopy",
    summary="a guest converts memory while it is moved; guest, host, wire and destination must agree on every page",
    settings=ProtectedCaseSettings,
    backend=BACKEND,
    **_MOVE,
    protection={"conversions_per_tick": 2},
)
async def precopy(stage: Stage, settings: ProtectedCaseSettings) -> None:
    """Conversions of all shapes, one move."""
    await protected_move(stage, settings)


@case(
    "pagemap/conversion-storm",
    summary="four vCPUs convert memory as fast as they can while the guest is moved",
    settings=ProtectedCaseSettings,
    backend=BACKEND,
    **{**_MOVE, "vcpus": 4},
    protection={"conversions_per_tick": 50},
)
async def conversion_storm(stage: Stage, settings: ProtectedCaseSettings) -> None:
    """As pagemap/precopy, without a pause."""
    await protected_move(stage, settings)


@case(
    "pagemap/ping-pong",
    summary="the map is right after every hop of a guest that goes there and back again",
    settings=ProtectedCaseSettings,
    backend=BACKEND,
    **_MOVE,
    hops=4,
    deadline_s=180.0,
    protection={"conversions_per_tick": 2},
)
async def ping_pong(stage: Stage, settings: ProtectedCaseSettings) -> None:
    """The destination of one hop is the source of the next."""
    await protected_move(stage, settings)


@case(
    "pagemap/unaligned",
    summary="only ranges that begin and end amid a page are converted: each page of them counts",
    settings=ProtectedCaseSettings,
    backend=BACKEND,
    **_MOVE,
    protection={"conversions_per_tick": 5, "shapes": (ConversionShape.ODD,)},
)
async def unaligned(stage: Stage, settings: ProtectedCaseSettings) -> None:
    """As pagemap/precopy, with odd ranges."""
    await protected_move(stage, settings)


@case(
    "pagemap/kexec",
    summary="a new kernel enters without a reset: nothing of the old one's map may stay, then the guest is moved",
    settings=ProtectedCaseSettings,
    backend=BACKEND,
    **_MOVE,
    circumstances=(Circumstance.KEXEC,),
    protection={"conversions_per_tick": 2},
)
async def kexec(stage: Stage, settings: ProtectedCaseSettings) -> None:
    """Kexec, then as pagemap/precopy."""
    await protected_move(stage, settings)


@case(
    "pagemap/reset",
    summary="the machine is reset: the map is that of a fresh boot, then the guest is moved",
    settings=ProtectedCaseSettings,
    backend=BACKEND,
    **_MOVE,
    circumstances=(Circumstance.RESET,),
    protection={"conversions_per_tick": 2},
)
async def reset(stage: Stage, settings: ProtectedCaseSettings) -> None:
    """Reset, then as pagemap/precopy."""
    await protected_move(stage, settings)
