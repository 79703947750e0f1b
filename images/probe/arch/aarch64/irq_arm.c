/* What counted interrupts are on this architecture: which of the two families a source belongs to, and the holds. */
#include "irq_sources.h"
#include "vpe.h"

enum { REDHAT = 0x1af4, IVSHMEM = 0x1110, BAR_REGISTERS = 0, BAR_TABLE = 1, BAR_SLOTS = 2 };
enum { FEATURE_ITS = 1, FEATURE_VLPI = 2 };

static bool is_lpi(const struct irq_source *source)
{
	return source->kind == IRQ_DOORBELL || source->kind >= IRQ_VLPI_DOORBELL;
}

void arch_irq_take_memory(void)
{
	its_reserve();
}

uint32_t arch_irq_open(struct irq_device *device)
{
	uint32_t unused, features = 0;
	uint64_t config = pci_find(REDHAT, IVSHMEM, &unused);

	if (!config || !machine.its_gpa)
		return 0;
	device->registers = (volatile uint32_t *)pci_place_memory(config, BAR_REGISTERS);
	device->table = (volatile uint32_t *)pci_place_memory(config, BAR_TABLE);
	device->slots = (volatile uint32_t *)pci_place_memory(config, BAR_SLOTS);
	device->vectors = pci_enable_msix(config);
	lpi_open(config);
	features |= FEATURE_ITS;
	if (vpe_is_possible())
		features |= FEATURE_VLPI;
	return features;
}

uint32_t arch_irq_source(struct irq_source *source)
{
	if (is_lpi(source))
		return source->kind <= IRQ_ITS_VLPI ? lpi_program(source) : IRQ_UNSUPPORTED;
	if (source->kind == IRQ_NMI || source->kind == IRQ_LEGACY)
		return IRQ_UNSUPPORTED;
	return line_program(source);
}

void arch_irq_trigger(struct irq_source *source)
{
	if (is_lpi(source))
		lpi_trigger(source);
	else
		line_trigger(source);
}

bool arch_irq_mask(const struct irq_source *source, bool masked)
{
	if (is_lpi(source))
		lpi_mask(source, masked);
	else
		line_mask(source, masked);
	return true;
}

bool arch_irq_is_pending(const struct irq_source *source)
{
	return is_lpi(source) ? lpi_is_pending(source) : line_is_pending(source);
}

uint8_t arch_irq_before_log(struct cpu *cpu, struct irq_source *source)
{
	(void)cpu;
	return is_lpi(source) ? 0 : line_before_log(source);
}

void arch_irq_end(const struct irq_source *source)
{
	gic_end(source->arch_number);
}

void arch_irq_hold(struct cpu *cpu, uint32_t kind, uint64_t argument)
{
	if (kind == IRQ_HOLD_PRIORITY)
		WRITE_REGISTER(ICC_PMR_EL1, argument);
	if (kind == IRQ_HOLD_SLEEP)
		timer_stop();
	if (kind == HOLD_VPE)
		vpe_hold(cpu, argument);
	barrier();
}

void arch_irq_hold_run(struct cpu *cpu, uint32_t kind)
{
	(void)kind;
	arch_irq_off();
	if (has_duty(cpu)) {
		arch_irq_on();
		cpu_duty(cpu);
	} else {
		arch_wait_for_irq();
	}
}

void arch_irq_release(struct cpu *cpu, uint32_t kind)
{
	(void)cpu;
	if (kind == IRQ_HOLD_PRIORITY)
		WRITE_REGISTER(ICC_PMR_EL1, ALL_PRIORITIES);
	if (kind == IRQ_HOLD_SLEEP)
		timer_start();
	if (kind == HOLD_VPE)
		vpe_release();
	barrier();
}

uint32_t arch_irq_command(uint16_t code, const uint8_t *payload, uint32_t size, struct reply *reply)
{
	return lpi_command(code, payload, size, reply);
}

bool arch_has_duty(const struct cpu *cpu)
{
	return vpe_is_due(cpu);
}

void arch_do_duty(struct cpu *cpu)
{
	vpe_slice(cpu);
}
