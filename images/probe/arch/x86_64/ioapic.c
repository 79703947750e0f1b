/* I/O APIC (82093AA): the input of the command channel, and those of counted interrupts; the old PIC is masked. */
#include "x86.h"

enum { REDIRECTION = 0x10, ACTIVE_LOW = 0x2000, LEVEL = 0x8000, PIC_MASTER_MASK = 0x21, PIC_SLAVE_MASK = 0xa1, PINS = 24,
	MASKED = 0x10000, REMOTE_IRR = 0x4000 };

static void write(uint32_t index, uint32_t value)
{
	*(volatile uint32_t *)tables.ioapic_gpa = index;
	*(volatile uint32_t *)(tables.ioapic_gpa + 0x10) = value;
}

void ioapic_route(uint32_t gsi, uint8_t vector, uint32_t apic_id, uint16_t flags)
{
	uint32_t low = vector;

	low |= (flags & 3) == 3 ? ACTIVE_LOW : 0;
	low |= (flags >> 2 & 3) == 3 ? LEVEL : 0;
	outb(PIC_MASTER_MASK, 0xff);
	outb(PIC_SLAVE_MASK, 0xff);
	write(REDIRECTION + 2 * gsi + 1, apic_id << 24);
	write(REDIRECTION + 2 * gsi, low);
}

static uint32_t read(uint32_t index)
{
	*(volatile uint32_t *)tables.ioapic_gpa = index;
	return *(volatile uint32_t *)(tables.ioapic_gpa + 0x10);
}

/* A reset masks all of them (82093AA, 3.2.4), and firmware of a PC leaves them alone. */
void ioapic_interrupts(struct interrupts *list)
{
	for (uint32_t pin = 0; pin < PINS; pin++) {
		uint32_t entry = read(REDIRECTION + 2 * pin);

		if (entry & REMOTE_IRR)
			interrupts_note(list, INTERRUPT_ACTIVE, IOAPIC, pin);
		if (!(entry & MASKED))
			interrupts_note(list, INTERRUPT_ENABLED, IOAPIC, pin);
	}
}

void ioapic_set(uint32_t pin, uint8_t vector, uint32_t apic_id, bool is_level, bool masked)
{
	write(REDIRECTION + 2 * pin, MASKED);
	write(REDIRECTION + 2 * pin + 1, apic_id << 24);
	write(REDIRECTION + 2 * pin, vector | (is_level ? LEVEL : 0) | (masked ? MASKED : 0));
}

bool ioapic_is_masked(uint32_t pin)
{
	return read(REDIRECTION + 2 * pin) & MASKED;
}

void ioapic_mask(uint32_t pin, bool masked)
{
	uint32_t low = read(REDIRECTION + 2 * pin) & ~(uint32_t)MASKED;

	write(REDIRECTION + 2 * pin, low | (masked ? MASKED : 0));
}
