"""QEMU's command line from a machine specification: a pure function, the same words in the same order on both sides.

Nothing of it touches the file system: memory is an inherited memfd, every control socket an inherited socket pair.
"""

from __future__ import annotations

from typing import Protocol

from harness.model.machine import CHANGE_VMFD, RAM_IDS, Arch, FdPlan, MachineSpec

SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
"""seccomp filter of QEMU. ``spawn=deny`` also forbids ``exec:`` migration: unix, tcp and fd are what we use."""

FDS = FdPlan()

RAM_ID = RAM_IDS[Arch.X86_64]
"""Of a PC; :attr:`MachineSpec.ram_id` knows it for every architecture."""


class Knows(Protocol):
    """What the command line wants to know about the binary."""

    @property
    def path(self) -> object:
        """The executable."""

    @property
    def has_sandbox(self) -> bool:
        """Whether ``-sandbox`` is compiled in."""


def command_line(spec: MachineSpec, binary: Knows, *, name: str, incoming: bool, fds: FdPlan = FDS) -> tuple[str, ...]:
    """Return the argv that runs *spec* under *binary*, stopped at the first instruction.

    *name* goes into ``-name``; *incoming* makes it wait for ``migrate-incoming``.
    """
    return (
        str(binary.path),
        *("-name", f"guest={_escaped(name)},debug-threads=on"),
        *_bare(binary),
        *_machine(spec, fds),
        *_control(spec, fds),
        *(_hypercalls(fds) if spec.hypercall_port else ()),
        *(_interrupts(spec, fds) if spec.interrupt_vectors else ()),
        *_payload(spec),
        *(word for device in spec.devices for word in ("-device", device)),
        *_traces(spec, fds),
        *("-S", *(("-incoming", "defer") if incoming else ())),
        *spec.extra_args,
    )


def _bare(binary: Knows) -> tuple[str, ...]:
    sandbox = ("-sandbox", SANDBOX) if binary.has_sandbox else ()
    return ("-nodefaults", "-no-user-config", "-display", "none", "-vga", "none", *sandbox)


def _machine(spec: MachineSpec, fds: FdPlan) -> tuple[str, ...]:
    size = f"{spec.memory_bytes >> 10}K"
    ram = f"memory-backend-file,id={spec.ram_id},mem-path=/proc/self/fd/{fds.ram},share=on,size={size}"
    reboot = "reset" if spec.reboots else "shutdown"
    options = _virt_options(spec) if spec.arch is Arch.AARCH64 else _pc_options(spec)
    if spec.changes_vmfd:
        options += f",{CHANGE_VMFD}=on"
    return (
        *("-machine", f"{spec.machine},memory-backend={spec.ram_id},{options}"),
        *("-accel", spec.accel.value),
        *("-cpu", spec.cpu_model),
        *("-smp", f"{spec.vcpus},sockets=1,cores={spec.vcpus},threads=1"),
        *("-m", f"size={size}"),
        *("-object", ram),
        *(("-uuid", spec.uuid) if spec.uuid else ()),
        # A guest that powers off or dies stays for the post-mortem instead of taking its QEMU along.
        *("-action", f"reboot={reboot},shutdown=pause,panic=pause"),
    )


def _pc_options(spec: MachineSpec) -> str:
    # Firmware looks at everything that is there, so what no guest of ours uses is not there.
    split = f",max-ram-below-4g={spec.below_4g_mib}M" if spec.below_4g_mib else ""
    return f"smm=off,sata=off,usb=off,vmport=off{split}"


def _virt_options(spec: MachineSpec) -> str:
    return f"gic-version={spec.gic_version}" + (",virtualization=on" if spec.has_el2 else "")


def _control(spec: MachineSpec, fds: FdPlan) -> tuple[str, ...]:
    # virt has one UART of its own, so its second line is a 16550 on PCI. A fixed slot keeps its stream's name.
    is_virt = spec.arch is Arch.AARCH64
    console = ("-serial", "chardev:console") if is_virt else ("-device", "isa-serial,id=com1,index=0,chardev=console")
    channel = "pci-serial,id=com2,addr=0x1" if is_virt else "isa-serial,id=com2,index=1"
    return (
        *("-chardev", f"socket,id=qmp,fd={fds.qmp}"),
        *("-mon", "chardev=qmp,mode=control"),
        *("-chardev", f"socket,id=console,fd={fds.console}"),
        *console,
        *("-chardev", f"socket,id=channel,fd={fds.channel}"),
        *("-device", f"{channel},chardev=channel"),
    )


def _hypercalls(fds: FdPlan) -> tuple[str, ...]:
    return (
        *("-chardev", f"socket,id=hypercalls,fd={fds.hypercalls}"),
        *("-device", "isa-serial,id=com3,index=2,chardev=hypercalls"),
    )


def _interrupts(spec: MachineSpec, fds: FdPlan) -> tuple[str, ...]:
    # Only a master can migrate. A fixed slot keeps its stream's name.
    device = f"ivshmem-doorbell,chardev=interrupts,vectors={spec.interrupt_vectors},master=on,addr=0x10"
    return ("-chardev", f"socket,id=interrupts,fd={fds.interrupts}", "-device", device)


def _traces(spec: MachineSpec, fds: FdPlan) -> tuple[str, ...]:
    words = tuple(word for event in spec.traces for word in ("-trace", event))
    return ("-D", f"/proc/self/fd/{fds.trace}", *words) if words else ()


def _payload(spec: MachineSpec) -> tuple[str, ...]:
    kernel = ("-kernel", str(spec.kernel)) if spec.kernel else ()
    append = ("-append", spec.append) if spec.append else ()
    firmware = ("-bios", spec.firmware) if spec.firmware else ()
    return (*firmware, *kernel, *append)


def _escaped(value: str) -> str:
    """A comma separates options for QEMU; two stand for one."""
    return value.replace(",", ",,")
