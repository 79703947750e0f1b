"""A device whose LPIs hardware delivers: the host's software for that, played on the tables of a real machine.

The guest has a plain GICv3. While its vCPUs run, what the device raises goes straight to it. While they are paused it
lands in the *hardware's* virtual pending table, which is here. The save path writes that into the guest's pending
tables, in shared RAM, where QEMU's own LPIs are: QEMU sends and loads it. The resume path takes it out of the
destination's tables again (KVM clears what it has read), and hands it to the hardware when forwarding is set; that
delivers when the vCPUs run. What these steps lose, the guest never gets.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.cases.interrupts.device import MovingDevice
from harness.model.deadline import Deadline
from harness.model.errors import PreconditionError
from harness.model.forwarding import Act, Done
from harness.model.guest import RamLayout
from harness.model.interrupts import Moment, Source
from harness.vm.vm import Vm

_CARRIERS_S = 5.0
"""The main loop of a stopped QEMU takes microseconds for each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardingFaults:
    """What this host does wrong."""

    flushes_early: bool = False
    """B41: tables are written before the devices have stopped."""
    reprograms: bool = False
    """B40: the device's driver unsets and sets forwarding of each vector again when it loads."""


class ForwardingDevice(MovingDevice):
    """The harness's device, some of whose vectors are forwarded."""

    def __init__(
        self,
        vm: Vm,
        layout: RamLayout,
        sources: Sequence[Source],
        *,
        forwarded: Collection[int],
        carriers: Collection[int],
        tables: Mapping[int, int],
        faults: ForwardingFaults,
    ) -> None:
        """Be the device of *vm*; *carriers* are vectors that are not forwarded, of the highest priority, one per vCPU.

        An LPI that QEMU itself makes pending has it send the page of the table, and keep what else is in it for later.
        *tables* are the gpas of pending tables by vCPU.
        """
        super().__init__(vm)
        self._vm, self._layout, self._tables, self._faults = vm, layout, tables, faults
        self._carriers = tuple(carriers)
        self._lpis = {source.id: (source.vcpu, source.number) for source in sources}
        self._forwarded = frozenset(forwarded)
        self._is_paused = False
        self._hardware: set[int] = set()
        self._latched: set[int] = set()
        self.done: list[Done] = []

    def raise_next(self, ids: Iterable[int], moment: Moment) -> None:
        """Through QEMU while the vCPUs run; forwarded ones go to the hardware's table while they are paused."""
        ids = list(ids)
        if moment is Moment.STOPPED and self._faults.flushes_early:
            self._flush()
        mine = [one for one in ids if one in self._forwarded and self._is_paused]
        super().raise_next([one for one in ids if one not in mine], moment)
        for vector in mine:
            self.number(vector, moment)
            self._hardware.add(vector)

    def pause(self) -> None:
        """The vCPUs do not run any more."""
        self._is_paused = True
        self._note(Act.VCPUS_PAUSED)

    def flush(self) -> None:
        """The device stops, and the controllers' state goes into guest memory."""
        self._note(Act.DEVICES_STOPPED)
        if not self._faults.flushes_early:
            self._flush()
        super().raise_next(self._carriers, Moment.STOPPED)

    async def settle(self, go_round: Callable[[], Awaitable[None]], deadline: Deadline) -> None:
        """Until the carriers are in the tables, whose pages are sent because of them."""
        deadline = deadline.within(_CARRIERS_S)
        while not all(map(self._bit, self._carriers)):
            if deadline.has_passed:
                raise PreconditionError("the stopped machine takes in no MSI", hint="see its stderr")
            await go_round()

    def _flush(self) -> None:
        # QEMU's ITS keeps its tables in memory at all times.
        self._note(Act.ITS_FLUSHED)
        for vector in self._hardware:
            self._set_bit(vector, is_set=True)
        self._note(Act.PENDING_FLUSHED)

    def go_on(self, vm: Vm) -> None:
        """Restore, forward, and be the device of *vm* from now on."""
        self._vm = vm
        self._note(Act.ITS_RESTORED)
        self._latched = {vector for vector in self._forwarded if self._bit(vector)}
        for vector in self._latched:
            self._set_bit(vector, is_set=False)
        self._note(Act.PENDING_RESTORED)
        self._hardware.clear()
        for vector in sorted(self._forwarded):
            self._forward(vector)
            if self._faults.reprograms:
                self._unforward(vector)
                self._forward(vector)
        super().go_on(vm)

    def resume(self) -> None:
        """The vCPUs run again, and hardware delivers."""
        self._is_paused = False
        self._note(Act.RESUMED)
        for vector in sorted(self._hardware):
            self.bell.raise_vector(vector, self.number_of(vector))
        self._hardware.clear()

    def _forward(self, vector: int) -> None:
        """Pending state goes from the vGIC's latch to the hardware."""
        if vector in self._latched:
            self._latched.remove(vector)
            self._hardware.add(vector)
        self._note(Act.FORWARDED, vector)

    def _unforward(self, vector: int) -> None:
        """The mapping goes, and with it what was pending: KVM's TODO."""
        self._note(Act.UNFORWARDED, vector)
        self._hardware.discard(vector)

    def _note(self, act: Act, vector: int | None = None) -> None:
        intid = 0 if vector is None else self._lpis[vector][1]
        self.done.append(Done(act=act, intid=intid, was_pending=vector in self._hardware))

    def _place(self, vector: int) -> tuple[int, int]:
        vcpu, intid = self._lpis[vector]
        return self._layout.gpa_to_ram(self._tables[vcpu] + intid // 8), 1 << intid % 8

    def _bit(self, vector: int) -> bool:
        at, mask = self._place(vector)
        return bool(self._vm.ram.view[at] & mask)

    def _set_bit(self, vector: int, *, is_set: bool) -> None:
        at, mask = self._place(vector)
        ram = self._vm.ram.view
        ram[at] = ram[at] & ~mask | (mask if is_set else 0)
