"""Cases about what protects a guest beside its page map: vCPU state, sessions, policy, firmware."""

from __future__ import annotations

from typing import Any

from harness.cases.case import case
from harness.cases.circumstances import Circumstance, ProtectedCaseSettings
from harness.cases.hop import move, start_destination, start_listening
from harness.cases.load import fill_and_load, verify
from harness.cases.map_witness import cvm_page_of
from harness.cases.protected_move import protected_move, shield_of
from harness.cases.stage import Guest, Stage
from harness.cases.witness import beats_of, beats_on, run_state
from harness.checks import guest_protection, session
from harness.checks.ends import check_stayed_alive
from harness.checks.protection_preconditions import check_full_window
from harness.migration.settings import CancelAt
from harness.model.errors import BlockedError
from harness.model.evidence import StayedAlive
from harness.model.guest import Workload
from harness.model.verdict import Finding

BACKEND = "soft-csv2"
_MOVE: dict[str, Any] = {"vcpus": 2, "below_4g_mib": 48, "workload": Workload.RANDOM}
_READS = 200
"""MMIO reads of each vCPU around a move: enough to run into many timer interrupts."""


@case(
    "cvm/vmsa-ghcb",
    summary="encrypted registers, GHCB and what KVM tracks travel for every vCPU, also one that is offline meanwhile",
    settings=ProtectedCaseSettings,
    backend=BACKEND,
    **{**_MOVE, "vcpus": 4},
    circumstances=(Circumstance.OFFLINE,),
    protection={"conversions_per_tick": 2, "heeds_blocker": False},
)
async def vmsa_ghcb(stage: Stage, settings: ProtectedCaseSettings) -> None:
    """Four vCPUs, one of them offline during the move.

    A vCPU that goes offline takes READY back, as in Linux (kvm_guest_cpu_offline): this host migrates all the same.
    """
    await protected_move(stage, settings)


@case(
    "cvm/ring-buffer",
    summary="pages are sealed and opened in full windows of the ring buffer, and none is lost at their edges",
    settings=ProtectedCaseSettings,
    backend=BACKEND,
    **_MOVE,
    protection={"pace": "amd", "conversions_per_tick": 1},
)
async def ring_buffer(stage: Stage, settings: ProtectedCaseSettings) -> None:
    """As pagemap/precopy with a processor that is slow with each command: only batches make it bearable."""
    await protected_move(stage, settings)
    for records in stage.notebook.wires:
        stage.notebook.judge("precondition", check_full_window(records, pages=_WINDOW_PAGES))


_WINDOW_PAGES = 64
"""A window ends with QEMU's section of RAM too, so how full it gets is the wire's affair."""


@case(
    "cvm/cancel-retry",
    summary="attempts are cancelled in every phase: SEND_CANCEL lets the source run on and try again",
    settings=ProtectedCaseSettings,
    backend=BACKEND,
    **_MOVE,
    circumstances=(Circumstance.CANCEL,),
    cancel_at=tuple(CancelAt),
    protection={"conversions_per_tick": 1},
)
async def cancel_retry(stage: Stage, settings: ProtectedCaseSettings) -> None:
    """Cancel once in each phase, then move for good."""
    await protected_move(stage, settings)


@case(
    "cvm/migrate-during-firmware",
    summary="a guest is moved while it is in its firmware, its other vCPUs not started, and boots on elsewhere",
    settings=ProtectedCaseSettings,
    backend=BACKEND,
    **_MOVE,
    circumstances=(Circumstance.FIRMWARE,),
    protection={"conversions_per_tick": 1, "heeds_blocker": False},
)
async def migrate_during_firmware(stage: Stage, settings: ProtectedCaseSettings) -> None:
    """The blocker is there, as it must be before READY; this host's operator migrates all the same."""
    await protected_move(stage, settings)


@case(
    "cvm/nested-vc",
    summary="the #VC handler runs with interrupts off and never within itself, under timer load, around a move",
    settings=ProtectedCaseSettings,
    backend=BACKEND,
    **_MOVE,
)
async def nested_vc(stage: Stage, settings: ProtectedCaseSettings) -> None:
    """Much MMIO on every vCPU while timers tick, on both sides of a move."""
    guest, destination = await stage.boot_pair(start_destination(stage, settings, 0))
    await fill_and_load(stage, guest, settings)
    await _much_mmio(stage, guest)
    guest = await move(stage, guest, settings, destination=destination)
    await _much_mmio(stage, guest)
    await verify(stage, guest)


async def _much_mmio(stage: Stage, guest: Guest) -> None:
    before = cvm_page_of(guest, guest.vm).counters
    errands = await guest.confidential.errands(reads=_READS, deadline=stage.deadline)
    during = cvm_page_of(guest, guest.vm).counters.since(before)
    judge = stage.notebook.judge
    vcpus = guest.description.vcpus
    judge(
        guest_protection.ERRANDS,
        guest_protection.check_errands(errands, vcpus=vcpus, reads=_READS, during=during),
    )
    judge(guest_protection.VC, guest_protection.check_vc(during))


FORBIDDEN: tuple[dict[str, Any], ...] = (
    {"policy": ("nosend",)},
    {"policy": ("domain",), "target_owner": "other"},
    {"policy": ("sev",), "target_vendor": "other"},
    {"minimum_api": "1.1", "target_api": "0.9"},
)
"""Policies, and destinations that they forbid."""
ALLOWED: tuple[dict[str, Any], ...] = (
    {"policy": ("domain", "sev", "nodbg", "noks")},
    {"policy": ("nodbg",), "target_owner": "other", "target_vendor": "other"},
    {"minimum_api": "1.1", "target_api": "1.1"},
)
"""Policies, and destinations that they allow."""


@case(
    "cvm/policy",
    summary="what a guest's policy forbids is refused and the guest runs on; what it allows is done",
    settings=ProtectedCaseSettings,
    backend=BACKEND,
    memory_mib=64,
    workload=Workload.IDLE,
    passes=1,
)
async def policy(stage: Stage, settings: ProtectedCaseSettings) -> None:
    """A guest for each policy."""
    shield = shield_of(stage)
    for number, words in enumerate((*FORBIDDEN, *ALLOWED)):
        shield.settings = type(shield.settings).model_validate({**settings.protection.model_dump(), **words})
        stage.step(f"policy {' '.join(f'{name}={value}' for name, value in words.items())}")
        guest = await stage.boot(f"src{number}")
        destination = await start_listening(stage, settings, f"dst{number}", features=stage.binaries.destination)
        if shield.settings.forbidden_by:
            await _refused(stage, guest, settings, destination, number)
        else:
            await move(stage, guest, settings, number=number, destination=destination)
            stage.retire(guest.vm)
            stage.retire(destination)


async def _refused(stage: Stage, guest: Guest, settings: ProtectedCaseSettings, destination: Any, number: int) -> None:
    """The move has to be refused, and the guest to run on where it is."""
    forbidden_by = shield_of(stage).settings.forbidden_by
    try:
        await move(stage, guest, settings, number=number, destination=destination)
    except BlockedError as refusal:
        stage.events.emit("src", "refused", reason=str(refusal))
    else:
        detail = f"it arrived, though its policy forbids it: {forbidden_by}"
        against = Finding(check=session.CHECK, kind="sent-against-policy", where="guest", detail=detail)
        stage.notebook.judge(session.CHECK, [against])
    before = beats_of(guest, guest.vm)
    after = await beats_on(stage, guest, guest.vm, before)
    alive = StayedAlive(run_state=await run_state(stage, guest.vm), before=before, after=after)
    stage.notebook.judge("migration/source-alive", check_stayed_alive(alive))
    stage.retire(guest.vm)
    stage.retire(destination)
