/* Local APIC: interrupts between vCPUs and the heartbeat timer (Intel SDM volume 3, chapter 11). */
#include "x86.h"
#include "confidential.h"
#include "irq.h"

enum {
	REG_ID = 0x20, REG_TPR = 0x80, REG_EOI = 0xb0, REG_SPURIOUS = 0xf0, REG_ISR = 0x100, REG_IRR = 0x200, REG_ICR_LOW = 0x300, REG_ICR_HIGH = 0x310,
	REG_LVT_TIMER = 0x320, REG_LVT_LINT0 = 0x350, REG_LVT_LINT1 = 0x360, REG_TIMER_INITIAL = 0x380, REG_TIMER_CURRENT = 0x390,
	REG_TIMER_DIVIDE = 0x3e0, LVT_MASKED = 0x10000, LVT_NMI = 0x400, LVT_PERIODIC = 0x20000, DIVIDE_BY_1 = 0xb, ICR_PENDING = 0x1000,
	LVT_EXTINT = 0x700, LVT_TSC_DEADLINE = 0x40000,
};
enum { MSR_APIC_BASE = 0x1b, MSR_TSC_DEADLINE = 0x6e0, MSR_X2APIC = 0x800, X2APIC_ENABLE = 0xc00 };

/* Each vCPU has changed over, or has not. */
static bool x2apic[ARCH_MAX_CPUS];

static bool is_x2apic(void)
{
	return x2apic[arch_this_cpu()->index];
}

static volatile uint32_t *mapped(uint32_t offset)
{
	static uint64_t base;

	if (!base)
		base = rdmsr(MSR_APIC_BASE) & 0xffffff000ull;
	return (volatile uint32_t *)(base + offset);
}

static uint32_t get(uint32_t offset)
{
	return is_x2apic() ? (uint32_t)rdmsr(MSR_X2APIC + offset / 16) : *mapped(offset);
}

static void set(uint32_t offset, uint32_t value)
{
	if (is_x2apic())
		wrmsr(MSR_X2APIC + offset / 16, value);
	else
		*mapped(offset) = value;
}

/* The calling vCPU's, with interrupts off meanwhile (Intel SDM vol. 3, 11.12). */
void lapic_x2apic_on(void)
{
	uint64_t flags = arch_irq_save();

	wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | X2APIC_ENABLE);
	x2apic[arch_this_cpu()->index] = true;
	arch_irq_restore(flags);
}

uint32_t lapic_id(void)
{
	return is_x2apic() ? get(REG_ID) : get(REG_ID) >> 24;
}

void lapic_eoi(void)
{
	set(REG_EOI, 0);
}

void lapic_init(void)
{
	set(REG_TPR, 0);
	set(REG_LVT_LINT0, LVT_MASKED);
	set(REG_LVT_LINT1, LVT_NMI);
	set(REG_SPURIOUS, 0x100 | VECTOR_SPURIOUS);
}

void lapic_timer_start(void)
{
	set(REG_TIMER_DIVIDE, DIVIDE_BY_1);
	set(REG_LVT_TIMER, LVT_PERIODIC | VECTOR_TIMER);
	set(REG_TIMER_INITIAL, LAPIC_TIMER_NS);      /* QEMU's and KVM's APIC timers count nanoseconds */
}

void lapic_timer_stop(void)
{
	set(REG_LVT_TIMER, LVT_MASKED | VECTOR_TIMER);
	set(REG_TIMER_INITIAL, 0);
}

/* *ns* of the APIC timer's own clock, or of the TSC's, by the rate that was measured when interrupts were opened. */
void lapic_timer_arm(uint8_t vector, uint64_t ns, uint32_t is_deadline, bool periodic)
{
	lapic_timer_stop();
	if (is_deadline) {
		set(REG_LVT_TIMER, LVT_TSC_DEADLINE | vector);
		wrmsr(MSR_TSC_DEADLINE, arch_ticks() + ns * (irq_ticks_per_s / 1000000) / 1000);
		return;
	}
	set(REG_LVT_TIMER, (periodic ? LVT_PERIODIC : 0) | vector);
	set(REG_TIMER_INITIAL, (uint32_t)ns);
}

bool lapic_is_pending(uint32_t vector)
{
	return get(REG_IRR + vector / 32 * 0x10) >> vector % 32 & 1;
}

/* What the 8259A asserts comes in through LINT0, and brings its own vector. */
void lapic_accept_pic(void)
{
	set(REG_LVT_LINT0, LVT_EXTINT);
}

uint32_t lapic_timer_left_ns(void)
{
	return get(REG_TIMER_CURRENT);
}

void lapic_send(uint32_t apic_id, uint32_t command)
{
	/* The pair of writes must not be split by a handler that sends too. */
	uint64_t flags = arch_irq_save();

	if (is_x2apic()) {
		wrmsr(MSR_X2APIC + REG_ICR_LOW / 16, (uint64_t)apic_id << 32 | command);
		arch_irq_restore(flags);
		return;
	}
	set(REG_ICR_HIGH, apic_id << 24);
	set(REG_ICR_LOW, command);
	while (get(REG_ICR_LOW) & ICR_PENDING)
		arch_relax();
	arch_irq_restore(flags);
}

static void note_vectors(struct interrupts *list, enum interrupt_state state, uint32_t first)
{
	for (uint32_t vector = 0; vector < 256; vector++)
		if (get(first + vector / 32 * 0x10) >> vector % 32 & 1)
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
