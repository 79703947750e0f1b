/* One vPE: made resident by GICR_VPENDBASER (Arm IHI 0069, 12.11.40), run by the monitor at EL2, its virtual LPIs taken by
 * a guest that does nothing else. */
#include "vpe.h"
#include "monitor.h"
#include "irq.h"

enum { GICR_TYPER = 0x8, TYPER_VLPIS = 0x2, GICR_VPROPBASER = 0x20070, GICR_VPENDBASER = 0x20078 };
#define INNER_SHAREABLE_WRITE_BACK (1ull << 10 | 7ull << 7)
#define VPENDBASER_VALID (1ull << 63)
#define VPENDBASER_DIRTY (1ull << 60)
#define VPENDBASER_PENDING_LAST (1ull << 61)
#define PSTATE_EL1H_MASKED 0x3c5

static struct monitored vpe;
static struct cpu vpe_cpu = { .index = VPE_CPU };
static uint8_t vpe_stack[STACK_BYTES] __attribute__((aligned(STACK_BYTES)));
static volatile uint32_t is_created, host, is_held, is_resident, is_wanted;

bool vpe_is_possible(void)
{
	return arm_boot_el == 2 && machine.its_gpa && machine.cpus <= VPE_CPU &&
		read64(gic_redistributor(0) + GICR_TYPER) & TYPER_VLPIS;
}

static uint64_t pending_table(void)
{
	return lpi_block(machine.cpus);
}

void vpe_interrupt(void);
void vpe_interrupt(void)
{
	uint32_t intid = gic_acknowledge();

	if (intid >= INTID_SPECIAL && intid < LPI_FIRST)
		return;
	if (!irq_received(&vpe_cpu, intid, 0))
		irq_spurious(&vpe_cpu, intid);
	gic_end(intid);
}

static _Noreturn void guest_main(void)
{
	WRITE_REGISTER(ICC_PMR_EL1, ALL_PRIORITIES);
	WRITE_REGISTER(ICC_BPR1_EL1, 0);
	WRITE_REGISTER(ICC_CTLR_EL1, 0);
	WRITE_REGISTER(ICC_IGRPEN1_EL1, 1);
	barrier();
	arch_irq_on();
	for (;;)
		monitor_call();
}

bool vpe_create(unsigned on)
{
	if (!vpe_is_possible())
		return false;
	if (is_created) {
		host = on;
		its_move_vpe(on);
		return true;
	}
	*(struct cpu **)vpe_stack = &vpe_cpu;
	vpe.guest = (struct context){
		.pc = (uint64_t)guest_main, .pstate = PSTATE_EL1H_MASKED, .vbar = (uint64_t)monitor_guest_vectors,
		.sp_el1 = (uint64_t)vpe_stack + STACK_BYTES,
	};
	host = on;
	its_map_vpe(on, pending_table());
	is_created = 1;
	return true;
}

void vpe_want(void)
{
	is_wanted = 1;
}

bool vpe_is_due(const struct cpu *cpu)
{
	return is_created && is_wanted && !is_held && cpu->index == host;
}

static void make_resident(uint64_t gicr)
{
	write64(gicr + GICR_VPROPBASER, vlpi_configuration() | INNER_SHAREABLE_WRITE_BACK | (ID_BITS - 1));
	write64(gicr + GICR_VPENDBASER, pending_table() | INNER_SHAREABLE_WRITE_BACK | VPENDBASER_VALID);
	barrier();
	is_resident = 1;
}

/* Whether something was pending when it left. */
static bool make_absent(uint64_t gicr)
{
	uint64_t value;

	write64(gicr + GICR_VPENDBASER, read64(gicr + GICR_VPENDBASER) & ~VPENDBASER_VALID);
	do
		value = read64(gicr + GICR_VPENDBASER);
	while (value & VPENDBASER_DIRTY);
	is_resident = 0;
	return value & VPENDBASER_PENDING_LAST;
}

void vpe_hold(struct cpu *cpu, bool resident)
{
	is_held = 1;
	if (resident && is_created && cpu->index == host)
		make_resident(gic_redistributor(cpu->index));
}

void vpe_release(void)
{
	is_held = 0;
	vpe_want();
}

void vpe_slice(struct cpu *cpu)
{
	uint64_t gicr = gic_redistributor(cpu->index), why;

	is_wanted = 0;
	barrier();
	if (!is_resident)
		make_resident(gicr);
	do {
		arch_irq_off();
		why = monitor_run(&vpe);
		arch_irq_on();
		barrier();              /* what interrupted the guest is taken here */
	} while (why == MONITOR_INTERRUPTED);
	if (make_absent(gicr))
		vpe_want();
}

bool vpe_is_pending(uint32_t intid)
{
	return ((volatile uint8_t *)pending_table())[intid / 8] >> intid % 8 & 1;
}
