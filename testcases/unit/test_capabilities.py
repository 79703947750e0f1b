"""Capabilities of a VM over several migrations: what one switched on, the next has off unless it wants it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.migration.capabilities import require_driven, set_capabilities
from harness.model.deadline import Deadline
from harness.model.errors import HarnessError, UnsupportedError
from harness.vm.qmp import QmpError
from harness.vm.vm import Vm


class Qmp:
    """Keeps capabilities as QEMU does: all of a command, or none."""

    def __init__(self) -> None:
        self.on: set[str] = set()
        self.refuses = False
        self.asked: list[dict[str, bool]] = []

    async def execute(self, command: str, arguments: Mapping[str, Any], *, deadline: Deadline) -> None:
        assert command == "migrate-set-capabilities"
        assert deadline.left_s > 0
        self.asked.append({entry["capability"]: entry["state"] for entry in arguments["capabilities"]})
        if self.refuses:
            raise QmpError(command, error_class="GenericError", description="not now")
        for entry in arguments["capabilities"]:
            (self.on.add if entry["state"] else self.on.discard)(entry["capability"])


@pytest.fixture
def vm() -> Vm:
    known = frozenset({"events", "return-path", "x-ignore-shared", "xbzrle"})
    features = SimpleNamespace(migration_capabilities=known, version="7.2.22")
    return cast(Vm, SimpleNamespace(role="src", features=features, qmp=Qmp(), capabilities={}))


def switch(vm: Vm, *on: str, off: tuple[str, ...] = ()) -> set[str]:
    wanted = {**dict.fromkeys(on, True), **dict.fromkeys(off, False)}
    asyncio.run(set_capabilities(vm, wanted, Deadline.after(5)))
    return cast(Qmp, vm.qmp).on


def test_what_a_re_save_needed_is_off_for_the_next_migration(vm: Vm) -> None:
    assert switch(vm, "events", "return-path", "xbzrle") == {"events", "return-path", "xbzrle"}
    assert switch(vm, "events", "x-ignore-shared") == {"events", "x-ignore-shared"}
    assert switch(vm, "events", off=("return-path",)) == {"events"}


def test_what_was_refused_may_be_on_all_the_same(vm: Vm) -> None:
    switch(vm, "events")
    cast(Qmp, vm.qmp).refuses = True
    with pytest.raises(HarnessError, match="not now"):
        switch(vm, "xbzrle")
    assert vm.capabilities == {"events": None, "xbzrle": None}
    cast(Qmp, vm.qmp).refuses = False
    assert switch(vm, "events") == {"events"}
    assert cast(Qmp, vm.qmp).asked[-1] == {"events": True, "xbzrle": False}


def test_what_qemu_is_known_to_have_is_not_asked_for_again(vm: Vm) -> None:
    switch(vm, "events", off=("xbzrle",))
    switch(vm, "events")
    switch(vm, "events", "xbzrle")
    # QEMU may have been started with one on, so off is not taken for granted the first time.
    assert cast(Qmp, vm.qmp).asked == [{"events": True, "xbzrle": False}, {"xbzrle": True}]


def test_one_that_the_binary_does_not_know_is_unsupported(vm: Vm) -> None:
    with pytest.raises(UnsupportedError, match=r"src: QEMU 7\.2\.22 has no migration capability mapped-ram"):
        switch(vm, "mapped-ram")
    assert cast(Qmp, vm.qmp).on == set()


def test_one_that_cannot_be_judged_is_refused_only_when_it_is_on() -> None:
    require_driven({"multifd": False, "xbzrle": True})
    with pytest.raises(UnsupportedError, match="multifd: pages go over connections of their own"):
        require_driven({"multifd": True})
