"""The command line is a pure function of the specification; golden files hold what it says, one word per line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.model.errors import UsageError
from harness.model.machine import Accel, Arch, MachineSpec
from harness.vm.commandline import command_line

GOLDEN = Path(__file__).parent / "golden"


@dataclass(frozen=True)
class Binary:
    path: str = "qemu-system-x86_64"
    has_sandbox: bool = True


ARM = Binary(path="qemu-system-aarch64")
SPECS = {
    "virt-7.2-source": (
        MachineSpec(machine="virt-7.2", arch=Arch.AARCH64, vcpus=2, trim_kib=64, kernel="probe.elf"),
        ARM,
        False,
    ),
    "virt-10.0-gicv4-destination": (
        MachineSpec(machine="virt-10.0", arch=Arch.AARCH64, cpu="max", gic_version=4, has_el2=True, kernel="probe.elf"),
        ARM,
        True,
    ),
    "q35-7.2-source": (MachineSpec(kernel="probe.elf"), Binary(), False),
    "q35-7.2-destination": (MachineSpec(kernel="probe.elf"), Binary(), True),
    "q35-7.2-protected": (
        MachineSpec(kernel="probe.elf", append="cvm=es cbit=58", below_4g_mib=64, hypercall_port=True),
        Binary(),
        False,
    ),
    "q35-7.2-interrupts": (
        MachineSpec(
            kernel="probe.elf", append="irq=on", interrupt_vectors=64, traces=("vm_state_notify", "apic_deliver_irq")
        ),
        Binary(),
        False,
    ),
    "q35-10.0-everything": (
        MachineSpec(
            machine="pc-q35-10.0",
            accel=Accel.KVM,
            vcpus=4,
            memory_mib=6144,
            kernel="some folder/probe.elf",
            append="boot=1 seed=2",
            firmware="qboot.rom",
            uuid="3f2a52a1-4d0e-4c1f-9a55-0c4b8f7b6d11",
            reboots=True,
            devices=("pvpanic,id=panic",),
            extra_args=("-trace", "migrate_set_state"),
        ),
        Binary(has_sandbox=False),
        False,
    ),
}


@pytest.mark.parametrize("name", SPECS)
def test_words_are_those_of_the_golden_file(name: str) -> None:
    spec, binary, incoming = SPECS[name]
    words = command_line(spec, binary, name="cvmig-0-run-src", incoming=incoming)
    assert list(words) == (GOLDEN / f"{name}.txt").read_text().splitlines()


def test_source_and_destination_differ_in_incoming_only() -> None:
    source = command_line(MachineSpec(), Binary(), name="cvmig-x", incoming=False)
    destination = command_line(MachineSpec(), Binary(), name="cvmig-x", incoming=True)
    assert destination == (*source, "-incoming", "defer")


def test_a_comma_in_the_name_does_not_become_an_option() -> None:
    words = command_line(MachineSpec(), Binary(), name="cvmig-a,b", incoming=False)
    assert words[words.index("-name") + 1].startswith("guest=cvmig-a,,b,")


@pytest.mark.parametrize(("gic_version", "has_el2"), [(2, False), (4, False), (5, True)])
def test_an_interrupt_controller_that_virt_has_not_is_refused(gic_version: int, has_el2: bool) -> None:
    with pytest.raises(UsageError, match="gic_version"):
        MachineSpec(machine="virt-7.2", arch=Arch.AARCH64, gic_version=gic_version, has_el2=has_el2)


@pytest.mark.parametrize("more", [{"below_4g_mib": 32}, {"hypercall_port": True}])
def test_what_only_a_pc_has_is_refused_for_arm(more: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="virt has neither"):
        MachineSpec(machine="virt-7.2", arch=Arch.AARCH64, **more)


def test_an_arm_guest_gets_the_host_processor_under_kvm() -> None:
    assert MachineSpec(machine="virt-7.2", arch=Arch.AARCH64, accel=Accel.KVM).cpu_model == "host"


@pytest.mark.parametrize("machine", ["q35", "pc", "virt", "pc-q35-", "-7.2", "pc-q35-7.2,accel=kvm", ""])
def test_a_machine_type_without_version_is_refused(machine: str) -> None:
    with pytest.raises(UsageError, match="no version"):
        MachineSpec(machine=machine)


def test_a_negative_split_is_refused() -> None:
    with pytest.raises(UsageError, match="below_4g_mib"):
        MachineSpec(below_4g_mib=-1)


@pytest.mark.parametrize(("vcpus", "memory_mib"), [(0, 128), (256, 128), (1, 0), (-1, 64)])
def test_sizes_out_of_range_are_refused(vcpus: int, memory_mib: int) -> None:
    with pytest.raises(UsageError):
        MachineSpec(vcpus=vcpus, memory_mib=memory_mib)
