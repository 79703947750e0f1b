"""A small world of secure processors, the same in every run."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from harness.confidential.soft.processor.asids import AsidTable
from harness.confidential.soft.processor.certificates import Certificate, Usage, Vendor, unpack_chain
from harness.confidential.soft.processor.guest_context import SendSession, SendTarget
from harness.confidential.soft.processor.keys import KeyPair
from harness.confidential.soft.processor.packets import PacketSealer
from harness.confidential.soft.processor.policy import ApiVersion, Policy, PolicyFlag
from harness.confidential.soft.processor.processor import SecureProcessor
from harness.confidential.soft.processor.session import open_session
from harness.confidential.soft.processor.status import CommandRefusedError, FirmwareStatus

ES = Policy.of(PolicyFlag.ES)
FIRMWARE = ApiVersion(0, 24)
PAGE = bytes(range(256)) * 16
VMSA = PAGE[::-1]


@dataclass
class World:
    """Vendors and owners, and processors made of them."""

    random: random.Random = field(default_factory=lambda: random.Random(7))

    def __post_init__(self) -> None:
        self.vendor, self.other_vendor = Vendor.generate(self.random.randbytes), Vendor.generate(self.random.randbytes)
        self.owner, self.other_owner = (KeyPair.generate(self.random.randbytes) for _ in range(2))

    def platform(
        self,
        *,
        vendor: Vendor | None = None,
        owner: KeyPair | None = None,
        version: ApiVersion = FIRMWARE,
        cores: int = 2,
    ) -> SecureProcessor:
        processor = SecureProcessor(
            vendor=vendor or self.vendor,
            owner=owner or self.owner,
            version=version,
            asids=AsidTable(last=8, first_plain=5, cores=cores),
            entropy=self.random.randbytes,
        )
        processor.init()
        return processor

    @staticmethod
    def running(processor: SecureProcessor, policy: Policy = ES, *, asid: int = 1) -> int:
        handle = processor.launch_start(policy)
        processor.activate(handle, asid)
        processor.launch_measure(handle)
        processor.launch_finish(handle)
        return handle

    def owner_session(self, processor: SecureProcessor, policy: Policy = ES) -> tuple[SendSession, PacketSealer]:
        """A guest owner's session with *processor*, and the owner's end of it."""
        owner = KeyPair.generate(self.random.randbytes)
        (pdh,) = unpack_chain(processor.export_certificates().pdh)
        keys, session = open_session(owner, pdh.point, policy, self.random.randbytes)
        own = Certificate(usage=Usage.PDH, point=owner.point, version=FIRMWARE).pack()
        return SendSession(policy=policy, pdh=own, session=session), PacketSealer(keys)

    def sending(self, source: SecureProcessor, target: SendTarget, policy: Policy = ES) -> int:
        handle = self.running(source, policy, asid=1 if policy.flags & PolicyFlag.ES else 5)
        source.send_start(handle, target)
        return handle


@pytest.fixture
def world() -> World:
    return World()


Refuse = Callable[..., CommandRefusedError]


@pytest.fixture
def refuses() -> Refuse:
    """Calls a command that must be refused with *status*."""

    def refuse(
        status: FirmwareStatus, command: Callable[..., object], *args: object, **named: object
    ) -> CommandRefusedError:
        with pytest.raises(CommandRefusedError) as caught:
            command(*args, **named)
        assert caught.value.status == status, str(caught.value)
        return caught.value

    return refuse
