"""What would run: settings and the command lines of both sides; nothing starts but the binaries' self-description.

Runs in a row that differ in their seed only are told once.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from harness.cases.binaries import find_binaries
from harness.cases.reboot_outcome import outcome_of
from harness.cases.reboot_settings import RebootSettings
from harness.cases.request import Request
from harness.cases.stage import Binaries, fitted, machine_of
from harness.model.deadline import Deadline
from harness.model.errors import HarnessError
from harness.model.seed import Seed
from harness.vm.commandline import command_line
from harness.vm.keeper import Keeper

_PROBE_S = 60.0


async def plan_lines(requests: Sequence[Request]) -> list[str]:
    """Lines for people about each of *requests*: what it does and with what, or why it cannot run here."""
    with Keeper() as keeper:
        return [
            line
            for _, alike in groupby(requests, key=lambda request: replace(request, seed=Seed(0)))
            for line in await _lines(tuple(alike), keeper)
        ]


async def _lines(alike: Sequence[Request], keeper: Keeper) -> list[str]:
    request, *more = alike
    settings = request.settings.model_dump(mode="json")
    others = f", and {len(more)} more times, each with its own" if more else ""
    lines = [
        f"{request.case.id}: {request.case.summary}",
        f"  seed      {request.seed}{others}",
        f"  settings  {' '.join(f'{name}={value}' for name, value in settings.items())}",
        *(f"  fault     {fault}" for fault in request.faults),
    ]
    try:
        return [*lines, *await _sides(request, keeper)]
    except HarnessError as trouble:
        return [*lines, f"  cannot run: {trouble}" + (f" ({trouble.hint})" if trouble.hint else "")]


async def _sides(request: Request, keeper: Keeper) -> list[str]:
    binaries = await find_binaries(request, keeper=keeper, deadline=Deadline.after(_PROBE_S))
    spec = machine_of(request, binaries)
    sides = (("src", binaries.source, False), ("dst", binaries.destination, True))
    return [
        f"  accel     {binaries.accel}: {binaries.accel_reason}",
        *_expected(request, binaries),
        *(
            f"  {role}       QEMU {features.version}: "
            + shlex.join(
                command_line(
                    fitted(spec, features, request), features, name=keeper.vm_name("plan", role), incoming=incoming
                )
            )
            for role, features, incoming in sides
        ),
    ]


def _expected(request: Request, binaries: Binaries) -> list[str]:
    """How a reboot must end, for a case that reboots its guest: as the table of outcomes says."""
    settings = request.settings
    if not isinstance(settings, RebootSettings):
        return []
    sides = (("never migrated", binaries.source, False), ("came in", binaries.destination, True))
    return [
        f"  expected  a reboot of a guest that {'was ' if not arrived else ''}{when} under QEMU {features.version}: "
        f"{outcome_of(request.backend, settings.protection, has_arrived=arrived, qemu=features.major_minor)}"
        for when, features, arrived in sides
    ]
