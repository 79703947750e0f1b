"""Several witnesses' page maps side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from harness.model.address_map import AddressMap
from harness.model.page_map import Conversion, PageMap, Witness
from harness.model.page_set import Edges, PageSet, points_of

GUEST_SIDE = (Witness.GUEST_TABLES, Witness.HOST_WALK)
"""Both read the guest's page tables."""

_BEHIND = (*GUEST_SIDE, Witness.STREAM)
"""Who cannot be held to anything of a page that is being converted."""
_UNKNOWN = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class MapView:
    """What one witness says."""

    witness: Witness
    page_map: PageMap
    knows: PageSet | None = None
    """RAM pages of which it can speak; None for all."""

    @property
    def known(self) -> PageSet:
        """RAM pages of which it speaks."""
        return self.page_map.everything if self.knows is None else self.knows


@dataclass(frozen=True, slots=True, kw_only=True)
class MapEvidence:
    """All views of one moment (VM stopped), and what may explain why they differ."""

    views: tuple[MapView, ...]
    addresses: AddressMap
    initial: PageMap
    """Before the first of *conversions*."""
    conversions: tuple[Conversion, ...] = ()
    """The hypercall log, in order; raw registers."""
    earlier_hop: PageMap | None = None
    """The destination's map of an earlier hop, if it had one."""
    in_flight: PageSet = field(default_factory=PageSet.empty)
    """RAM pages that the guest was converting when it was stopped: its page tables and the hypercall change one after
    the other, so there its tables may be ahead of the host or behind it; and a page is written anew, and so sent as
    what it has become, only when both are done."""

    def settled_views(self) -> tuple[MapView, ...]:
        """The views, those of the guest's tables and of the stream without what is in flight."""
        if not self.in_flight:
            return self.views
        return tuple(
            replace(view, knows=view.known - self.in_flight) if view.witness in _BEHIND else view for view in self.views
        )

    def view(self, witness: Witness) -> MapView | None:
        """The view of *witness*, None when it was not heard."""
        return next((view for view in self.views if view.witness == witness), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """Pages of which the witnesses say different things, all in the same way."""

    pages: PageSet
    private: tuple[Witness, ...]
    """Who says private; who is in neither tuple does not know."""
    shared: tuple[Witness, ...]

    def pairs(self) -> set[tuple[Witness, bool]]:
        """Witness and whether it says private."""
        return {(witness, True) for witness in self.private} | {(witness, False) for witness in self.shared}


def disagreements(views: Sequence[MapView]) -> tuple[Disagreement, ...]:
    """All pages of which two *views* say different things, grouped by who says what; ascending by first page."""
    sets = _distinct([view.page_map.shared for view in views] + [view.known for view in views])
    points = points_of(*sets)
    opinions = _opinions(views, points)
    differ = (opinions == 0).any(axis=0) & (opinions == 1).any(axis=0)
    weights = (_UNKNOWN + 1) ** np.arange(len(views), dtype=np.int64)
    patterns = weights @ opinions
    groups = [np.flatnonzero(differ & (patterns == pattern)) for pattern in set(patterns[differ].tolist())]
    return tuple(
        Disagreement(
            pages=PageSet.from_bounds(points[group], points[group + 1]),
            private=tuple(view.witness for view, said in zip(views, opinions, strict=True) if said[group[0]] == 0),
            shared=tuple(view.witness for view, said in zip(views, opinions, strict=True) if said[group[0]] == 1),
        )
        for group in sorted(groups, key=lambda group: int(group[0]))
    )


def _opinions(views: Sequence[MapView], points: Edges) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Per view and run of pages that starts at a point: 0 private, 1 shared, 2 unknown.

    Most witnesses say the same, and the same map is looked up once.
    """
    shared = _distinct([view.page_map.shared for view in views])
    answers = [item.holds(points) for item in shared]
    opinions = np.empty((len(views), len(points)), dtype=np.int64)
    for row, view in zip(opinions, views, strict=True):
        is_known = points < view.page_map.total_pages if view.knows is None else view.knows.holds(points)
        row[:] = np.where(is_known, answers[shared.index(view.page_map.shared)], _UNKNOWN)
    return opinions


def _distinct(sets: Sequence[PageSet]) -> list[PageSet]:
    found: list[PageSet] = []
    for item in sets:
        if item not in found:
            found.append(item)
    return found
