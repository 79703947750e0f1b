"""What all cases about protection play: boot, what happens on the way, moves, and what the guest says at the end."""

from __future__ import annotations

from dataclasses import replace

from harness.cases.attempt import cancelled_attempt
from harness.cases.circumstances import Circumstance, ProtectedCaseSettings
from harness.cases.hop import move, start_destination
from harness.cases.judge_protection import cvm_page_of, maps_after
from harness.cases.load import fill_and_load, stop_work, verify
from harness.cases.protection_settings import ConversionShape
from harness.cases.shield import Shield
from harness.cases.stage import Guest, Stage, read_clock
from harness.checks import guest_protection
from harness.checks.handshake import CHECK as HANDSHAKE
from harness.checks.handshake import check_boot
from harness.checks.page_map import RESET, check_after_reset
from harness.model.cvm_guest import Phase, Shapes
from harness.model.guest import HaltMode
from harness.model.memory import PAGE_SHIFT
from harness.model.page_map import PageMap
from harness.model.protection import GuestBoot

_SHAPES = {
    ConversionShape.SMALL: Shapes.PAGE,
    ConversionShape.LARGE: Shapes.LARGE,
    ConversionShape.ODD: Shapes.ODD,
}
_STALE_PAGES = 16
_LARGE_BYTES = 65 << 20
"""Just more than a host converts at once that answers RETRY."""


async def protected_move(stage: Stage, settings: ProtectedCaseSettings) -> Guest:
    """Play *settings* and return the guest where it is at the end. CaseOverError and errors as move()."""
    shield = shield_of(stage)
    guest, destination = await stage.boot_pair(start_destination(stage, settings, 0))
    number = 0
    if settings.holds_firmware:
        guest = await move(stage, guest, settings, number=0, destination=destination, is_last=False)
        guest = await enter_kernel(stage, guest)
        number, destination = 1, await start_destination(stage, settings, 1)
    judge_boot(stage, guest)
    fresh = shield.of(guest.vm).protection.snapshot().page_map
    await load_and_convert(stage, guest, settings)
    if settings.has(Circumstance.RESET):
        guest = await reset(stage, guest, settings, fresh)
    if settings.has(Circumstance.KEXEC):
        guest = await kexec(stage, guest, settings, fresh)
    if settings.has(Circumstance.OFFLINE):
        await offline_and_back(stage, guest)
    if settings.has(Circumstance.LARGE):
        await convert_much(stage, guest)
    if settings.has(Circumstance.CANCEL):
        for attempt, at in enumerate(settings.cancel_at):
            guest = await cancelled_attempt(stage, guest, settings, at, number=attempt)
    last = number + settings.hops
    for hop in range(number, last):
        if hop > number:
            destination = await start_destination(stage, settings, hop)
        guest = await move(stage, guest, settings, number=hop, destination=destination, is_last=hop == last - 1)
    await last_words(stage, guest)
    return guest


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


def judge_boot(stage: Stage, guest: Guest) -> None:
    """Whether the guest came as far as its kernel."""
    offers = shield_of(stage).settings.offers_migration
    entered = cvm_page_of(guest, guest.vm).phase is Phase.KERNEL
    stage.notebook.judge(HANDSHAKE, check_boot(GuestBoot(offers_migration=offers, entered_kernel=entered)))


async def enter_kernel(stage: Stage, guest: Guest) -> Guest:
    """Leave the firmware, and look at the guest anew: it has more vCPUs and less memory to itself now."""
    stage.step("enter kernel")
    await guest.confidential.enter_kernel(deadline=stage.deadline)
    return await _looked_at(stage, guest)


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
    return await _compared_with_fresh(stage, await _looked_at(stage, guest), settings, fresh, before, kexec=False)


async def kexec(stage: Stage, guest: Guest, settings: ProtectedCaseSettings, fresh: PageMap) -> Guest:
    """Start a new kernel without a reset, compare the map with a fresh boot's, and load again."""
    stage.step("kexec")
    await stop_work(stage, guest)
    before = shield_of(stage).of(guest.vm).protection.snapshot().page_map
    await guest.vm.guarded(
        guest.confidential.kexec(deadline=stage.deadline), stage.deadline, what="the new kernel to start"
    )
    return await _compared_with_fresh(stage, await _looked_at(stage, guest), settings, fresh, before, kexec=True)


async def _compared_with_fresh(
    stage: Stage, guest: Guest, settings: ProtectedCaseSettings, fresh: PageMap, before: PageMap, *, kexec: bool
) -> Guest:
    host = shield_of(stage).of(guest.vm)
    after = host.protection.snapshot().page_map
    found = check_after_reset(host.addresses, fresh=fresh, before=before, after=after, kexec=kexec)
    stage.notebook.judge(RESET, found)
    await load_and_convert(stage, guest, settings)
    return guest


async def offline_and_back(stage: Stage, guest: Guest) -> None:
    """Every vCPU but the first leaves the kernel and comes back; READY has to be said again."""
    stage.step("vCPUs offline and back")
    others = (1 << guest.description.vcpus) - 2
    await guest.confidential.offline(others, deadline=stage.deadline)
    await guest.confidential.online(others, deadline=stage.deadline)


async def convert_much(stage: Stage, guest: Guest) -> None:
    """One conversion of more than a host does at once that answers RETRY."""
    stage.step("convert 65 MiB")
    span = max(guest.description.managed, key=lambda item: item.size_bytes)
    size_bytes = min(_LARGE_BYTES, span.size_bytes)
    await guest.confidential.convert(span.start, size_bytes, private=False, deadline=stage.deadline)


async def last_words(stage: Stage, guest: Guest) -> None:
    """What the guest says at the end: its memory, its tables, its handler, and what conversions show."""
    await verify(stage, guest)
    shared = await guest.confidential.shared_ranges(deadline=stage.deadline)
    maps_after(stage, guest, list(shared))
    gpa = guest.description.page_gpa(guest.description.managed_pages // 2)
    pages = min(_STALE_PAGES, guest.description.managed_pages // 2)
    stale = await guest.confidential.stale(gpa, pages, deadline=stage.deadline)
    notebook = stage.notebook
    notebook.judge(guest_protection.BACKING, guest_protection.check_backing(stale_pages=stale, tried_pages=pages))
    if shield_of(stage).flavour.is_es:
        counters = cvm_page_of(guest, guest.vm).counters
        notebook.judge(guest_protection.VC, guest_protection.check_vc(counters))


async def _looked_at(stage: Stage, guest: Guest) -> Guest:
    """*guest* as it describes itself now."""
    description = await guest.probe.describe(deadline=stage.deadline)
    cvm = await guest.confidential.describe(deadline=stage.deadline)
    anchor = await read_clock(guest.probe, stage.deadline)
    return replace(guest, description=description, cvm_gpa=cvm.gpa, anchor=anchor)
