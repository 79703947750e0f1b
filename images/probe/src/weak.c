/* What an architecture without memory protection does when asked for it: nothing. */
#include "confidential.h"

#define WEAK __attribute__((weak))

WEAK uint64_t arch_irq_save(void) { return 0; }
WEAK bool arch_irq_was_on(uint64_t flags) { (void)flags; return false; }
WEAK void arch_irq_restore(uint64_t flags) { (void)flags; }
WEAK bool arch_hypercall_open(void) { return false; }
WEAK void arch_hypercall_put(const void *bytes, size_t size) { (void)bytes, (void)size; }
WEAK int arch_hypercall_get(void) { return -1; }
WEAK struct kvm arch_kvm_find(void) { return (struct kvm){ KVM_NONE, 0 }; }
WEAK uint64_t arch_kvm_call(enum kvm_call how, const struct registers *registers) { (void)how, (void)registers; return 0; }
WEAK uint64_t arch_kvm_set_msr(uint32_t msr, uint64_t value) { (void)msr, (void)value; return 0; }
WEAK uint64_t arch_tables_root(void) { return 0; }
WEAK void arch_tables_take_memory(void) { }
WEAK void arch_tables_protect(void) { }
WEAK bool arch_tables_shared(uint64_t gpa) { (void)gpa; return false; }
WEAK bool arch_tables_changed(uint64_t gpa) { (void)gpa; return false; }
WEAK void arch_tables_set(uint64_t start, uint64_t end, bool private) { (void)start, (void)end, (void)private; }
WEAK void arch_tables_undo(uint64_t start, uint64_t end) { (void)start, (void)end; }
WEAK void arch_tables_settle(uint64_t start, uint64_t end) { (void)start, (void)end; }
WEAK void arch_tables_walk(void (*shared)(void *, uint64_t, uint64_t), void *state) { (void)shared, (void)state; }
WEAK void arch_tables_have_changed(void) { }
WEAK void arch_tables_catch_up(void) { }
WEAK void arch_errand_send(unsigned cpu) { (void)cpu; }
WEAK bool arch_ghcb_register(struct cpu *cpu, uint64_t gpa) { (void)cpu, (void)gpa; return false; }
WEAK uint64_t arch_vc_vmmcall(struct cpu *cpu, const struct registers *registers, struct answer *answer)
{
	(void)cpu, (void)registers, (void)answer;
	return ~0ull;
}
WEAK void arch_vc_write_msr(struct cpu *cpu, uint32_t msr, uint64_t value) { (void)cpu, (void)msr, (void)value; }
WEAK bool arch_vc_read_mmio(struct cpu *cpu, uint64_t gpa, uint32_t size, uint64_t *value)
{
	(void)cpu, (void)gpa, (void)size, (void)value;
	return false;
}
WEAK void arch_vc_reset_hold(struct cpu *cpu) { (void)cpu; }
WEAK void arch_cpu_park(struct cpu *cpu) { (void)cpu; }
WEAK bool arch_cpu_wake(unsigned cpu) { (void)cpu; return false; }
WEAK bool arch_has_duty(const struct cpu *cpu) { (void)cpu; return false; }
WEAK void arch_do_duty(struct cpu *cpu) { (void)cpu; }
WEAK void arch_kexec(void) { }
