"""Probes of a host against trees of files that stand in for /proc, /sys and /dev."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest

from harness.hosts import machine_probe
from harness.hosts.busy import busy_words
from harness.hosts.capability import Capability
from harness.hosts.confidential_probe import probe_confidential
from harness.hosts.gic_probe import probe_gicv4_1
from harness.hosts.kvm_probe import probe_kvm
from harness.hosts.local import LocalHost
from harness.hosts.machine_probe import find_emulators, probe_emulators, probe_huge_pages, probe_memory


def tree(root: Path, **files: str) -> Path:
    """Names with ``__`` for ``/``."""
    for name, content in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def cpu(vendor: str, flags: str = "") -> str:
    return f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: fpu {flags}\n\nprocessor\t: 1\nvendor_id\t: other\n"


def confidential(root: Path) -> dict[str, Capability]:
    return {capability.name: capability for capability in probe_confidential(root)}


def test_an_empty_root_raises_nothing_and_has_nothing(tmp_path: Path) -> None:
    capabilities = asyncio.run(LocalHost(root=tmp_path, checkout=tmp_path).capabilities())
    absent = {capability.name for capability in capabilities if not capability.present}
    assert {"memory", "kvm", "sev", "sev-es", "sev-snp", "csv", "csv2", "csv3", "tdx", "gicv4.1"} <= absent
    assert all(capability.found for capability in capabilities)


def test_every_absence_says_what_is_needed(tmp_path: Path) -> None:
    for capability in asyncio.run(LocalHost(root=tmp_path).capabilities()):
        assert capability.present or capability.needed


@pytest.mark.parametrize("on", ["Y\n", "1\n"])
def test_sev_is_told_by_parameter_and_device(tmp_path: Path, on: str) -> None:
    root = tree(
        tmp_path,
        proc__cpuinfo=cpu("AuthenticAMD", "sev sev_es"),
        sys__module__kvm_amd__parameters__sev=on,
        sys__module__kvm_amd__parameters__sev_es="N\n",
    )
    assert confidential(root)["sev"].found == "no /dev/sev"
    tree(root, dev__sev="")
    found = confidential(root)
    assert found["sev"].present
    assert found["sev-es"].found == "kvm_amd.sev_es is off"
    assert "sev_es=1" in found["sev-es"].remedy
    assert "does not list sev_snp" in found["sev-snp"].found
    assert found["csv"].found == "processor is AuthenticAMD"


def test_hygon_has_csv_and_not_sev(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        proc__cpuinfo=cpu("HygonGenuine"),
        sys__module__kvm_amd__parameters__sev="1",
        sys__module__kvm_amd__parameters__sev_es="1",
        dev__sev="",
        proc__cmdline="quiet csv_mem_percentage=50",
    )
    found = confidential(root)
    assert {name for name, capability in found.items() if capability.present} == {"csv", "csv2", "csv3"}


def test_tdx_wants_the_parameter(tmp_path: Path) -> None:
    root = tree(tmp_path, proc__cpuinfo=cpu("GenuineIntel"))
    assert "not loaded" in confidential(root)["tdx"].found
    tree(root, sys__module__kvm_intel__parameters__tdx="N")
    assert confidential(root)["tdx"].found == "kvm_intel.tdx is off"
    tree(root, sys__module__kvm_intel__parameters__tdx="Y")
    assert confidential(root)["tdx"].present


def test_kvm_absent_names_the_modules(tmp_path: Path) -> None:
    kvm = probe_kvm(tree(tmp_path, sys__module__kvm__x="", sys__module__kvm_pvm__x=""))
    assert not kvm.present
    assert kvm.found == "no /dev/kvm; module kvm_pvm"


@pytest.mark.parametrize(
    ("number", "remedy"), [(errno.EACCES, "group"), (errno.EBUSY, "another hypervisor"), (errno.ENXIO, "kernel's log")]
)
def test_kvm_that_does_not_open_says_why(tmp_path: Path, number: int, remedy: str) -> None:
    def refuse(_: Path) -> int:
        raise OSError(number, os.strerror(number))

    kvm = probe_kvm(tree(tmp_path, dev__kvm=""), ask=refuse)
    assert not kvm.present
    assert os.strerror(number) in kvm.found
    assert remedy in kvm.remedy


def test_kvm_answers_with_the_one_version(tmp_path: Path) -> None:
    root = tree(tmp_path, dev__kvm="", sys__module__kvm_intel__parameters__nested="Y")
    assert probe_kvm(root, ask=lambda _: 12).found == "/dev/kvm opens, API version 12; module kvm_intel"
    assert not probe_kvm(root, ask=lambda _: 11).present


def test_a_plain_file_is_no_kvm_for_ioctl(tmp_path: Path) -> None:
    assert not probe_kvm(tree(tmp_path, dev__kvm="")).present


@pytest.mark.parametrize(
    ("text", "present"), [("MemAvailable:  2097152 kB\n", True), ("MemAvailable: 10240 kB\n", False)]
)
def test_memory_counts_what_is_available(tmp_path: Path, text: str, present: bool) -> None:
    assert probe_memory(tree(tmp_path, proc__meminfo=f"MemTotal: 9 kB\n{text}")).present is present


@pytest.mark.parametrize(
    ("setting", "may_mount", "present"),
    [
        ("advise", False, True),
        ("never", False, False),
        ("never", True, True),
        ("deny", True, False),
    ],
)
def test_huge_pages_come_from_a_tmpfs_of_our_own_or_for_who_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, may_mount: bool, present: bool
) -> None:
    def open_file() -> int:
        if not may_mount:
            raise PermissionError
        return os.memfd_create("cvmig-test")

    monkeypatch.setattr(machine_probe, "open_huge_file", open_file)
    words = "always within_size advise never deny force".replace(setting, f"[{setting}]")
    root = tree(tmp_path, sys__kernel__mm__transparent_hugepage__shmem_enabled=words)
    found = probe_huge_pages(root)
    assert found.present is present
    assert bool(found.remedy) is not present
    assert not probe_huge_pages(tmp_path / "nothing").present


def test_emulators_beside_the_checkout_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not any(capability.present for capability in probe_emulators(tmp_path))
    beside = tmp_path / ".cache/qemu-10.0/bin/qemu-system-x86_64"
    beside.parent.mkdir(parents=True)
    beside.write_text("#!/bin/sh\n")
    assert find_emulators("x86_64", tmp_path) == ()
    beside.chmod(0o755)
    assert find_emulators("x86_64", tmp_path) == (beside,)


def test_gicv4_1_is_for_arm(tmp_path: Path) -> None:
    assert probe_gicv4_1(tmp_path, "x86_64").found == "this is x86_64"
    assert "boot with" in probe_gicv4_1(tmp_path, "aarch64").remedy
    asked = tree(tmp_path, proc__cmdline="kvm-arm.vgic_v4_enable=1")
    assert "kernel's log" in probe_gicv4_1(asked, "aarch64").remedy


@pytest.mark.parametrize(("load", "processors", "words"), [(6.0, 2, ""), (27.2, 2, "load 27 on 2"), (27.2, 16, "")])
def test_a_busy_host_is_told(load: float, processors: int, words: str) -> None:
    assert (words in busy_words(load, processors)) is True
    assert bool(busy_words(load, processors)) is bool(words)
