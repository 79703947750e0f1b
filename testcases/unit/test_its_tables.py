"""Two ITSs that do not mean the same are told apart event by event."""

from __future__ import annotations

from harness.checks.its_tables import CHECK, check_translations
from harness.model.translation import Translation

ONE = Translation(0x80, 1, 8192, 0)
TWO = Translation(0x80, 2, 8203, 1)


def found(source: set[Translation], destination: set[Translation]) -> list[tuple[str, str]]:
    findings = check_translations(source, destination)
    assert {finding.check for finding in findings} <= {CHECK}
    return [(finding.kind, finding.where) for finding in findings]


def test_equal_tables_are_silent() -> None:
    assert found({ONE, TWO}, {TWO, ONE}) == []


def test_an_event_that_goes_elsewhere() -> None:
    (finding,) = check_translations({ONE, TWO}, {ONE, Translation(0x80, 2, 8203, 0)})
    assert (finding.kind, finding.where) == ("changed", "device 0x80 event 2")
    assert "vCPU 1 at the source, LPI 8203 of vCPU 0 at the destination" in finding.detail


def test_an_event_that_is_no_lpi_any_more_or_another_kind_of_one() -> None:
    assert found({ONE, TWO}, {ONE}) == [("lost", "device 0x80 event 2")]
    assert found({ONE}, {Translation(0x80, 1, 8192, 0, is_virtual=True)}) == [("changed", "device 0x80 event 1")]


def test_an_event_that_comes_from_nowhere() -> None:
    assert found({ONE}, {ONE, TWO}) == [("appeared", "device 0x80 event 2")]
