/* Devices on bus 0 by ECAM (PCI Express Base Specification, 7.2.2). No firmware has placed their BARs. */
#include "arm.h"

enum { ID = 0x00, COMMAND = 0x04, BAR0 = 0x10, CAPABILITIES = 0x34, SLOTS_ON_BUS = 32, SLOT_BYTES = 0x8000 };
enum { COMMAND_IO = 0x1, COMMAND_MEMORY = 0x2, COMMAND_MASTER = 0x4, BAR_IS_64BIT = 0x4, BAR_FLAGS = 0xf };
enum { CAP_MSIX = 0x11, MSIX_ENABLE = 1u << 31, MSIX_MASK_ALL = 1u << 30, MSIX_SIZE_SHIFT = 16, MSIX_SIZE = 0x7ff };

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

uint64_t pci_place_memory(uint64_t config, unsigned bar)
{
	uint64_t at = config + BAR0 + 4 * bar, gpa;
	uint32_t bytes;

	write32(at, ~0u);
	bytes = ~(read32(at) & ~(uint32_t)BAR_FLAGS) + 1;
	machine.mmio_used = (machine.mmio_used + bytes - 1) & ~((uint64_t)bytes - 1);
	if (!bytes || machine.mmio_used + bytes > machine.mmio_bytes)
		return 0;
	gpa = machine.mmio_gpa + machine.mmio_used;
	machine.mmio_used += bytes;
	write32(at, (uint32_t)gpa);
	if (read32(at) & BAR_IS_64BIT)
		write32(at + 4, 0);
	write32(config + COMMAND, read32(config + COMMAND) | COMMAND_MEMORY);
	return gpa;
}

/* Requester id, which an ITS takes for the device's: bus 0, slot, function 0. */
uint32_t pci_requester(uint64_t config)
{
	return (uint32_t)((config - machine.ecam_gpa) / SLOT_BYTES) << 3;
}

unsigned pci_enable_msix(uint64_t config)
{
	uint32_t at = read8(config + CAPABILITIES), head = 0;

	while (at && ((head = read32(config + at)) & 0xff) != CAP_MSIX)
		at = head >> 8 & 0xff;
	if (!at)
		return 0;
	write32(config + COMMAND, read32(config + COMMAND) | COMMAND_MASTER);
	write32(config + at, (head | MSIX_ENABLE) & ~MSIX_MASK_ALL);
	return (head >> MSIX_SIZE_SHIFT & MSIX_SIZE) + 1;
}
