"""A page map as bytes: the SHARED_REGIONS_LIST of the AMD/Hygon series, and what it lacks.

That series (be32 throughout, guest frames, ends exclusive)::

    1 CONT  gfn_start  gfn_end        once per shared range
    2 END

A frame above 2**32 does not fit, and memory without a gpa cannot be named at all. Two records of our own say these; a
QEMU of the series refuses their tags instead of misreading them::

    0x101 WIDE      be64 gfn_start       be64 gfn_end          only for ranges that need it
    0x102 UNMAPPED  be64 ram_page_start  be64 ram_page_end     shared pages that are unplugged
"""

from __future__ import annotations

import struct

import numpy as np

from harness.model.address_map import AddressMap
from harness.model.errors import StreamError
from harness.model.page_map import PageMap
from harness.model.page_set import PageSet

CONT, END, WIDE, UNMAPPED = 1, 2, 0x101, 0x102
NARROW_LIMIT = 1 << 32

Bounds = np.ndarray[tuple[int, int], np.dtype[np.uint64]]
"""One row (start, end) per range."""

_NARROW = np.dtype([("tag", ">u4"), ("start", ">u4"), ("end", ">u4")])
_BROAD = np.dtype([("tag", ">u4"), ("start", ">u8"), ("end", ">u8")])
_TAG = struct.Struct(">I")


def serialise(page_map: PageMap, addresses: AddressMap) -> bytes:
    """*page_map* as a list of shared ranges, END included; merged and in ascending order."""
    hidden = (page_map.shared & addresses.unmapped).edges.reshape(-1, 2)
    return serialise_ranges(addresses.to_gfn(page_map.shared).edges.reshape(-1, 2), hidden)


def serialise_ranges(frames: Bounds, hidden: Bounds | None = None) -> bytes:
    """Ranges of guest frames as they are, merged or not, and of RAM pages that are unplugged; END included."""
    is_narrow = frames[:, 1] < NARROW_LIMIT
    return b"".join(
        (
            _records(_NARROW, CONT, frames[is_narrow]),
            _records(_BROAD, WIDE, frames[~is_narrow]),
            b"" if hidden is None else _records(_BROAD, UNMAPPED, hidden),
            _TAG.pack(END),
        )
    )


def parse(data: bytes, addresses: AddressMap) -> tuple[PageMap, int]:
    """The map that *data* begins with, and how many bytes it took. Frames without RAM behind them are left out.

    Raises StreamError for an unknown tag, a range that ends before it starts, RAM pages beyond the end, and a list
    that is cut short.
    """
    frames, hidden, length = parse_ranges(data)
    if hidden and int(hidden.edges[-1]) > addresses.pages:
        raise StreamError("shared RAM page beyond the end of RAM", offset=length)
    ram_pages, _ = addresses.to_ram(frames)
    return PageMap(total_pages=addresses.pages, shared=ram_pages | hidden), length


def parse_ranges(data: bytes) -> tuple[PageSet, PageSet, int]:
    """Shared gfns, shared unmapped RAM pages, and how many bytes the list took; errors as :func:`parse`."""
    found: dict[int, list[Bounds]] = {CONT: [], WIDE: [], UNMAPPED: []}
    offset = 0
    while (tag := _tag(data, offset)) != END:
        if tag not in found:
            raise StreamError(f"unknown tag {tag:#x} in a shared-regions list", offset=offset)
        bounds, length = _run(data, offset, tag)
        found[tag].append(bounds)
        offset += length
    frames = _union(found[CONT] + found[WIDE])
    return frames, _union(found[UNMAPPED]), offset + _TAG.size


def _records(layout: np.dtype[np.void], tag: int, bounds: Bounds) -> bytes:
    rows = np.empty(len(bounds), dtype=layout)
    rows["tag"], rows["start"], rows["end"] = tag, bounds[:, 0], bounds[:, 1]
    return rows.tobytes()


def _tag(data: bytes, offset: int) -> int:
    if offset + _TAG.size > len(data):
        raise StreamError("a shared-regions list is cut short", offset=offset)
    return int(_TAG.unpack_from(data, offset)[0])


def _run(data: bytes, offset: int, tag: int) -> tuple[Bounds, int]:
    """All records of the same *tag* from *offset* on: large lists are one run, so they are read as one array."""
    layout = _NARROW if tag == CONT else _BROAD
    count = (len(data) - offset) // layout.itemsize
    rows = np.frombuffer(data, dtype=layout, count=count, offset=offset)
    others = np.flatnonzero(rows["tag"] != tag)
    rows = rows[: others[0]] if len(others) else rows
    if not len(rows):
        raise StreamError("a shared-regions list is cut short", offset=offset)
    bounds = np.stack([rows["start"], rows["end"]], axis=1).astype(np.uint64)
    backward = np.flatnonzero(bounds[:, 1] < bounds[:, 0])
    if len(backward):
        at = offset + int(backward[0]) * layout.itemsize
        raise StreamError("a shared range ends before it starts", offset=at)
    return bounds, len(rows) * layout.itemsize


def _union(parts: list[Bounds]) -> PageSet:
    if not parts:
        return PageSet.empty()
    bounds = np.concatenate(parts)
    return PageSet.from_bounds(bounds[:, 0], bounds[:, 1])
