"""Page faults as pure functions over the versions of a page: what the source sent, what the destination shall get."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from harness.model.memory import LINE_SIZE, LINES_PER_PAGE, PAGE_SIZE
from harness.model.wire import TABLE_FAULTS, AppliedFault, TableBit
from harness.model.wire import WireFaultName as Name

ZEROS = bytes(PAGE_SIZE)


@dataclass(slots=True, kw_only=True)
class Target:
    """One page that a fault is after."""

    name: Name
    block: str
    ram_addr: int
    rng: random.Random
    bits: tuple[TableBit, ...] = ()
    """What a table fault makes of it."""
    partner: Target | None = None
    """The other page of a swap."""
    first: bytes = b""
    """What the source sent first."""
    latest: bytes = b""
    """What the source sent last."""
    delivered: bytes = b""
    """What the destination holds."""
    records: int = 0
    times: int = 0
    detail: str = ""
    place: int = field(init=False)
    """Bit, line or half, drawn once, so that each version is damaged at the same place."""

    def __post_init__(self) -> None:
        self.place = self.rng.randrange(PAGE_SIZE * 8)

    @property
    def line(self) -> int:
        """The 64-byte line that is hit."""
        return self.place % LINES_PER_PAGE

    def see(self, content: bytes) -> None:
        """The source sent *content*."""
        if not self.records:
            self.first = content
        self.records += 1
        self.latest = content

    def applied(self) -> AppliedFault:
        """What became of it."""
        truth = self.latest
        return AppliedFault(
            name=self.name,
            times=self.times,
            block=self.block,
            ram_addr=self.ram_addr,
            is_harmful=self.times > 0 and truth != self.delivered,
            detail=self.detail or f"{self.records} records seen",
        )


def _keep_first(target: Target) -> bytes | None:
    return target.latest if target.records == 1 else None


def _repeat_first(target: Target) -> bytes:
    return target.first


def _tear(target: Target) -> bytes:
    if target.records == 1:
        return target.latest
    half = PAGE_SIZE // 2
    if target.place % 2:
        return target.latest[:half] + target.first[half:]
    return target.first[:half] + target.latest[half:]


def _flip(target: Target) -> bytes:
    page = bytearray(target.latest)
    page[target.place // 8] ^= 1 << target.place % 8
    return bytes(page)


def _zero(_: Target) -> bytes:
    return ZEROS


def _lose_line(target: Target) -> bytes:
    page = target.latest
    starts = [(target.line + step) % LINES_PER_PAGE * LINE_SIZE for step in range(LINES_PER_PAGE)]
    # A line of zeros cannot be lost: take the next one that holds something.
    start = next((start for start in starts if any(page[start : start + LINE_SIZE])), starts[0])
    return page[:start] + bytes(LINE_SIZE) + page[start + LINE_SIZE :]


def _shift(target: Target) -> bytes:
    return target.latest[-LINE_SIZE:] + target.latest[:-LINE_SIZE]


def _random(target: Target) -> bytes:
    return random.Random(target.place).randbytes(len(target.latest))  # noqa: S311 - reproducible on purpose


def _set_bits(target: Target) -> bytes:
    page = bytearray(target.latest)
    for one in target.bits:
        mask = 1 << one.bit % 8
        page[one.bit // 8] = page[one.bit // 8] & ~mask | (mask if one.is_set else 0)
    return bytes(page)


def _as_it_is(target: Target) -> bytes:
    return target.latest


TRANSFORMS: Mapping[Name, Callable[[Target], bytes | None]] = MappingProxyType(
    {
        Name.DROP_PAGE: _keep_first,
        Name.STALE_PAGE: _repeat_first,
        Name.DUPLICATE_PAGE: _as_it_is,
        Name.TEAR_PAGE: _tear,
        Name.FLIP_BIT: _flip,
        Name.ZERO_PAGE: _zero,
        Name.LOST_LINE: _lose_line,
        Name.SHIFT_PAGE: _shift,
        Name.RANDOM_PAGE: _random,
        **dict.fromkeys(TABLE_FAULTS, _set_bits),
    },
)
"""What is delivered for the newest record of a target; None: nothing. Swap moves records instead of changing them."""


def deliver(target: Target) -> bytes | None:
    """What the destination shall get for the record that :meth:`Target.see` was just told of; keeps the books."""
    content = TRANSFORMS[target.name](target)
    if content != target.latest:
        target.times += 1
    if content is not None:
        target.delivered = content
    return content
