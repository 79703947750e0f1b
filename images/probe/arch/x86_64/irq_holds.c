/* Holds of a PC: a raised task priority (CR8), sleep without a timer, and an NMI handler that does not return. */
#include "irq_x86.h"

static volatile uint32_t in_nmi[ARCH_MAX_CPUS];

void arch_irq_hold(struct cpu *cpu, uint32_t kind, uint64_t argument)
{
	(void)cpu;
	if (kind == IRQ_HOLD_PRIORITY)
		WRITE_REGISTER(cr8, argument);
	if (kind == IRQ_HOLD_SLEEP)
		lapic_timer_stop();
}

void arch_irq_release(struct cpu *cpu, uint32_t kind)
{
	(void)cpu;
	if (kind == IRQ_HOLD_PRIORITY)
		WRITE_REGISTER(cr8, 0);
	if (kind == IRQ_HOLD_SLEEP)
		lapic_timer_start();
}

/* NMIs are blocked until IRET, so the next one stays pending (Intel SDM vol. 3, 6.7.1). */
void arch_irq_hold_run(struct cpu *cpu, uint32_t kind)
{
	if (kind != IRQ_HOLD_NMI)
		return;
	arch_irq_off();
	in_nmi[cpu->index] = 1;
	lapic_send(x86_cpus[cpu->index].apic_id, IPI_NMI);
	while (in_nmi[cpu->index])
		arch_relax();
	arch_irq_on();
}

bool irq_nmi(struct cpu *cpu)
{
	if (!in_nmi[cpu->index])
		return irq_received(cpu, VECTOR_NMI, RECORD_NMI);
	while (irq_holds(cpu))
		irq_hold_serve(cpu);
	in_nmi[cpu->index] = 0;
	return true;
}
