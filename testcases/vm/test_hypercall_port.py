"""The third serial port of a machine that has it, from the guest's first call to the end of the VM."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from harness.confidential.soft.channel.hypercall_server import HypercallServer
from harness.confidential.soft.channel.hypercalls import HypercallReply, HypercallRequest, Operation
from harness.guest.image import probe_image
from harness.guest.probe import Probe
from harness.model.machine import MachineSpec
from testcases.vm.conftest import Lab

pytestmark = pytest.mark.vm


def test_a_protected_guest_calls_its_host_and_boots(lab: Lab, qemu: Path) -> None:
    asked: list[HypercallRequest] = []

    def answer(request: HypercallRequest) -> HypercallReply:
        asked.append(request)
        return HypercallReply()

    async def story() -> None:
        kernel = str(await asyncio.to_thread(probe_image))
        # A split of less than half makes QEMU warn of poor performance.
        spec = MachineSpec(memory_mib=64, below_4g_mib=32, kernel=kernel, append="cvm=sev cbit=58", hypercall_port=True)
        async with lab.vm(qemu, spec) as vm:
            server = HypercallServer(vm.hypercalls, answer)
            server.start()
            probe = Probe(*vm.channel)
            try:
                await vm.qmp.execute("cont", deadline=lab.deadline)
                await vm.guarded(probe.ready(deadline=lab.deadline), lab.deadline, what="the probe to boot")
            finally:
                await probe.close()
                server.stop()
            assert vm.last_words == ""
        assert vm.hypercalls.fileno() == -1
        assert [request.operation for request in asked] == [Operation.HELLO]
        assert server.error is None

    lab.play(story())


def test_without_the_port_there_is_no_socket(lab: Lab, qemu: Path) -> None:
    async def story() -> None:
        async with lab.vm(qemu) as vm:
            with pytest.raises(AssertionError):
                _ = vm.hypercalls

    lab.play(story())
