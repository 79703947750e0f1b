"""The device check: silent on what must differ, loud on everything else."""

from __future__ import annotations

import pytest

from harness.checks.device_state import VOLATILE, check_device_state
from harness.model.device_state import Device, DeviceField, DeviceState
from harness.model.errors import PreconditionError


def field(path: str, raw: bytes, kind: str = "buffer", value: int | None = None) -> DeviceField:
    return DeviceField(path=path, type=kind, raw=raw, value=value)


def number(path: str, value: int) -> DeviceField:
    return field(path, value.to_bytes(4, "big"), "uint32", value)


def device(name: str, *fields: DeviceField, version: int = 1, subsections: tuple[str, ...] = ()) -> Device:
    return Device(name=name, instance_id=0, vmsd=name, version=version, fields=fields, subsections=subsections)


def state(*devices: Device) -> DeviceState:
    return DeviceState(machine="pc-q35-7.2", devices=devices)


CPU = device("cpu", number("env.regs[0]", 1), number("env.regs[1]", 2))


def kinds(before: DeviceState, after: DeviceState) -> list[tuple[str, str]]:
    return [(finding.kind, finding.where) for finding in check_device_state(before, after)]


def test_equal_states_are_silent() -> None:
    assert check_device_state(state(CPU), state(CPU)) == ()


def test_a_changed_register_is_named_with_both_values() -> None:
    (finding,) = check_device_state(
        state(CPU), state(device("cpu", number("env.regs[0]", 1), number("env.regs[1]", 3)))
    )
    assert (finding.kind, finding.where) == ("changed", "cpu/0 env.regs[1]")
    assert "sent 0x2" in finding.detail
    assert "holds 0x3" in finding.detail


def test_lost_and_new_devices_subsections_and_versions() -> None:
    assert kinds(state(CPU), state(device("apic"))) == [("missing", "cpu/0"), ("extra", "apic/0")]
    with_more = device("cpu", *CPU.fields, subsections=("cpu/msr",))
    assert kinds(state(with_more), state(CPU)) == [("missing", "cpu/0 cpu/msr")]
    assert kinds(state(CPU), state(with_more)) == [("extra", "cpu/0 cpu/msr")]
    assert kinds(state(CPU), state(device("cpu", *CPU.fields, version=2))) == [("version", "cpu/0")]


def test_same_layout_under_another_name_is_the_same_field() -> None:
    before = state(device("hpet", number("num_timers", 3)))
    assert kinds(before, state(device("hpet", number("num_timers_save", 3)))) == []
    assert kinds(before, state(device("hpet", number("num_timers_save", 4)))) == [("changed", "hpet/0 num_timers")]


def test_other_layout_compares_by_name() -> None:
    before = state(device("toy", number("a", 1), number("b", 2)))
    after = state(device("toy", number("a", 5), field("c", b"12")))
    assert kinds(before, after) == [("changed", "toy/0 a"), ("missing", "toy/0 b"), ("extra", "toy/0 c")]


def rtc(**changes: int) -> DeviceState:
    data = bytearray(128)
    for register, value in changes.items():
        data[int(register[1:], 16)] = value
    return state(device("mc146818rtc", field("cmos_data", bytes(data)), number("update_timer", sum(data))))


def test_only_the_named_bits_of_the_clock_may_differ() -> None:
    assert kinds(rtc(), rtc(r00=9, r09=1, r32=20, r0a=0x80, r0c=0x10)) == []
    for changes in ({"r01": 1}, {"r0a": 0x26}, {"r0b": 2}, {"r0c": 1}, {"r0e": 1}):
        assert kinds(rtc(), rtc(**changes)) == [("changed", "mc146818rtc/0 cmos_data")]


def test_run_state_may_differ_in_value_and_layout() -> None:
    before = state(device("globalstate", number("size", 8), field("runstate", b"running")))
    after = state(device("globalstate", number("size", 7), field("runstate", b"pau"), field("unused", b"sed\0")))
    assert kinds(before, after) == []


def test_buffers_name_the_first_byte_that_differs() -> None:
    before, after = state(device("fw", field("fifo", b"abcdef"))), state(device("fw", field("fifo", b"abcXef")))
    (finding,) = check_device_state(before, after)
    assert "1 bytes differ from +0x3: sent 646566, the destination holds 586566" in finding.detail


def test_a_comparison_of_nothing_is_an_error() -> None:
    empty = DeviceState(machine="", note="opaque: no description")
    for before, after in ((empty, state(CPU)), (state(CPU), empty)):
        with pytest.raises(PreconditionError, match="opaque"):
            check_device_state(before, after)


def test_every_exception_says_why() -> None:
    assert all(len(entry.reason) > 20 for entry in VOLATILE)


def test_a_transmitter_that_waited_for_its_host_may_have_gone_on() -> None:
    tsr = "state/serial/tsr"
    waiting = device(
        "serial", number("state.lsr", 0), number("state.ier", 1), number(f"{tsr}:tsr", 7), subsections=(tsr,)
    )
    gone_on = device("serial", number("state.lsr", 0x60), number("state.ier", 1))
    assert kinds(state(waiting), state(gone_on)) == []
    idle, other = (device("serial", number("state.lsr", value), number("state.ier", 1)) for value in (0x60, 0))
    assert kinds(state(idle), state(other)) == [("changed", "serial/0 state.lsr")]
    wrong = device("serial", number("state.lsr", 0x60), number("state.ier", 2))
    assert kinds(state(waiting), state(wrong)) == [("changed", "serial/0 state.ier")]
    assert kinds(state(gone_on), state(waiting))[0] == ("extra", f"serial/0 {tsr}")


def arm(vcpus: int, *, due: bool, fired: bool, line: int = 27, item: str = "1") -> DeviceState:
    """A machine whose virtual timers are armed; *due*: their time is over, *fired*: the destination has seen it."""
    now_ns, expiry_ns = 5000, 4000 if due else 6000
    levels = [
        number("cpu.level" if vcpus == 1 else f"cpu[{vcpu}].level", 1 << line if fired else 0) for vcpu in range(vcpus)
    ]
    return DeviceState(
        machine="virt-7.2",
        devices=(
            device("arm_gicv3", *levels),
            device("timer", number("cpu_clock_offset", now_ns)),
            *(
                Device(
                    name="cpu",
                    instance_id=vcpu,
                    vmsd="cpu",
                    version=1,
                    fields=(
                        number(f"gt_timer[{item}]", 0x7FFF_FFFF if fired else expiry_ns),
                        field("cpreg.s3_3_c14_c3_1", bytes(7) + bytes([5 if fired else 1])),
                        number("cpu/irq-line-state:env.irq_line_state", 2 if fired else 0),
                    ),
                )
                for vcpu in range(vcpus)
            ),
        ),
    )


@pytest.mark.parametrize("item", ["1", "GTIMER_VIRT"])
@pytest.mark.parametrize("vcpus", [1, 2])
def test_a_timer_that_was_due_may_fire_while_it_loads(vcpus: int, item: str) -> None:
    before, after = (arm(vcpus, due=True, fired=fired, item=item) for fired in (False, True))
    assert check_device_state(before, after) == ()


@pytest.mark.parametrize("vcpus", [1, 2])
def test_a_timer_that_was_not_due_may_not(vcpus: int) -> None:
    found = kinds(arm(vcpus, due=False, fired=False), arm(vcpus, due=False, fired=True))
    assert len(found) == 4 * vcpus


def test_a_timer_that_was_due_explains_its_own_line_and_no_other() -> None:
    found = kinds(arm(2, due=True, fired=False), arm(2, due=True, fired=True, line=5))
    assert found == [("changed", "arm_gicv3/0 cpu[0].level"), ("changed", "arm_gicv3/0 cpu[1].level")]
