"""Cases about guest memory."""

from __future__ import annotations

import asyncio

from harness.cases.case import case
from harness.cases.hop import move, start_destination
from harness.cases.load import fill_and_load, verify
from harness.cases.settings import MigrationCaseSettings
from harness.cases.stage import Stage


@case(
    "memory/precopy",
    summary="a guest that dirties its memory at full speed is migrated live; every page is judged twice",
    settings=MigrationCaseSettings,
)
async def precopy(stage: Stage, settings: MigrationCaseSettings) -> None:
    """Boot both sides, fill, dirty, migrate, verify."""
    guest, destination = await asyncio.gather(stage.boot(), start_destination(stage, 0))
    await fill_and_load(stage, guest, settings)
    guest = await move(stage, guest, settings, destination=destination)
    await verify(stage, guest)
