/* Locality-specific interrupts: their configuration, one byte each and the same for all vCPUs, and per redistributor a
 * table of pending bits (Arm IHI 0069, 5.1). */
#include "its.h"

enum { GICR_CTLR = 0x0, GICR_PROPBASER = 0x70, GICR_PENDBASER = 0x78, CTLR_ENABLE_LPIS = 0x1, CTLR_RWP = 0x8 };
enum { BLOCK_BYTES = 0x10000, PENDING_BYTES = (1 << ID_BITS) / 8, LPI_ENABLED = 0x1, LPI_RES1 = 0x2, PRIORITY_BITS = 0xfc };
#define INNER_SHAREABLE_WRITE_BACK (1ull << 10 | 7ull << 7)

static uint64_t blocks;                 /* gpa of the first; aligned as GICR_PENDBASER wants it */
static uint8_t *configuration, *virtual_configuration;

bool its_reserve(void)
{
	uint64_t taken;

	if (!machine.its_gpa)
		return false;
	taken = (uint64_t)memory_take((uint64_t)BLOCK_BYTES * (machine.cpus + 2));
	blocks = (taken + BLOCK_BYTES - 1) & ~(uint64_t)(BLOCK_BYTES - 1);
	/* The rest of each block is free for other tables: the pending table takes its first 2 KiB. */
	configuration = (uint8_t *)lpi_block(0) + BLOCK_BYTES / 2;
	virtual_configuration = configuration + LPI_COUNT;
	return true;
}

uint64_t lpi_block(unsigned number)
{
	return blocks + (uint64_t)number * BLOCK_BYTES;
}

void lpi_enable(struct cpu *cpu)
{
	uint64_t gicr = gic_redistributor(cpu->index);

	write64(gicr + GICR_PROPBASER, (uint64_t)configuration | INNER_SHAREABLE_WRITE_BACK | (ID_BITS - 1));
	write64(gicr + GICR_PENDBASER, lpi_block(cpu->index) | INNER_SHAREABLE_WRITE_BACK);
	barrier();
	write32(gicr + GICR_CTLR, read32(gicr + GICR_CTLR) | CTLR_ENABLE_LPIS);
	barrier();
}

void lpi_disable(struct cpu *cpu)
{
	uint64_t gicr = gic_redistributor(cpu->index);

	write32(gicr + GICR_CTLR, read32(gicr + GICR_CTLR) & ~(uint32_t)CTLR_ENABLE_LPIS);
	while (read32(gicr + GICR_CTLR) & CTLR_RWP)
		arch_relax();
}

void lpi_forget(unsigned cpu)
{
	memset((void *)lpi_block(cpu), 0, PENDING_BYTES);
	barrier();
}

void lpi_configure(uint32_t intid, uint8_t priority, bool enabled)
{
	configuration[intid - LPI_FIRST] = (priority & PRIORITY_BITS) | LPI_RES1 | (enabled ? LPI_ENABLED : 0);
	barrier();
}

void vlpi_configure(uint32_t intid, uint8_t priority, bool enabled)
{
	virtual_configuration[intid - LPI_FIRST] = (priority & PRIORITY_BITS) | LPI_RES1 | (enabled ? LPI_ENABLED : 0);
	barrier();
}

uint64_t vlpi_configuration(void)
{
	return (uint64_t)virtual_configuration;
}
