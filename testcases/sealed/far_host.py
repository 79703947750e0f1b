"""The destination host as a process of its own: ``far_host.py LISTEN CONNECT FLAVOUR PAGES``.

Says its certificates, then, when the wire is closed, how it ended and what it took.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from harness.migration.relay import Endpoint
from harness.migration.sealed.sides import open_destination_side
from harness.model.deadline import Deadline
from testcases.sealed.hosts import KINDS, Host


async def main(listen: str, connect: str, flavour: str, pages: int) -> None:
    host = Host(KINDS[flavour], pages, number=2)
    near, qemu = Endpoint.parse(listen), Endpoint.parse(connect)
    async with open_destination_side(host, listen=near, connect=qemu) as far:
        own = host.certificates()
        say({"pdh": own.pdh.hex(), "platform": own.platform.hex(), "vendor": own.vendor.hex()})
        account = await far.relay.wait(Deadline.after(30.0))
        shared = list(host.came.shared.ranges()) if host.came else None
        records = far.records()
        say(
            {
                "end": account.end,
                "refusals": [refusal.reason for refusal in far.refusals()],
                "shared": shared,
                "packets": records.pages,
                "ghcb": host.taken,
                "vcpus": sorted(set(records.vcpu_packets)),
            }
        )


def say(words: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _, near_uri, qemu_uri, kind, size = sys.argv
    asyncio.run(main(near_uri, qemu_uri, kind, int(size)))
