/* GICv3 (Arm IHI 0069): distributor, redistributors, CPU interface by system registers. One security state is assumed
 * (GICD_CTLR.DS), as virt has it without secure=on, so group 0 is ours too. */
#include "arm.h"

enum { GICD_CTLR = 0x0, GICD_TYPER = 0x4, GICD_IGROUPR = 0x80, GICD_ISENABLER = 0x100, GICD_ICENABLER = 0x180, GICD_ISPENDR = 0x200 };
enum { GICD_ISACTIVER = 0x300, GICD_IPRIORITYR = 0x400, GICD_ICFGR = 0xc00, GICD_IROUTER = 0x6000, LOCAL_INTIDS = 32 };
enum { CTLR_GROUPS = 0x3, CTLR_ARE = 0x10, CTLR_RWP = 1u << 31 };
enum { GICR_TYPER = 0x8, GICR_WAKER = 0x14, GICR_SGI_FRAME = 0x10000, GICR_STRIDE = 0x20000, GICR_STRIDE_V4 = 0x40000 };
enum { WAKER_SLEEP = 0x2, WAKER_ASLEEP = 0x4, TYPER_VLPIS = 0x2, TYPER_LAST = 0x10 };
enum { PRIORITY = 0x20, PRIORITY_HALT = 0x00 };

static uint64_t affinity_of(uint64_t mpidr)
{
	return (mpidr >> 8 & 0xff000000) | (mpidr & 0xffffff);
}

static uint64_t redistributors[ARCH_MAX_CPUS];

static uint64_t find_my_redistributor(void)
{
	uint64_t me = affinity_of(READ_REGISTER(MPIDR_EL1)), at = machine.redistributor_gpa, typer;

	for (;; at += typer & TYPER_VLPIS ? GICR_STRIDE_V4 : GICR_STRIDE) {
		typer = read64(at + GICR_TYPER);
		if (typer >> 32 == me)
			return at;
		if (typer & TYPER_LAST || at >= machine.redistributor_gpa + machine.redistributor_bytes)
			console_line("no redistributor for affinity %x", me);
	}
}

uint64_t gic_redistributor(unsigned cpu)
{
	return redistributors[cpu];
}

static uint64_t my_redistributor(void)
{
	return redistributors[arch_this_cpu()->index];
}

void gic_init(void)
{
	write32(machine.distributor_gpa + GICD_CTLR, CTLR_ARE);
	while (read32(machine.distributor_gpa + GICD_CTLR) & CTLR_RWP)
		;
	write32(machine.distributor_gpa + GICD_CTLR, CTLR_ARE | CTLR_GROUPS);
}

static void wake_redistributor(uint64_t redistributor)
{
	write32(redistributor + GICR_WAKER, read32(redistributor + GICR_WAKER) & ~(uint32_t)WAKER_SLEEP);
	while (read32(redistributor + GICR_WAKER) & WAKER_ASLEEP)
		arch_relax();
}

void gic_init_cpu(void)
{
	uint64_t redistributor = find_my_redistributor(), sgis = redistributor + GICR_SGI_FRAME;

	redistributors[arch_this_cpu()->index] = redistributor;
	wake_redistributor(redistributor);
	write32(sgis + GICD_IGROUPR, ~(1u << SGI_HALT));
	for (uint32_t intid = 0; intid < 32; intid++)
		write8(sgis + GICD_IPRIORITYR + intid, intid == SGI_HALT ? PRIORITY_HALT : PRIORITY);
	WRITE_REGISTER(ICC_SRE_EL1, 7);
	barrier();
	WRITE_REGISTER(ICC_PMR_EL1, ALL_PRIORITIES);
	WRITE_REGISTER(ICC_BPR1_EL1, 0);
	WRITE_REGISTER(ICC_CTLR_EL1, 0);
	WRITE_REGISTER(ICC_IGRPEN0_EL1, 1);
	WRITE_REGISTER(ICC_IGRPEN1_EL1, 1);
	barrier();
	gic_enable_local(SGI_KICK);
	gic_enable_local(SGI_HALT);
}

void gic_enable_local(uint32_t intid)
{
	write32(my_redistributor() + GICR_SGI_FRAME + GICD_ISENABLER, 1u << intid);
}

void gic_route(uint32_t intid, uint64_t mpidr)
{
	uint64_t gicd = machine.distributor_gpa;
	uint32_t word = intid / 32 * 4, bit = 1u << intid % 32;

	write32(gicd + GICD_IGROUPR + word, read32(gicd + GICD_IGROUPR + word) | bit);
	write8(gicd + GICD_IPRIORITYR + intid, PRIORITY);
	write64(gicd + GICD_IROUTER + 8 * intid, mpidr & 0xff00ffffffull);
	write32(gicd + GICD_ISENABLER + word, bit);
}

/* Registers of SGIs and PPIs have the same offsets in a redistributor's second frame as those of SPIs in the distributor. */
static uint64_t frame_of(uint32_t intid, unsigned cpu)
{
	return intid < LOCAL_INTIDS ? redistributors[cpu] + GICR_SGI_FRAME : machine.distributor_gpa;
}

void gic_configure(uint32_t intid, unsigned cpu, uint8_t priority, bool edge)
{
	uint64_t frame = frame_of(intid, cpu), group = frame + GICD_IGROUPR + intid / 32 * 4;
	uint64_t trigger = frame + GICD_ICFGR + intid / 16 * 4;
	uint32_t bit = 2u << intid % 16 * 2;

	gic_enable(intid, cpu, false);
	write32(group, read32(group) | 1u << intid % 32);
	write8(frame + GICD_IPRIORITYR + intid, priority);
	write32(trigger, edge ? read32(trigger) | bit : read32(trigger) & ~bit);
	if (intid >= LOCAL_INTIDS)
		write64(frame + GICD_IROUTER + 8 * intid, machine.mpidr[cpu] & 0xff00ffffffull);
	barrier();
}

void gic_enable(uint32_t intid, unsigned cpu, bool enabled)
{
	write32(frame_of(intid, cpu) + (enabled ? GICD_ISENABLER : GICD_ICENABLER) + intid / 32 * 4, 1u << intid % 32);
	barrier();
}

void gic_set_pending(uint32_t intid, unsigned cpu)
{
	write32(frame_of(intid, cpu) + GICD_ISPENDR + intid / 32 * 4, 1u << intid % 32);
	barrier();
}

bool gic_is_pending(uint32_t intid, unsigned cpu)
{
	return read32(frame_of(intid, cpu) + GICD_ISPENDR + intid / 32 * 4) >> intid % 32 & 1;
}

uint32_t gic_acknowledge(void)
{
	uint32_t intid = (uint32_t)READ_REGISTER(ICC_IAR1_EL1);

	barrier();
	return intid;
}

void gic_end(uint32_t intid)
{
	WRITE_REGISTER(ICC_EOIR1_EL1, intid);
	barrier();
}

static uint64_t sgi_value(uint32_t sgi, uint64_t mpidr)
{
	uint64_t aff1 = mpidr >> 8 & 0xff, aff2 = mpidr >> 16 & 0xff, aff3 = mpidr >> 32 & 0xff, aff0 = mpidr & 0xff;

	return aff3 << 48 | aff0 / 16 << 44 | aff2 << 32 | (uint64_t)sgi << 24 | aff1 << 16 | 1u << aff0 % 16;
}

void gic_send(uint32_t sgi, uint64_t mpidr)
{
	__asm__ volatile("dsb ishst" : : : "memory");
	WRITE_REGISTER(ICC_SGI1R_EL1, sgi_value(sgi, mpidr));
	barrier();
}

void gic_halt_all_others(void)
{
	WRITE_REGISTER(ICC_SGI0R_EL1, 1ull << 40 | (uint64_t)SGI_HALT << 24);  /* IRM: all but this one */
	barrier();
}

static void note_words(struct interrupts *list, uint64_t frame, unsigned cpu, uint32_t first, uint32_t end)
{
	static const uint32_t banks[] = {
		[INTERRUPT_PENDING] = GICD_ISPENDR, [INTERRUPT_ACTIVE] = GICD_ISACTIVER, [INTERRUPT_ENABLED] = GICD_ISENABLER,
	};

	for (unsigned state = 0; state < sizeof banks / sizeof banks[0]; state++)
		for (uint32_t intid = first; intid < end; intid++)
			if (read32(frame + banks[state] + intid / 32 * 4) >> intid % 32 & 1)
				interrupts_note(list, (enum interrupt_state)state, cpu, intid);
}

/* Of all redistributors: no vCPU but this one has run since the reset. SPIs are the distributor's. */
void arch_interrupts(struct interrupts *list)
{
	uint32_t lines = ((read32(machine.distributor_gpa + GICD_TYPER) & 0x1f) + 1) * 32;
	uint64_t at = machine.redistributor_gpa;

	for (unsigned cpu = 0; cpu < machine.cpus; cpu++) {
		uint64_t typer = read64(at + GICR_TYPER);

		note_words(list, at + GICR_SGI_FRAME, cpu, 0, LOCAL_INTIDS);
		at += typer & TYPER_VLPIS ? GICR_STRIDE_V4 : GICR_STRIDE;
	}
	note_words(list, machine.distributor_gpa, DISTRIBUTOR, LOCAL_INTIDS, lines < INTID_SPECIAL ? lines : INTID_SPECIAL);
}

/* SGIs to the calling vCPU itself. */
void arch_pend_interrupts(void)
{
	for (uint32_t i = 0; i < SGIS_PENDED; i++)
		gic_send(SGI_PENDED + i, READ_REGISTER(MPIDR_EL1));
}
