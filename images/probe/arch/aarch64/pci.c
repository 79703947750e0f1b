/* Devices on bus 0 by ECAM (PCI Express Base Specification, 7.2.2). No firmware has placed their BARs. */
#include "arm.h"

enum { ID = 0x00, COMMAND = 0x04, BAR0 = 0x10, COMMAND_IO = 0x1, COMMAND_MEMORY = 0x2, SLOTS_ON_BUS = 32, SLOT_BYTES = 0x8000 };

uint64_t pci_find(uint16_t vendor, uint16_t device, uint32_t *intid)
{
	for (unsigned slot = 0; machine.ecam_gpa && slot < SLOTS_ON_BUS; slot++) {
		uint64_t config = machine.ecam_gpa + slot * SLOT_BYTES;

		if (read32(config + ID) != ((uint32_t)device << 16 | vendor))
			continue;
		*intid = machine.pci_intid[slot % PCI_SLOTS];
		return config;
	}
	return 0;
}

uint64_t pci_place_io(uint64_t config, unsigned bar)
{
	static uint32_t next = 0x1000;  /* low ports are taken for "not placed" by some */
	uint32_t port = next, bytes;

	write32(config + BAR0 + 4 * bar, ~0u);
	bytes = ~(read32(config + BAR0 + 4 * bar) & ~3u) + 1;
	port = (port + bytes - 1) & ~(bytes - 1);
	next = port + bytes;
	write32(config + BAR0 + 4 * bar, port);
	write32(config + COMMAND, read32(config + COMMAND) | COMMAND_IO);
	return machine.pio_gpa + port;
}

uint64_t pci_place_memory(uint64_t config)
{
	static uint64_t next;
	uint64_t gpa = next ? next : machine.mmio_gpa, bytes;

	write32(config + BAR0, ~0u);
	bytes = (uint32_t)(~(read32(config + BAR0) & ~0xfu) + 1);
	gpa = (gpa + bytes - 1) & ~(bytes - 1);
	next = gpa + bytes;
	write32(config + BAR0, (uint32_t)gpa);
	write32(config + COMMAND, read32(config + COMMAND) | COMMAND_MEMORY);
	return gpa;
}
