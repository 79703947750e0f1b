"""Cases about the state of devices."""

from __future__ import annotations

from harness.cases.case import case
from harness.cases.hop import move, start_destination
from harness.cases.load import fill_and_load, verify
from harness.cases.settings import MigrationCaseSettings
from harness.cases.stage import Stage


@case(
    "state/round-trip",
    summary="the destination is saved again before it runs; every field of every device equals what was sent",
    settings=MigrationCaseSettings,
)
async def round_trip(stage: Stage, settings: MigrationCaseSettings) -> None:
    """Move through the relay, which keeps what the source sent; the move itself compares."""
    guest, destination = await stage.boot_pair(start_destination(stage, 0))
    await fill_and_load(stage, guest, settings)
    guest = await move(stage, guest, settings, destination=destination)
    await verify(stage, guest)
