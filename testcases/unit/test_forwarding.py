"""The order of the steps that move forwarded LPIs: each wrong one is found, the right one is silent."""

from __future__ import annotations

from harness.checks.forwarding import CHECK, check_forwarding
from harness.model.forwarding import Act, Done

RIGHT = (
    Act.VCPUS_PAUSED,
    Act.DEVICES_STOPPED,
    Act.ITS_FLUSHED,
    Act.PENDING_FLUSHED,
    Act.ITS_RESTORED,
    Act.PENDING_RESTORED,
    Act.FORWARDED,
    Act.FORWARDED,
    Act.RESUMED,
)


def found(*acts: Act) -> list[tuple[str, str]]:
    findings = check_forwarding([Done(act=act) for act in acts])
    assert {finding.check for finding in findings} <= {CHECK}
    return [(finding.kind, finding.where) for finding in findings]


def swapped(one: Act, other: Act) -> tuple[Act, ...]:
    other_way = {one: other, other: one}
    return tuple(other_way.get(act, act) for act in RIGHT)


def test_the_right_order_is_silent() -> None:
    assert found(*RIGHT) == []


def test_tables_before_the_devices_have_stopped() -> None:
    early = (Act.VCPUS_PAUSED, Act.ITS_FLUSHED, Act.PENDING_FLUSHED, Act.DEVICES_STOPPED, *RIGHT[4:])
    assert found(*early) == [("order", "ITS tables flushed"), ("order", "pending tables flushed")]


def test_pending_tables_before_those_of_the_its() -> None:
    assert found(*swapped(Act.ITS_FLUSHED, Act.PENDING_FLUSHED)) == [("order", "pending tables flushed")]


def test_devices_stop_before_the_vcpus() -> None:
    assert found(*swapped(Act.VCPUS_PAUSED, Act.DEVICES_STOPPED)) == [("order", "devices stopped")]


def test_forwarding_before_there_is_anything_to_forward() -> None:
    early = (*RIGHT[:4], Act.FORWARDED, Act.ITS_RESTORED, Act.PENDING_RESTORED, Act.FORWARDED, Act.RESUMED)
    assert found(*early) == [("order", "forwarding set"), ("order", "forwarding set")]


def test_a_guest_that_runs_before_forwarding_is_set() -> None:
    assert found(*RIGHT[:6], Act.RESUMED, Act.FORWARDED) == [("order", "vCPUs resumed")]


def test_a_step_that_is_left_out() -> None:
    assert found(*(act for act in RIGHT if act is not Act.PENDING_RESTORED)) == [
        ("order", "forwarding set"),
        ("order", "vCPUs resumed"),
    ]


def test_forwarding_that_is_unset_with_something_pending_drops_it() -> None:
    steps = [Done(act=act) for act in RIGHT]
    harmless = Done(act=Act.UNFORWARDED, intid=8200)
    dropping = Done(act=Act.UNFORWARDED, intid=8201, was_pending=True)
    again = [*steps[:-1], harmless, dropping, Done(act=Act.FORWARDED, intid=8201), steps[-1]]
    (finding,) = check_forwarding(again)
    assert (finding.kind, finding.where) == ("dropped", "INTID 0x2009")
