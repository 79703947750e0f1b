/* What the device tree of QEMU's virt machine tells (QEMU hw/arm/virt.c, create_fdt and below). */
#include "confidential.h"
#include "arm.h"
#include "fdt.h"

struct machine machine;

enum { SPI_FIRST = 32, PPI_FIRST = 16, INTERRUPT_CELLS = 3, TIMER_PHYSICAL = 1, TIMER_VIRTUAL = 2, MAP_CELLS = 10, PIN_A = 1 };
enum { RANGE_CELLS = 7, SPACE_IO = 1, SPACE_MEMORY_32 = 2 };

static void read_cpu(const struct fdt_node *node)
{
	uint64_t size;

	if (machine.cpus < ARCH_MAX_CPUS && fdt_reg(node, 0, &machine.mpidr[machine.cpus], &size))
		machine.cpus++;
}

static void read_gic(const struct fdt_node *node)
{
	uint64_t size;

	fdt_reg(node, 0, &machine.distributor_gpa, &size);
	fdt_reg(node, 1, &machine.redistributor_gpa, &machine.redistributor_bytes);
}

/* interrupt-map: child address (3), pin, the GIC's phandle, its address (2), type, number, flags. */
static void read_interrupt_map(struct fdt_property map)
{
	for (unsigned at = 0; (at + MAP_CELLS) * 4 <= map.size; at += MAP_CELLS) {
		uint64_t slot = fdt_number(map, at, 1) >> 11 & 0x1f;

		if (fdt_number(map, at + 3, 1) == PIN_A && slot < PCI_SLOTS)
			machine.pci_intid[slot] = SPI_FIRST + (uint32_t)fdt_number(map, at + 8, 1);
	}
}

/* ranges: PCI address (3), CPU address (2), size (2). */
static void read_pci(const struct fdt_node *node)
{
	struct fdt_property ranges = fdt_get(node, "ranges");
	uint64_t size;

	fdt_reg(node, 0, &machine.ecam_gpa, &size);
	read_interrupt_map(fdt_get(node, "interrupt-map"));
	for (unsigned at = 0; (at + RANGE_CELLS) * 4 <= ranges.size; at += RANGE_CELLS) {
		uint64_t space = fdt_number(ranges, at, 1) >> 24 & 3, gpa = fdt_number(ranges, at + 3, 2);

		if (space == SPACE_IO)
			machine.pio_gpa = gpa;
		if (space == SPACE_MEMORY_32) {
			machine.mmio_gpa = gpa;
			machine.mmio_bytes = fdt_number(ranges, at + 5, 2);
		}
	}
}

/* interrupts: type, number, flags, for each. */
static uint32_t interrupt_of(const struct fdt_node *node, uint32_t first, unsigned index)
{
	return first + (uint32_t)fdt_number(fdt_get(node, "interrupts"), index * INTERRUPT_CELLS + 1, 1);
}

static void read_node(const struct fdt_node *node)
{
	uint64_t size;

	if (fdt_is(node, "device_type", "cpu"))
		read_cpu(node);
	if (fdt_is(node, "compatible", "arm,pl011") && !machine.uart_gpa) {
		fdt_reg(node, 0, &machine.uart_gpa, &size);
		machine.uart_intid = interrupt_of(node, SPI_FIRST, 0);
	}
	if (fdt_is(node, "compatible", "arm,pl031")) {
		fdt_reg(node, 0, &machine.rtc_gpa, &size);
		machine.rtc_intid = interrupt_of(node, SPI_FIRST, 0);
	}
	if (fdt_is(node, "compatible", "arm,gic-v3"))
		read_gic(node);
	if (fdt_is(node, "compatible", "arm,gic-v3-its"))
		fdt_reg(node, 0, &machine.its_gpa, &size);
	if (fdt_is(node, "compatible", "pci-host-ecam-generic"))
		read_pci(node);
	if (fdt_is(node, "compatible", "arm,armv8-timer")) {
		machine.timer_intid = interrupt_of(node, PPI_FIRST, TIMER_VIRTUAL);
		machine.physical_timer_intid = interrupt_of(node, PPI_FIRST, TIMER_PHYSICAL);
	}
	if (fdt_is(node, "compatible", "arm,psci-1.0"))
		machine.psci_by_smc = fdt_is(node, "method", "smc");
	if (fdt_get(node, "bootargs").value)
		settings_read((const char *)fdt_get(node, "bootargs").value);
	if (fdt_get(node, "rng-seed").value)
		machine.random = fdt_number(fdt_get(node, "rng-seed"), 0, 2);
}

void machine_read(const void *device_tree)
{
	struct fdt_node node;

	if (!fdt_begin(&node, device_tree))
		return;
	while (fdt_next(&node))
		read_node(&node);
}

void arch_find_memory(void *boot_info)
{
	struct fdt_node node;
	uint64_t start, size;

	if (!fdt_begin(&node, boot_info))
		console_line("no device tree at %x", (uint64_t)boot_info);
	while (fdt_next(&node))
		for (unsigned i = 0; fdt_is(&node, "device_type", "memory") && fdt_reg(&node, i, &start, &size); i++)
			memory_add_ram(start, start + size);
}
