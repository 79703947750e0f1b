/* Where interrupts and faults go. */
#include "arm.h"

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

static void interrupt(struct cpu *cpu)
{
	uint32_t intid = gic_acknowledge();

	if (intid >= INTID_SPECIAL)
		return;
	if (intid == machine.timer_intid) {
		timer_interrupt();
		heartbeat_tick(cpu);
		if (!cpu->index)
			arch_channel_poll();
	} else if (intid == serial_intid()) {
		serial_interrupt();
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
