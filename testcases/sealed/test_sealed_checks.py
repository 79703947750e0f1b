"""The checks of the wire over what real moves put on it: silent when clean, and each planted fault is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.checks.wire_records import check_coverage, check_records
from harness.checks.wire_secrecy import check_secrecy
from harness.migration.sealed import sealer
from harness.migration.sealed.vcpu_state import strip
from harness.model.page_map import PageMap
from harness.model.protection import SealedRecords
from harness.model.soft_fault import SoftFault
from harness.model.verdict import Finding
from testcases.sealed.conftest import PAGES, SHARED, Hosts, moved
from testcases.sealed.hosts import KINDS
from testcases.vm.conftest import Lab

pytestmark = pytest.mark.vm

FINAL = PageMap(total_pages=PAGES, shared=SHARED)


def play(
    lab: Lab, qemu: Path, flavour: str, *faults: SoftFault, sends_list: bool = True
) -> tuple[SealedRecords, tuple[Finding, ...]]:
    """One move with windows that are filled several times, and what the checks say of it."""

    told: list[tuple[SealedRecords, tuple[Finding, ...]]] = []

    async def story() -> None:
        hosts = Hosts.of(KINDS[flavour])
        hosts.source.list_sent = b"" if sends_list else None
        async with moved(lab, qemu, hosts, vcpus=2, soft_faults=frozenset(faults)) as result:
            records = result.far.records()
            findings = (
                *check_records(records, sealed_pages=sum(hosts.source.commands)),
                *check_coverage(records, FINAL, hosts.source.addresses),
                *check_secrecy(records),
            )
            told.append((records, findings))

    lab.play(story())
    return told[0]


@pytest.mark.parametrize("flavour", list(KINDS))
def test_a_clean_move_is_no_finding(lab: Lab, qemu: Path, flavour: str) -> None:
    records, findings = play(lab, qemu, flavour)
    assert findings == ()
    assert records.order[-1] == "end"
    assert ("cpu" in records.order) == (set(records.vcpu_packets) == {0, 1}) == KINDS[flavour].is_es
    assert records.packet_pages == FINAL.private
    assert records.unended_batches == 0


FAULTS = {
    SoftFault.WINDOW_LOSES_EDGE: "private-without-packet",
    SoftFault.OTHER_TREES_FLAGS: "unknown-flag",
    SoftFault.PRIVATE_IN_CLEAR: "private-without-packet",
}


@pytest.mark.parametrize(("fault", "kind"), FAULTS.items(), ids=FAULTS)
def test_each_fault_of_the_records_is_named(lab: Lab, qemu: Path, fault: SoftFault, kind: str) -> None:
    _, findings = play(lab, qemu, "soft-csv2", fault)
    assert kind in {finding.kind for finding in findings if finding.check == "wire/records"}, findings


def test_a_list_that_is_not_sent_is_missed(lab: Lab, qemu: Path) -> None:
    _, findings = play(lab, qemu, "soft-csv2", sends_list=False)
    assert [(finding.check, finding.kind) for finding in findings] == [("wire/records", "list-count")]


def test_registers_that_stay_in_the_device_sections_are_seen(
    lab: Lab, qemu: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealer, "strip", lambda tail: (tail.data, strip(tail)[1]))
    _, findings = play(lab, qemu, "soft-csv2")
    assert [(finding.check, finding.kind) for finding in findings] == [("wire/secrecy", "clear-register")]
    assert "cpu/0 env." in findings[0].where
