"""The page map of a protected guest as each witness tells it, and what its cvm page says of conversions under way."""

from __future__ import annotations

from harness.cases.shield import Shielded
from harness.cases.stage import Guest
from harness.guest.cvm_page import read_cvm_page
from harness.model.address_map import AddressMap
from harness.model.cvm_guest import ConversionStep, CvmGuest
from harness.model.live_page_map import replay
from harness.model.memory import PAGE_SHIFT, GpaRange
from harness.model.page_map import PageMap, Witness
from harness.model.page_map_views import MapEvidence, MapView
from harness.model.page_set import PageSet
from harness.model.protection import ProtectionSnapshot
from harness.vm.vm import Vm


def cvm_page_of(guest: Guest, vm: Vm) -> CvmGuest:
    """The cvm page of *guest* in the memory of *vm*, which need not run."""
    return read_cvm_page(vm.ram.view, guest.layout, guest.cvm_gpa)


def in_flight_pages(said: CvmGuest, addresses: AddressMap) -> PageSet:
    """RAM pages of a stopped guest on which its tables and its host may disagree, because it was converting them.

    Their content means nothing until they are written again. Where that has begun both agree, and every byte counts.
    """
    amid = [item.range for item in said.in_flight if item.step is not ConversionStep.REWRITING]
    return pages_of(addresses, amid)


def pages_of(addresses: AddressMap, ranges: list[GpaRange]) -> PageSet:
    """RAM pages behind gpa *ranges*."""
    gfns = PageSet.from_ranges((item.start >> PAGE_SHIFT, item.end >> PAGE_SHIFT) for item in ranges)
    return addresses.to_ram(gfns)[0]


def maps_at_stop(
    source: Shielded,
    destination: Shielded,
    *,
    sent: ProtectionSnapshot,
    held: ProtectionSnapshot,
    said: CvmGuest,
) -> MapEvidence:
    """Of a guest that stands still on both hosts; *said* is its cvm page on the source."""
    streamed, has_come = destination.protection.received_map()
    return MapEvidence(
        views=(
            *_host_views(source, sent),
            MapView(witness=Witness.STREAM, page_map=streamed, knows=has_come),
            MapView(witness=Witness.DESTINATION, page_map=held.page_map),
        ),
        addresses=source.addresses,
        initial=sent.initial,
        conversions=sent.conversions,
        in_flight=in_flight_pages(said, source.addresses),
    )


def maps_after(host: Shielded, shared: list[GpaRange]) -> MapEvidence:
    """Of a guest that runs on *host* and converts nothing: *shared* is what it says of its own tables."""
    now = host.protection.snapshot()
    walked = PageMap(total_pages=host.addresses.pages, shared=pages_of(host.addresses, shared))
    views = (MapView(witness=Witness.GUEST_TABLES, page_map=walked), *_host_views(host, now))
    return MapEvidence(views=views, addresses=host.addresses, initial=now.initial, conversions=now.conversions)


def _host_views(host: Shielded, now: ProtectionSnapshot) -> list[MapView]:
    told = replay(now.initial, now.conversions, host.addresses)
    views = [
        MapView(witness=Witness.HYPERCALLS, page_map=told),
        MapView(witness=Witness.HOST_LIST, page_map=now.page_map),
    ]
    if tables := host.protection.truth_map():
        known = tables.page_map.everything - tables.unknown
        views.insert(0, MapView(witness=Witness.HOST_WALK, page_map=tables.page_map, knows=known))
    return views
