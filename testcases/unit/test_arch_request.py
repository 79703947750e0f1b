"""The architecture of the guest: as a word, in a request and back, in the words that run it again."""

from __future__ import annotations

import pytest

from harness.cases.ask import Words, requests_of
from harness.cases.plan_file import Entry
from harness.cases.request import Request, request_from_json
from harness.model.errors import UsageError
from harness.model.machine import Arch


def asked(**words: str | None) -> Request:
    (request,) = requests_of(["memory/precopy"], Words(seed="7", **words))  # type: ignore[arg-type]  # words are strings
    return request


def test_nobody_said_means_a_pc() -> None:
    request = asked()
    assert (request.arch, request.settings.machine) == (Arch.X86_64, "pc-q35-7.2")
    assert "--arch" not in request.options()


def test_arm_has_a_machine_of_its_own_that_settings_overrule() -> None:
    assert asked(arch="aarch64").settings.machine == "virt-7.2"
    (other,) = requests_of(["memory/precopy"], Words(arch="aarch64", sets=("machine=virt-10.0",)))
    assert other.settings.machine == "virt-10.0"


def test_a_request_keeps_it() -> None:
    request = asked(arch="aarch64")
    assert request.options()[:2] == ("--arch", "aarch64")
    assert request_from_json(request.as_json()) == request


def test_a_request_of_before_was_about_a_pc() -> None:
    data = asked().as_json()
    del data["arch"]
    assert request_from_json(data).arch is Arch.X86_64


def test_an_unknown_architecture_is_told_with_those_that_are_known() -> None:
    with pytest.raises(UsageError, match="bad --arch 'riscv64'") as caught:
        asked(arch="riscv64")
    assert "aarch64" in caught.value.hint


def test_software_protection_is_for_pcs() -> None:
    with pytest.raises(UsageError, match="x86_64 only"):
        asked(arch="aarch64", backend="soft-sev")


def test_a_plan_s_entry_may_name_it() -> None:
    assert Entry.model_validate({"case": "cpu/state", "arch": "aarch64"}).arch == "aarch64"
