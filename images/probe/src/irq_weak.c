/* What an architecture without sources of its own does when asked for them: nothing. */
#include "irq.h"

#define WEAK __attribute__((weak))

WEAK void arch_irq_take_memory(void) { }
WEAK uint32_t arch_irq_open(struct irq_device *device) { (void)device; return 0; }
WEAK uint32_t arch_irq_source(struct irq_source *source) { (void)source; return IRQ_UNSUPPORTED; }
WEAK void arch_irq_trigger(struct irq_source *source) { (void)source; }
WEAK bool arch_irq_mask(const struct irq_source *source, bool masked) { (void)source, (void)masked; return false; }
WEAK bool arch_irq_is_pending(const struct irq_source *source) { (void)source; return false; }
WEAK void arch_irq_hold(struct cpu *cpu, uint32_t kind, uint64_t argument) { (void)cpu, (void)kind, (void)argument; }
WEAK void arch_irq_hold_run(struct cpu *cpu, uint32_t kind) { (void)cpu, (void)kind; }
WEAK void arch_irq_release(struct cpu *cpu, uint32_t kind) { (void)cpu, (void)kind; }
WEAK void arch_irq_end(const struct irq_source *source) { (void)source; }
WEAK uint8_t arch_irq_before_log(struct cpu *cpu, struct irq_source *source) { (void)cpu, (void)source; return 0; }
WEAK uint32_t arch_irq_command(uint16_t code, const uint8_t *payload, uint32_t size, struct reply *reply)
{
	(void)code, (void)payload, (void)size, (void)reply;
	return 2;
}
