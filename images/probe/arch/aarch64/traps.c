/* Where interrupts and faults go. */
#include "irq_sources.h"
#include "vpe.h"

enum { WHY_IRQ = 1, WHY_FIQ = 2 };

uint8_t stacks[ARCH_MAX_CPUS][STACKS][STACK_BYTES] __attribute__((aligned(STACK_BYTES)));

void traps_init(void)
{
	for (unsigned i = 0; i < ARCH_MAX_CPUS; i++) {
		cpus[i].index = i;
		for (unsigned stack = 0; stack < STACKS; stack++)
			*(struct cpu **)stacks[i][stack] = &cpus[i];
	}
}

struct cpu *arch_this_cpu(void)
{
	uint64_t sp;

	__asm__ volatile("mov %0, sp" : "=r"(sp));
	return *(struct cpu **)(sp & ~(uint64_t)(STACK_BYTES - 1));
}

static void fault(const struct frame *frame)
{
	struct panic what = { frame->esr >> 26 & 0x3f, frame->esr, frame->elr, frame->far, arch_this_cpu()->index };

	panic(&what);
}

/* One of the counted ones: logged, and ended unless that is left to later. */
static void counted(struct cpu *cpu, uint32_t intid)
{
	const struct irq_source *source = irq_find(intid, cpu->index);

	if (lpi_is_doorbell(intid))
		vpe_want();
	else if (!irq_received(cpu, intid, 0) && intid != SGI_KICK)
		irq_spurious(cpu, intid);
	else if (source && irq_defers(source))
		return;
	gic_end(intid);
}

static void interrupt(struct cpu *cpu)
{
	uint32_t intid = gic_acknowledge();

	if (intid >= INTID_SPECIAL && intid < LPI_FIRST)
		return;
	if (intid == machine.timer_intid) {
		timer_interrupt();
		heartbeat_tick(cpu);
		if (!cpu->index)
			arch_channel_poll();
	} else if (intid == serial_intid()) {
		serial_interrupt();
	} else {
		return counted(cpu, intid);
	}
	gic_end(intid);
}

void trap(struct frame *frame);
void trap(struct frame *frame)
{
	struct cpu *cpu = arch_this_cpu();

	if (frame->why == WHY_FIQ)
		arch_halt();            /* nothing but SGI_HALT is in group 0 */
	if (frame->why != WHY_IRQ)
		fault(frame);
	interrupt(cpu);
	if (has_duty(cpu))
		canary_leave(cpu, frame);
}
