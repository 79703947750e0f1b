"""What the management of a host reads of a protected guest's launch to have it attested: once, and after each reset."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.cases.faults import HostFault
from harness.cases.stage import Stage
from harness.checks.reset_measurement import CHECK, ContextsOverReset, check_contexts
from harness.model.protection import LaunchIdentity
from harness.vm.vm import Vm


@dataclass(slots=True)
class Attestation:
    """Of all guests of one case, by the VM that they are in."""

    stage: Stage
    _held: dict[str, LaunchIdentity] = field(default_factory=dict)

    def read(self, vm: Vm) -> LaunchIdentity | None:
        """Before a reboot: what the host says now; held from the first time on. None for a guest without a context."""
        if not self.stage.shield:
            return None
        now = self.stage.shield.identity(vm)
        self._held.setdefault(vm.role, now)
        return now

    def was_reset(self, vm: Vm) -> None:
        """Management has seen the RESET event, and reads anew."""
        if not self.stage.shield:
            return
        now = self.stage.shield.identity(vm)
        # Where nothing has changed it does no harm to go on with what was read before.
        if now != self._held[vm.role] and not self.stage.strikes(HostFault.MEASUREMENT_KEPT):
            self._held[vm.role] = now

    def judge(self, vm: Vm, before: LaunchIdentity, *, is_renewed: bool) -> None:
        """The guest is back."""
        assert self.stage.shield
        now = self.stage.shield.identity(vm)
        contexts = ContextsOverReset(before=before, now=now, held=self._held[vm.role], is_renewed=is_renewed)
        self.stage.notebook.judge(CHECK, check_contexts(contexts))
