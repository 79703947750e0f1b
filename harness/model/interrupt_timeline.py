"""The interrupts of one move as the report draws them: made from the story, in the host's time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from harness.model.drawings import InterruptLane, InterruptTimeline, WitnessCell
from harness.model.interrupts import At, InterruptStory, Moment, Received, Sighting, Source

LANES = 48
MARKS = 400
"""Of one lane and kind; a storm has more than can be told apart."""


def timeline_of_story(
    story: InterruptStory, *, time_of: Callable[[Received], float], title: str = ""
) -> InterruptTimeline:
    """*time_of* gives the moment on the host's clock at which a record was written, as well as it can be known."""
    stopped, loaded, running = (story.moments.get(name, 0.0) for name in ("stopped", "loaded", "running"))
    lanes = [_lane(story, source, time_of, since_s=stopped) for source in story.sources]
    # What went wrong is shown first, then what was under way.
    lanes.sort(key=lambda lane: (not lane.is_wrong, not any(cell.held for cell in lane.cells)))
    return InterruptTimeline(
        title=title,
        lanes=tuple(lanes[:LANES]),
        lanes_left_out=max(0, len(lanes) - LANES),
        witnesses=tuple(sighting.witness for sighting in story.sightings),
        loaded_s=loaded - stopped,
        running_s=running - stopped,
        raised=len(story.raised),
        received=len(story.received),
    )


def _lane(
    story: InterruptStory, source: Source, time_of: Callable[[Received], float], *, since_s: float
) -> InterruptLane:
    raised = [one for one in story.raised if one.id == source.id]
    received = [record for record in story.received if record.id == source.id]
    due = 0 if source.is_periodic else len(raised) * source.deliveries
    got = Counter((record.id, record.number) for record in received)
    lost = sum(max(0, source.deliveries - got[one.id, one.number]) for one in raised) if due else 0
    return InterruptLane(
        label=source.label,
        before_s=_times([one.at_s - since_s for one in raised if one.moment is Moment.BEFORE]),
        between_s=_times([one.at_s - since_s for one in raised if one.moment in _BETWEEN]),
        after_s=_times([one.at_s - since_s for one in raised if one.moment is Moment.RUNNING]),
        taken_s=_times([time_of(record) - since_s for record in received if record.order <= story.order_at_stop]),
        delivered_s=_times([time_of(record) - since_s for record in received if record.order > story.order_at_stop]),
        cells=tuple(_cell(sighting, source) for sighting in story.sightings),
        is_queued=any(one.id == source.id for one in story.queued),
        lost=lost,
        doubled=max(0, len(received) - due) if due or not raised else 0,
        strays=sum(record.vcpu != source.vcpu for record in received),
    )


_BETWEEN = {Moment.STOPPED, Moment.SAVED, Moment.LOADED}


def _cell(sighting: Sighting, source: Source) -> WitnessCell:
    mine = [one for one in sighting.held if one.id == source.id]
    elsewhere = sorted({one.vcpu for one in mine if one.vcpu != source.vcpu})
    places = {one.at for one in mine}
    # A vCPU that has nothing to do is asleep; that tells something only where nothing else is there.
    places -= {At.ASLEEP} if len(places) > 1 else set()
    words = [*(f"vCPU {vcpu}:" for vcpu in elsewhere), ", ".join(sorted(place.value for place in places))]
    return WitnessCell(held=" ".join(filter(None, words)))


def _times(times: Sequence[float]) -> tuple[float, ...]:
    step = -(-len(times) // MARKS) or 1
    return tuple(round(time, 6) for time in times[::step])
