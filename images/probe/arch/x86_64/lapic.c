/* Local APIC: interrupts between vCPUs and the heartbeat timer (Intel SDM volume 3, chapter 11). */
#include "x86.h"
#include "confidential.h"

enum {
	REG_ID = 0x20, REG_TPR = 0x80, REG_EOI = 0xb0, REG_SPURIOUS = 0xf0, REG_ISR = 0x100, REG_IRR = 0x200, REG_ICR_LOW = 0x300, REG_ICR_HIGH = 0x310,
	REG_LVT_TIMER = 0x320, REG_LVT_LINT0 = 0x350, REG_LVT_LINT1 = 0x360, REG_TIMER_INITIAL = 0x380, REG_TIMER_CURRENT = 0x390,
	REG_TIMER_DIVIDE = 0x3e0, LVT_MASKED = 0x10000, LVT_NMI = 0x400, LVT_PERIODIC = 0x20000, DIVIDE_BY_1 = 0xb, ICR_PENDING = 0x1000,
};
enum { MSR_APIC_BASE = 0x1b };

static volatile uint32_t *reg(uint32_t offset)
{
	static uint64_t base;

	if (!base)
		base = rdmsr(MSR_APIC_BASE) & 0xffffff000ull;
	return (volatile uint32_t *)(base + offset);
}

uint32_t lapic_id(void)
{
	return *reg(REG_ID) >> 24;
}

void lapic_eoi(void)
{
	*reg(REG_EOI) = 0;
}

void lapic_init(void)
{
	*reg(REG_TPR) = 0;
	*reg(REG_LVT_LINT0) = LVT_MASKED;
	*reg(REG_LVT_LINT1) = LVT_NMI;
	*reg(REG_SPURIOUS) = 0x100 | VECTOR_SPURIOUS;
}

void lapic_timer_start(void)
{
	*reg(REG_TIMER_DIVIDE) = DIVIDE_BY_1;
	*reg(REG_LVT_TIMER) = LVT_PERIODIC | VECTOR_TIMER;
	*reg(REG_TIMER_INITIAL) = LAPIC_TIMER_NS;      /* QEMU's and KVM's APIC timers count nanoseconds */
}

uint32_t lapic_timer_left_ns(void)
{
	return *reg(REG_TIMER_CURRENT);
}

void lapic_send(uint32_t apic_id, uint32_t command)
{
	/* The pair of writes must not be split by a handler that sends too. */
	uint64_t flags = arch_irq_save();

	*reg(REG_ICR_HIGH) = apic_id << 24;
	*reg(REG_ICR_LOW) = command;
	while (*reg(REG_ICR_LOW) & ICR_PENDING)
		arch_relax();
	arch_irq_restore(flags);
}

static void note_vectors(struct interrupts *list, enum interrupt_state state, uint32_t first)
{
	for (uint32_t vector = 0; vector < 256; vector++)
		if (*reg(first + vector / 32 * 0x10) >> vector % 32 & 1)
			interrupts_note(list, state, 0, vector);
}

void lapic_interrupts(struct interrupts *list)
{
	note_vectors(list, INTERRUPT_PENDING, REG_IRR);
	note_vectors(list, INTERRUPT_ACTIVE, REG_ISR);
}

/* To the calling vCPU itself. */
void lapic_pend(uint8_t first, unsigned vectors)
{
	for (unsigned i = 0; i < vectors; i++)
		lapic_send(lapic_id(), IPI_FIXED | (first + i));
}
