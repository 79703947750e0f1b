"""Cases about the state of devices."""

from __future__ import annotations

from harness.cases.case import case
from harness.cases.memory_cases import precopy
from harness.cases.settings import MigrationCaseSettings
from harness.cases.stage import Stage


@case(
    "state/round-trip",
    summary="the destination is saved again before it runs; every field of every device equals what was sent",
    settings=MigrationCaseSettings,
)
async def round_trip(stage: Stage, settings: MigrationCaseSettings) -> None:
    """As memory/precopy, whose relay keeps what the source sent; the move itself compares."""
    await precopy(stage, settings)
