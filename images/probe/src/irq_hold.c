/* Holds: a vCPU cannot take its interrupts, and yet lives and serves, until it is released. */
#include "irq.h"

enum { BEATS_PER_S = 100 };

static struct {
	volatile uint32_t kind;
	uint64_t argument, beat_due;
} holds[ARCH_MAX_CPUS];
static uint32_t wanted_kind;
static uint64_t wanted_argument;

bool irq_holds(const struct cpu *cpu)
{
	return holds[cpu->index].kind && holds[cpu->index].kind != IRQ_HOLD_PRIORITY;
}

void irq_woken(struct cpu *cpu)
{
	if (holds[cpu->index].kind == IRQ_HOLD_SLEEP) {
		holds[cpu->index].kind = IRQ_HOLD_NONE;
		irq_page->cpu[cpu->index].hold = IRQ_HOLD_NONE;
		arch_irq_release(cpu, IRQ_HOLD_SLEEP);
	}
}

void irq_hold_serve(struct cpu *cpu)
{
	uint64_t now = arch_ticks();

	if (now >= holds[cpu->index].beat_due) {
		holds[cpu->index].beat_due = now + irq_ticks_per_s / BEATS_PER_S;
		heartbeat_tick(cpu);
	}
	if (!cpu->index)
		arch_channel_poll();
	if (has_duty(cpu))
		cpu_duty(cpu);
	else
		arch_relax();
}

static void sleep(struct cpu *cpu)
{
	while (holds[cpu->index].kind == IRQ_HOLD_SLEEP) {
		arch_irq_off();
		if (has_duty(cpu)) {
			arch_irq_on();
			cpu_duty(cpu);
		} else if (holds[cpu->index].kind == IRQ_HOLD_SLEEP) {
			arch_wait_for_irq();
		}
	}
	arch_irq_on();
}

void irq_hold_run(struct cpu *cpu)
{
	uint32_t kind = holds[cpu->index].kind;

	if (kind == IRQ_HOLD_SLEEP)
		return sleep(cpu);
	if (kind >= IRQ_HOLD_ARCH)
		return arch_irq_hold_run(cpu, kind);
	arch_irq_off();
	while (holds[cpu->index].kind == IRQ_HOLD_OFF)
		irq_hold_serve(cpu);
	arch_irq_on();
}

static void begin(struct cpu *cpu)
{
	holds[cpu->index].argument = wanted_argument;
	holds[cpu->index].beat_due = arch_ticks() + irq_ticks_per_s / BEATS_PER_S;
	holds[cpu->index].kind = wanted_kind;
	irq_page->cpu[cpu->index].hold = wanted_kind;
	/* From here to irq_hold_run() nothing lets interrupts in again. */
	if (wanted_kind == IRQ_HOLD_OFF)
		arch_irq_off();
	else
		arch_irq_hold(cpu, wanted_kind, wanted_argument);
}

static void end(struct cpu *cpu)
{
	uint32_t kind = holds[cpu->index].kind;

	holds[cpu->index].kind = IRQ_HOLD_NONE;
	irq_page->cpu[cpu->index].hold = IRQ_HOLD_NONE;
	if (kind && kind != IRQ_HOLD_OFF)
		arch_irq_release(cpu, kind);
	irq_end_deferred(cpu);
}

void irq_hold_begin(uint32_t mask, uint32_t kind, uint64_t argument)
{
	wanted_kind = kind;
	wanted_argument = argument;
	run_on_cpus(mask & all_cpus(), begin);
}

void irq_hold_end(uint32_t mask)
{
	run_on_cpus(mask & all_cpus(), end);
}
