"""What all cases about protection play: boot, what happens on the way, moves, and what the guest says at the end."""

from __future__ import annotations

import asyncio

from harness.cases.attempt import cancelled_attempt
from harness.cases.circumstances import Circumstance, ProtectedCaseSettings
from harness.cases.hop import move, start_destination
from harness.cases.load import fill_and_load, stop_work, verify
from harness.cases.map_witness import cvm_page_of, maps_after
from harness.cases.protection_settings import ConversionShape, ProtectionSettings
from harness.cases.shield import Shield
from harness.cases.stage import Guest, Stage
from harness.checks import guest_protection
from harness.checks.handshake import CHECK as HANDSHAKE
from harness.checks.handshake import check_boot
from harness.checks.page_map import RESET, VIEWS, check_after_reset, check_views
from harness.model.cvm_guest import ConversionStatus, Phase, Shapes
from harness.model.errors import PreconditionError
from harness.model.guest import HaltMode, Workload
from harness.model.map_strip import map_strip
from harness.model.memory import PAGE_SHIFT, PAGE_SIZE
from harness.model.page_map import PageMap
from harness.model.protection import GuestBoot, ProtectionCounters

_SHAPES = {
    ConversionShape.SMALL: Shapes.PAGE,
    ConversionShape.LARGE: Shapes.LARGE,
    ConversionShape.ODD: Shapes.ODD,
}
_STALE_PAGES = 16
_POLL_S = 0.002
_READS = 8
_LARGE_BYTES = 65 << 20
"""Just more than a host converts at once that answers RETRY."""


async def protected_move(stage: Stage, settings: ProtectedCaseSettings) -> Guest:
    """Play *settings* and return the guest where it is at the end. CaseOverError and errors as move()."""
    shield = shield_of(stage)
    guest, destination = await stage.boot_pair(start_destination(stage, settings, 0))
    number = 0
    if settings.holds_firmware:
        idle = settings.model_copy(update={"workload": Workload.IDLE, "passes": 1, "protection": _still(settings)})
        guest = await move(stage, guest, idle, number=0, destination=destination, is_last=False)
        guest = await enter_kernel(stage, guest)
        number, destination = 1, await start_destination(stage, settings, 1)
    judge_boot(stage, guest)
    fresh = shield.of(guest.vm).protection.snapshot().page_map
    guest = await _on_the_way(stage, guest, settings, fresh)
    last = number + settings.hops
    for hop in range(number, last):
        if hop > number:
            destination = await start_destination(stage, settings, hop)
        left, is_last = guest.vm, hop == last - 1
        guest = await move(stage, guest, settings, number=hop, destination=destination, is_last=is_last)
        if not is_last:
            stage.retire(left)
    if settings.has(Circumstance.OFFLINE):
        await bring_online(stage, guest)
    await last_words(stage, guest)
    return guest


async def _on_the_way(stage: Stage, guest: Guest, settings: ProtectedCaseSettings, fresh: PageMap) -> Guest:
    """Load the guest, and let happen what is to happen before it moves for good. *fresh* is the map of its boot."""
    await load_and_convert(stage, guest, settings)
    if settings.has(Circumstance.RESET):
        guest = await reset(stage, guest, settings, fresh)
    if settings.has(Circumstance.KEXEC):
        guest = await kexec(stage, guest, settings, fresh)
    if settings.has(Circumstance.OFFLINE):
        await take_offline(stage, guest)
    if settings.has(Circumstance.NEIGHBOURS):
        await convert_neighbours(stage, guest)
    if settings.has(Circumstance.LARGE):
        await convert_much(stage, guest)
    if settings.has(Circumstance.CANCEL):
        for attempt, at in enumerate(settings.cancel_at):
            guest = await cancelled_attempt(stage, guest, settings, at, number=attempt)
    return guest


def _still(settings: ProtectedCaseSettings) -> ProtectionSettings:
    """Firmware converts nothing of its own accord."""
    return settings.protection.model_copy(update={"conversions_per_tick": 0})


def shield_of(stage: Stage) -> Shield:
    """The software platform, which every request for these cases has."""
    assert stage.shield
    return stage.shield


async def load_and_convert(stage: Stage, guest: Guest, settings: ProtectedCaseSettings) -> None:
    """Fill memory, start the workload, and begin to convert beside it."""
    await fill_and_load(stage, guest, settings)
    protection = settings.protection
    if not protection.conversions_per_tick:
        return
    if nth := protection.refuses_conversion:
        shield_of(stage).of(guest.vm).protection.refuse_conversion(nth)
    shapes = Shapes(0)
    for shape in protection.shapes:
        shapes |= _SHAPES[shape]
    await guest.confidential.start_conversions(
        seed=stage.seed.sub("conversions"),
        per_tick=protection.conversions_per_tick,
        shapes=shapes,
        window_pages=protection.window_mib << (20 - PAGE_SHIFT),
        deadline=stage.deadline,
    )
    await _converted(stage, guest)


def judge_boot(stage: Stage, guest: Guest) -> None:
    """Whether the guest came as far as its kernel."""
    offers = shield_of(stage).settings.offers_migration
    entered = cvm_page_of(guest, guest.vm).phase is Phase.KERNEL
    stage.notebook.judge(HANDSHAKE, check_boot(GuestBoot(offers_migration=offers, entered_kernel=entered)))


async def enter_kernel(stage: Stage, guest: Guest) -> Guest:
    """Leave the firmware, and look at the guest anew: it has more vCPUs and less memory to itself now."""
    stage.step("enter kernel")
    await guest.confidential.enter_kernel(deadline=stage.deadline)
    return await stage.looked_at(guest)


async def _converted(stage: Stage, guest: Guest, at_least: int = 24) -> None:
    """Wait until the guest has shared some memory: a map without ranges proves nothing."""
    if not shield_of(stage).settings.conversions_per_tick:
        return
    while _tried(cvm_page_of(guest, guest.vm).counters) < at_least:
        if stage.deadline.has_passed or not guest.vm.is_alive:
            raise PreconditionError("the guest converted nothing", hint="see its console")
        await asyncio.sleep(_POLL_S)


def _tried(counters: ProtectionCounters) -> int:
    """Conversions to shared; those that failed count, for the case is to go on and say so."""
    return counters.to_shared + counters.failed


async def reset(stage: Stage, guest: Guest, settings: ProtectedCaseSettings, fresh: PageMap) -> Guest:
    """Reboot, compare the map with a fresh boot's, and load again."""
    stage.step("reset")
    await stop_work(stage, guest)
    protection = shield_of(stage).of(guest.vm).protection
    before = protection.snapshot().page_map
    protection.reset()
    guest.probe.expect_reset()
    await guest.probe.halt(HaltMode.RESET, deadline=stage.deadline)
    await guest.vm.guarded(guest.probe.ready(deadline=stage.deadline), stage.deadline, what="the guest to boot again")
    # The kernel takes back what an earlier one shared, so only the list right behind the reset can tell.
    empty = PageMap.all_private(protection.addresses.pages)
    left = protection.snapshot().initial
    found = check_after_reset(protection.addresses, fresh=empty, before=before, after=left)
    stage.notebook.judge(RESET, found)
    return await _compared_with_fresh(stage, await stage.looked_at(guest), settings, fresh, before, kexec=False)


async def kexec(stage: Stage, guest: Guest, settings: ProtectedCaseSettings, fresh: PageMap) -> Guest:
    """Start a new kernel without a reset, compare the map with a fresh boot's, and load again."""
    stage.step("kexec")
    await stop_work(stage, guest)
    before = shield_of(stage).of(guest.vm).protection.snapshot().page_map
    await guest.vm.guarded(
        guest.confidential.kexec(deadline=stage.deadline), stage.deadline, what="the new kernel to start"
    )
    return await _compared_with_fresh(stage, await stage.looked_at(guest), settings, fresh, before, kexec=True)


async def _compared_with_fresh(
    stage: Stage, guest: Guest, settings: ProtectedCaseSettings, fresh: PageMap, before: PageMap, *, kexec: bool
) -> Guest:
    host = shield_of(stage).of(guest.vm)
    after = host.protection.snapshot().page_map
    found = check_after_reset(host.addresses, fresh=fresh, before=before, after=after, kexec=kexec)
    stage.notebook.judge(RESET, found)
    await load_and_convert(stage, guest, settings)
    return guest


async def take_offline(stage: Stage, guest: Guest) -> None:
    """The last vCPU leaves the kernel: it is moved while it waits."""
    stage.step("a vCPU goes offline")
    await guest.confidential.offline(_last_vcpu(guest), deadline=stage.deadline)


async def bring_online(stage: Stage, guest: Guest) -> None:
    """It comes back where the guest runs now, and every vCPU does its errands once more."""
    stage.step("the vCPU comes back")
    await guest.confidential.online(_last_vcpu(guest), deadline=stage.deadline)
    errands = await guest.confidential.errands(deadline=stage.deadline)
    found = guest_protection.check_errands(errands, vcpus=guest.description.vcpus, reads=_READS)
    if shield_of(stage).flavour.is_es:
        stage.notebook.judge(guest_protection.ERRANDS, found)


def _last_vcpu(guest: Guest) -> int:
    return 1 << (guest.description.vcpus - 1)


async def convert_neighbours(stage: Stage, guest: Guest) -> None:
    """Two ranges that touch, the upper first; then two apart, of which the lower is taken back."""
    stage.step("convert neighbours")
    first = guest.description.managed_pages // 2
    for page, private in ((1, False), (0, False), (6, False), (4, False), (4, True)):
        gpa = guest.description.page_gpa(first + page)
        reply = await guest.confidential.convert(gpa, PAGE_SIZE, private=private, deadline=stage.deadline)
        if reply.status is not ConversionStatus.DONE:
            raise PreconditionError(f"a conversion ended {reply.status.name}")


async def convert_much(stage: Stage, guest: Guest) -> None:
    """One conversion of more than a host does at once that answers RETRY."""
    stage.step("convert 65 MiB")
    span = max(guest.description.managed, key=lambda item: item.size_bytes)
    size_bytes = min(_LARGE_BYTES, span.size_bytes)
    reply = await guest.confidential.convert(span.start, size_bytes, private=False, deadline=stage.deadline)
    if reply.status is not ConversionStatus.DONE:
        raise PreconditionError(f"a conversion of {size_bytes} bytes ended {reply.status.name}")


async def last_words(stage: Stage, guest: Guest) -> None:
    """What the guest says at the end: its memory, its tables, its handler, and what conversions show."""
    await verify(stage, guest)
    shared = await guest.confidential.shared_ranges(deadline=stage.deadline)
    evidence = maps_after(shield_of(stage).of(guest.vm), list(shared))
    stage.notebook.judge(VIEWS, check_views(evidence))
    stage.notebook.map_strips.append(map_strip(evidence, title="at the end"))
    gpa = guest.description.page_gpa(guest.description.managed_pages // 2)
    pages = min(_STALE_PAGES, guest.description.managed_pages // 2)
    stale = await guest.confidential.stale(gpa, pages, deadline=stage.deadline)
    notebook = stage.notebook
    notebook.judge(guest_protection.BACKING, guest_protection.check_backing(stale_pages=stale, tried_pages=pages))
    if shield_of(stage).flavour.is_es:
        counters = cvm_page_of(guest, guest.vm).counters
        notebook.judge(guest_protection.VC, guest_protection.check_vc(counters))
