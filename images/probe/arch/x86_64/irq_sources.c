/* Sources of counted interrupts on a PC: MSI-X of the host's device, IPIs, the APIC timer, lines of the I/O APIC and the
 * 8259A, NMIs. A source's "priority" is its vector, whose upper half is the priority class (Intel SDM vol. 3, 11.8.3). */
#include "irq_x86.h"

enum { VENDOR = 0x1af4, DEVICE = 0x1110, CAP_MSIX = 0x11, MSIX_ENABLE = 1u << 31, MSIX_TABLE_SIZE = 0x7ff };
enum { FIRST_VECTOR = 0x30, LAST_VECTOR = 0xdf, IRQ_COM1 = 4, IRQ_PIT = 0, FIRST_PCI_PIN = 20, PORT_COM1 = 0x3f8 };
enum { SERIAL_VENDOR = 0x1b36, SERIAL_DEVICE = 0x0002 };       /* QEMU's pci-serial */
enum { CMD_X2APIC = CMD_IRQ_ARCH, UNKNOWN_COMMAND = 2 };
#define MSI_ADDRESS 0xfee00000u

uint32_t arch_irq_open(struct irq_device *device)
{
	uint32_t slot, capability, features = cpuid(1, 0).c;

	if (!pci_find(VENDOR, DEVICE, &slot))
		return 0;
	capability = pci_capability(slot, CAP_MSIX);
	pci_enable(slot);
	device->registers = (volatile uint32_t *)pci_memory_bar(slot, 0);
	device->table = (volatile uint32_t *)pci_memory_bar(slot, 1);
	device->slots = (volatile uint32_t *)pci_memory_bar(slot, 2);
	device->vectors = (pci_read(slot, capability) >> 16 & MSIX_TABLE_SIZE) + 1;
	for (uint32_t vector = 0; vector < device->vectors; vector++)
		device->table[4 * vector + 3] = 1;
	pci_write(slot, capability, pci_read(slot, capability) | MSIX_ENABLE);
	pic_init();
	return (features >> 21 & 1 ? FEATURE_X2APIC : 0) | (features >> 24 & 1 ? FEATURE_TSC_DEADLINE : 0);
}

static uint32_t place_doorbell(const struct irq_source *source)
{
	volatile uint32_t *entry = irq_device.table + 4 * source->line;

	if (source->line >= irq_device.vectors)
		return IRQ_BAD;
	entry[3] = 1;
	entry[0] = MSI_ADDRESS | x86_cpus[source->vcpu].apic_id << 12;
	entry[1] = 0;
	entry[2] = source->arch_number;
	entry[3] = !!(source->flags & IRQ_MASKED);
	return IRQ_OK;
}

/* ISA IRQ 0 is wired to pin 2 of the I/O APIC, the others to the pin of their number (MADT of QEMU's PCs). */
static uint32_t pin_of(const struct irq_source *source)
{
	return source->line == IRQ_PIT ? 2 : source->line;
}

/* The UART that holds a line up; 0 where there is none. Pins of PCI's INTA by slot: QEMU hw/isa/lpc_ich9.c, ich9_cc_init. */
static uint16_t port_of_line(uint32_t line)
{
	uint32_t slot;

	if (line == IRQ_COM1)
		return PORT_COM1;
	if (!pci_find(SERIAL_VENDOR, SERIAL_DEVICE, &slot) || line != FIRST_PCI_PIN + slot % 4)
		return 0;
	pci_enable(slot);
	return pci_io_bar(slot, 0);
}

static uint32_t prepare_line(uint32_t line)
{
	uint16_t port = line == IRQ_PIT ? 0 : port_of_line(line);

	if (line != IRQ_PIT && !port)
		return IRQ_UNSUPPORTED;
	if (port)
		serial_line_init(port);
	return IRQ_OK;
}

static uint32_t place_line(const struct irq_source *source)
{
	uint32_t refused = prepare_line(source->line);

	if (refused)
		return refused;
	ioapic_set(pin_of(source), (uint8_t)source->arch_number, x86_cpus[source->vcpu].apic_id,
		   source->kind == IRQ_LEVEL, source->flags & IRQ_MASKED);
	return IRQ_OK;
}

static uint32_t place_legacy(struct irq_source *source)
{
	if (source->vcpu || source->line >= FIRST_PCI_PIN || prepare_line(source->line))
		return IRQ_UNSUPPORTED;
	source->arch_number = VECTOR_PIC + source->line;
	lapic_accept_pic();
	pic_mask(source->line, source->flags & IRQ_MASKED);
	return IRQ_OK;
}

uint32_t arch_irq_source(struct irq_source *source)
{
	source->arch_number = source->priority;
	if (source->kind == IRQ_LEGACY)
		return place_legacy(source);
	if (source->kind == IRQ_NMI) {
		source->arch_number = VECTOR_NMI;
		return IRQ_OK;
	}
	if (source->arch_number < FIRST_VECTOR || source->arch_number > LAST_VECTOR)
		return IRQ_BAD;
	switch (source->kind) {
	case IRQ_DOORBELL:
		return place_doorbell(source);
	case IRQ_LEVEL:
	case IRQ_EDGE:
		return place_line(source);
	case IRQ_IPI:
	case IRQ_TIMER:
		return IRQ_OK;
	}
	return IRQ_UNSUPPORTED;
}

static void trigger_line(const struct irq_source *source)
{
	if (source->line == IRQ_PIT)
		pit_start((uint16_t)source->argument, source->flags & IRQ_PERIODIC);
	else
		serial_line(port_of_line(source->line), true);
}

void arch_irq_trigger(struct irq_source *source)
{
	switch (source->kind) {
	case IRQ_IPI:
		lapic_send(x86_cpus[source->vcpu].apic_id, IPI_FIXED | source->arch_number);
		break;
	case IRQ_NMI:
		lapic_send(x86_cpus[source->vcpu].apic_id, IPI_NMI);
		break;
	case IRQ_TIMER:
		lapic_timer_arm((uint8_t)source->arch_number, source->argument, source->line, source->flags & IRQ_PERIODIC);
		break;
	case IRQ_LEVEL:
	case IRQ_EDGE:
	case IRQ_LEGACY:
		trigger_line(source);
		break;
	}
}

bool arch_irq_mask(const struct irq_source *source, bool masked)
{
	if (source->kind == IRQ_DOORBELL)
		irq_device.table[4 * source->line + 3] = masked;
	else if (source->kind == IRQ_LEVEL || source->kind == IRQ_EDGE)
		ioapic_mask(pin_of(source), masked);
	else if (source->kind == IRQ_LEGACY)
		pic_mask(source->line, masked);
	else
		return false;
	return true;
}

/* QEMU and the PCI specification put the pending bits into the same BAR; ivshmem has them at its second half. */
static bool is_pending_at_device(uint32_t vector)
{
	return irq_device.table[MSIX_PBA / 4 + vector / 32] >> vector % 32 & 1;
}

bool arch_irq_is_pending(const struct irq_source *source)
{
	if (source->kind == IRQ_NMI)
		return false;                   /* nothing that software could read tells */
	if (source->kind == IRQ_LEGACY)
		return pic_is_pending(source->line);
	if (source->kind == IRQ_DOORBELL && is_pending_at_device(source->line))
		return true;
	if (source->kind == IRQ_LEVEL && source->flags & IRQ_MASKED && ioapic_is_masked(pin_of(source)))
		return false;                   /* its line is up, or is not; the chip does not tell */
	return lapic_is_pending(source->arch_number);
}

/* A line is let go of when it has been delivered as often as "argument" says, so that its end of interrupt finds it up.
 * A PC's vCPU has one timer only: the heartbeat gets it back. */
uint8_t arch_irq_before_log(struct cpu *cpu, struct irq_source *source)
{
	if (source->kind == IRQ_TIMER) {
		if (!(source->flags & IRQ_PERIODIC))
			lapic_timer_start();
		heartbeat_tick(cpu);
	}
	if ((source->kind != IRQ_LEVEL && source->kind != IRQ_EDGE && source->kind != IRQ_LEGACY) || source->line == IRQ_PIT)
		return 0;
	if (source->kind == IRQ_LEVEL && source->delivered < source->argument)
		return RECORD_ASSERTED;
	serial_line(port_of_line(source->line), false);
	return 0;
}

static void use_x2apic(struct cpu *cpu)
{
	(void)cpu;
	lapic_x2apic_on();
}

uint32_t arch_irq_command(uint16_t code, const uint8_t *payload, uint32_t size, struct reply *reply)
{
	(void)payload, (void)reply;
	if (code != CMD_X2APIC)
		return UNKNOWN_COMMAND;
	if (size)
		return IRQ_BAD;
	if (!(cpuid(1, 0).c >> 21 & 1))
		return IRQ_UNSUPPORTED;
	run_on_cpus(all_cpus(), use_x2apic);
	return IRQ_OK;
}

void arch_irq_end(const struct irq_source *source)
{
	if (source->kind == IRQ_LEGACY)
		pic_eoi(source->line);
	else
		lapic_eoi();
}
